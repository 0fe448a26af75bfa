"""Which fields and querysets can be walked, and what the others are told."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from django.db import models
from django.db.models.functions import RowNumber
from django.db.models.query import ModelIterable
from django.test.utils import isolate_apps

from safedefer.django.order_field import resolve_order_field, to_key
from safedefer.errors import InvalidKeyRangesError
from tests.site.shop.models import Badge, Customer, LoyalCustomer, PremiumCustomer, Reading


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("missing", r"Reading\.missing does not exist$"),
        ("customer__name", "needs a field of the model itself"),
        ("tags", "several values or no column"),
        ("changed", "auto_now"),
        ("about", "JSONField, whose values are not ordered"),
        ("exact", "30 digits, and SQLite keeps only 15"),
    ],
)
def test_field_that_cannot_order_a_walk_is_refused(name: str, problem: str) -> None:
    with pytest.raises(InvalidKeyRangesError, match=problem):
        resolve_order_field(Reading.objects.all(), name)


def test_relation_from_the_other_side_is_refused() -> None:
    with pytest.raises(InvalidKeyRangesError, match="several values"):
        resolve_order_field(Customer.objects.all(), "readings")


def test_decimals_of_any_size_are_exact_on_postgresql() -> None:
    assert resolve_order_field(Reading.objects.using("postgres"), "exact").key_type is Decimal


@pytest.mark.parametrize(
    ("queryset", "problem"),
    [
        (Customer.objects.all()[:5], "is sliced"),
        (Customer.objects.values("name"), r"values\(\)"),
        (Customer.objects.values_list("pk"), r"values\(\)"),
        (Customer.objects.all().union(Customer.objects.all()), "union"),
        (Customer.objects.select_for_update(), "select_for_update"),
        (Customer.objects.order_by("name").distinct("name"), "distinct"),
        (Customer.objects.annotate(at=models.Window(RowNumber())).filter(at=1), "window function"),
    ],
)
def test_queryset_that_cannot_be_walked_is_refused(queryset: Any, problem: str) -> None:
    with pytest.raises(InvalidKeyRangesError, match=problem):
        resolve_order_field(queryset)


@pytest.mark.parametrize(
    ("model", "name", "resolved", "unique", "key_type"),
    [
        (Customer, "id", "pk", True, int),
        (Customer, "pk", "pk", True, int),
        (PremiumCustomer, "pk", "pk", True, int),
        (PremiumCustomer, "customer_ptr", "pk", True, int),
        (PremiumCustomer, "name", "name", False, str),
        (LoyalCustomer, "pk", "pk", True, int),
        (Badge, "code", "pk", True, str),
        (Reading, "customer", "customer_id", False, int),
        (Reading, "customer_id", "customer_id", False, int),
        (Reading, "level", "level", False, int),
    ],
)
def test_field_is_found_by_any_of_its_names(
    model: type[models.Model], name: str, resolved: str, unique: bool, key_type: type
) -> None:
    order = resolve_order_field(model._default_manager.all(), name)
    assert (order.name, order.unique, order.key_type, order.is_pk) == (resolved, unique, key_type, resolved == "pk")


@isolate_apps("tests.site.shop")
def test_composite_primary_key_is_refused() -> None:
    class Pair(models.Model):
        pk = models.CompositePrimaryKey("left", "right")
        left = models.IntegerField()
        right = models.IntegerField()

        class Meta:
            app_label = "shop"

    with pytest.raises(InvalidKeyRangesError, match="composite"):
        resolve_order_field(Pair._default_manager.all())


@isolate_apps("tests.site.shop")
def test_decimals_without_a_number_of_digits_are_refused_on_sqlite() -> None:
    class Weight(models.Model):
        grams = models.DecimalField()

        class Meta:
            app_label = "shop"

    with pytest.raises(InvalidKeyRangesError, match="any number of digits, and SQLite keeps only 15"):
        resolve_order_field(Weight._default_manager.all(), "grams")
    assert resolve_order_field(Weight._default_manager.using("postgres"), "grams").key_type is Decimal


def test_members_of_choices_become_plain_values() -> None:
    class Level(models.IntegerChoices):
        LOW = 1

    class Name(models.TextChoices):
        ANNA = "anna"

    assert type(to_key(resolve_order_field(Reading.objects.all(), "level").field, Level.LOW)) is int
    key = to_key(resolve_order_field(Reading.objects.all(), "label").field, Name.ANNA)
    assert (type(key), key) == (str, "anna")


class Picky(ModelIterable):  # type: ignore[type-arg]  # It takes none at run time.
    """As of a queryset class that leaves out what it cannot make."""

    def __iter__(self) -> Iterator[Any]:
        yield from (row for row in super().__iter__() if row.name)


def test_queryset_that_may_leave_rows_out_as_it_makes_them_is_refused() -> None:
    rows: Any = Customer.objects.all()
    rows._iterable_class = Picky
    with pytest.raises(InvalidKeyRangesError, match=r"makes its rows in a way of its own \(Picky\)"):
        resolve_order_field(rows)
    with pytest.raises(InvalidKeyRangesError, match=r"that uses values\(\) cannot"):
        resolve_order_field(Customer.objects.values("name"))
