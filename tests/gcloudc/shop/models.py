"""Rows that are entities."""

from typing import ClassVar
from uuid import uuid4

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


class Seat(models.Model):
    """Somebody else gives its integer keys."""

    number = models.BigIntegerField(primary_key=True)
    row = models.CharField(max_length=10, default="")

    objects: ClassVar[models.Manager["Seat"]] = models.Manager()


class Counter(models.Model):
    """A part of a sharded counter."""

    name = models.CharField(max_length=100, primary_key=True)
    count = models.IntegerField(default=0)

    objects: ClassVar[models.Manager["Counter"]] = models.Manager()


class Badge(models.Model):
    """Its key is a text, which is a name in Datastore."""

    code = models.CharField(max_length=100, primary_key=True)

    objects: ClassVar[models.Manager["Badge"]] = models.Manager()


class Reading(models.Model):
    """A field of each kind that can be walked along."""

    level = models.IntegerField(default=0)
    label = models.CharField(max_length=100, default="")
    slug = models.SlugField(default="")
    price = models.DecimalField(max_digits=12, decimal_places=2, default=0)
    ratio = models.FloatField(default=0.0)
    taken = models.DateTimeField(null=True)
    day = models.DateField(null=True)
    at = models.TimeField(null=True)
    lasted = models.DurationField(null=True)
    serial = models.UUIDField(null=True)
    raw = models.BinaryField(null=True)
    note = models.TextField(default="")
    is_open = models.BooleanField(default=False)
    customer = models.ForeignKey(Customer, null=True, on_delete=models.CASCADE)

    objects: ClassVar[models.Manager["Reading"]] = models.Manager()


class Shelf(models.Model):
    """Names the fields that are indexed, so that no other is."""

    aisle = models.IntegerField(default=0, db_index=True)
    height = models.IntegerField(default=0)
    depth = models.IntegerField(default=0)
    owner = models.ForeignKey(Customer, null=True, on_delete=models.CASCADE)

    objects: ClassVar[models.Manager["Shelf"]] = models.Manager()

    class Meta:
        """The other way to name one."""

        indexes: ClassVar[list[models.Index]] = [models.Index(fields=["depth"], name="shelf_depth")]


class Parcel(models.Model):
    """Its key is a UUID, which is a name in Datastore."""

    id = models.UUIDField(primary_key=True, default=uuid4)

    objects: ClassVar[models.Manager["Parcel"]] = models.Manager()
