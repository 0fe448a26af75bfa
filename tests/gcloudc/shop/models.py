"""Rows that are entities."""

from typing import ClassVar

from django.db import models


class Customer(models.Model):
    """Somebody with a name that nobody else has."""

    name = models.CharField(max_length=100, unique=True)
    city = models.CharField(max_length=100, default="")
    age = models.IntegerField(default=0)
    balance = models.DecimalField(max_digits=9, decimal_places=2, default=0)
    since = models.DateTimeField(null=True)

    # Type checkers know the models of the other Django project only.
    objects: ClassVar[models.Manager["Customer"]] = models.Manager()


class Trace(models.Model):
    """What a deferred function left behind."""

    text = models.CharField(max_length=200)

    objects: ClassVar[models.Manager["Trace"]] = models.Manager()
