"""Models of the tests' application: what deferred functions are given, and where they leave their traces."""

import uuid

from django.db import models


class Customer(models.Model):
    """A row that calls refer to."""

    name = models.CharField(max_length=100)


class PremiumCustomer(Customer):
    """A child in multi-table inheritance."""

    discount = models.IntegerField(default=0)


class Parcel(models.Model):
    """A row whose primary key is no integer."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)


class Trace(models.Model):
    """What a deferred function leaves behind: the proof that it ran."""

    text = models.TextField()


class LoyalCustomer(Customer):
    """The same rows under another class."""

    class Meta:
        proxy = True


class Stamped(models.Model):
    """What several models have in common; has no rows of its own."""

    stamp = models.CharField(max_length=20, default="")

    class Meta:
        abstract = True


class Badge(Stamped):
    """A row whose primary key is a text."""

    code = models.CharField(primary_key=True, max_length=20)


class Order(models.Model):
    """A row with relations."""

    customer = models.ForeignKey(Customer, on_delete=models.CASCADE)
    referrer = models.ForeignKey(Customer, on_delete=models.CASCADE, null=True, related_name="+")


class Invoice(models.Model):
    """A row that belongs to one order."""

    order = models.OneToOneField(Order, on_delete=models.CASCADE)


class Reminder(models.Model):
    """A row three relations away from a customer."""

    invoice = models.ForeignKey(Invoice, on_delete=models.CASCADE)


class Reading(models.Model):
    """A row with a field of each kind that rows can be walked along, and some that they cannot."""

    level = models.BigIntegerField(default=0, db_index=True)
    label = models.CharField(max_length=100, default="")
    price = models.DecimalField(max_digits=12, decimal_places=2, default=0)
    exact = models.DecimalField(max_digits=30, decimal_places=2, default=0)
    taken = models.DateTimeField(null=True)
    serial = models.UUIDField(default=uuid.uuid4)
    raw = models.BinaryField(default=b"")
    ratio = models.FloatField(default=0.0)
    lasted = models.DurationField(null=True)
    changed = models.DateTimeField(auto_now=True)
    about = models.JSONField(default=dict)
    customer = models.ForeignKey(Customer, models.CASCADE, null=True, related_name="readings")
    tags = models.ManyToManyField(Badge)


class Seat(models.Model):
    """A row whose primary key has two parts."""

    pk = models.CompositePrimaryKey("row", "number")
    row = models.CharField(max_length=2)
    number = models.IntegerField()
    holder = models.CharField(max_length=20, default="")


class Undeleted(models.Manager["Draft"]):
    """Hides what is marked as deleted."""

    def get_queryset(self) -> models.QuerySet["Draft"]:
        """Only the others."""
        return super().get_queryset().filter(deleted=False)


class Draft(models.Model):
    """A row that its model's own manager may hide."""

    deleted = models.BooleanField(default=False)

    objects = Undeleted()
