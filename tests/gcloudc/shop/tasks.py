"""Deferrables that work on entities."""

from collections.abc import Callable
from typing import Any

from django.db.models import QuerySet

from safedefer import deferrable, deferrable_queryset, get_deferred_shard_index
from tests.gcloudc.shop import iterations  # noqa: F401  # Its functions are registered by that.
from tests.gcloudc.shop.models import Badge, Customer, Seat, Trace

visited: list[tuple[int | None, Any]] = []
"""Shard and primary key of each call of `visit`, which runs in a thread of the tests' process."""
finalized: list[str] = []
during: list[Callable[[Any], object]] = []
"""What the callback does besides, with the row."""


@deferrable(name="shop.note")
def note(text: str) -> None:
    """Leave a text."""
    Trace.objects.create(text=text)


@deferrable(name="shop.greet")
def greet(customer: Customer, greeting: str = "Hello") -> None:
    """Leave a greeting to a row."""
    Trace.objects.create(text=f"{greeting} {customer.name} of {customer.city}")


@deferrable(name="shop.visit")
def visit(row: Customer | Seat | Badge, greeting: str = "") -> None:
    """Remember that it was called, and do what the test wants."""
    for action in during:
        action(row)
    visited.append((get_deferred_shard_index(), row.pk))


@deferrable(name="shop.all_visited")
def all_visited(greeting: str = "") -> None:
    """Remember the end."""
    finalized.append(greeting)


@deferrable_queryset("shop.customers_of")
def customers_of(city: str) -> QuerySet[Customer]:
    """Those of a city."""
    return Customer.objects.filter(city=city)


@deferrable_queryset("shop.customers_older_than")
def customers_older_than(age: int) -> QuerySet[Customer]:
    """With an inequality, of which Datastore allows one."""
    return Customer.objects.filter(age__gt=age)
