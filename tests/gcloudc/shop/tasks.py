"""Deferrables that work on entities."""

from safedefer import deferrable
from tests.gcloudc.shop.models import Customer, Trace


@deferrable(name="shop.note")
def note(text: str) -> None:
    """Leave a text."""
    Trace.objects.create(text=text)


@deferrable(name="shop.greet")
def greet(customer: Customer, greeting: str = "Hello") -> None:
    """Leave a greeting to a row."""
    Trace.objects.create(text=f"{greeting} {customer.name} of {customer.city}")
