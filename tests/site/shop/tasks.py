"""Deferrables of the tests' application; each leaves a trace."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Any

from safedefer import deferrable
from tests.site.shop.models import Customer, Parcel, Trace


class Color(Enum):
    """An enum that travels."""

    RED = "red"
    GREEN = "green"


@dataclass(frozen=True)
class Money:
    """A dataclass that travels."""

    amount: Decimal
    currency: str = "EUR"

    def __post_init__(self) -> None:
        """Refuse a negative amount."""
        if self.amount < 0:
            raise ValueError("negative")


def trace(*parts: object) -> None:
    """Leave a trace."""
    Trace.objects.create(text=" ".join(str(part) for part in parts))


@deferrable(name="shop.note")
def note(text: str) -> None:
    """Leave a text."""
    trace("note", text)


@deferrable(name="shop.forgetful", ledger=False)
def forgetful(text: str) -> None:
    """Leave a text as often as it is told."""
    trace("forgetful", text)


@deferrable(name="shop.add")
def add(left: int, right: int = 0, *, label: str = "") -> int:
    """Leave a sum."""
    trace("add", left + right, label)
    return left + right


@deferrable(name="shop.greet")
def greet(customer: Customer, greeting: str = "Hello") -> None:
    """Leave a greeting to a row."""
    trace("greet", greeting, customer.name)


@deferrable(name="shop.greet_or_wait", missing="retry")
def greet_or_wait(customer: Customer) -> None:
    """The same; the row may still come."""
    trace("greet", customer.name)


@deferrable(name="shop.greet_or_fail", missing="fail")
def greet_or_fail(customer: Customer) -> None:
    """The same; the row must be there."""
    trace("greet", customer.name)


@deferrable(name="shop.ship")
def ship(parcel: Parcel, customers: list[Customer], price: Money | None, color: Color, when: datetime) -> None:
    """Leave a trace of values of many kinds."""
    names = ",".join(customer.name for customer in customers)
    trace("ship", parcel.pk, names, price, color.name, when.isoformat())


@deferrable(name="shop.keep")
def keep(value: Any) -> None:
    """Leave whatever was given."""
    trace("keep", repr(value))


@deferrable(name="shop.fail")
def fail(secret: str) -> None:
    """Raise with an argument in the message."""
    raise RuntimeError(f"this message holds {secret}")


@deferrable(name="shop.leave")
def leave() -> None:
    """Try to end the process."""
    raise SystemExit(3)


@deferrable(name="shop.anote")
async def anote(text: str) -> None:
    """Leave a text from a coroutine function."""
    await Trace.objects.acreate(text=f"anote {text}")


@deferrable(name="shop.chain")
def chain(left: int) -> None:
    """Defer another call."""
    trace("chain", left)
    note.defer(f"after {left}")


class Office:
    """A class with a static method that may be deferred."""

    @staticmethod
    @deferrable(name="shop.office_note")
    def note(text: str) -> None:
        """Leave a text."""
        trace("office", text)
