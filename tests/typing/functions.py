"""Deferred functions of every shape, for the cases beside this file."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypedDict, TypeVar, Unpack, overload

from django.db.models import QuerySet

from safedefer import Serializable, deferrable, deferrable_queryset
from tests.site.shop.models import Customer, PremiumCustomer

T = TypeVar("T", bound=int | str)


class Row(TypedDict, total=False):
    sku: str
    qty: int


@deferrable
def noargs() -> None: ...


@deferrable_queryset("premium")
def premium(least: int, *, city: str = "") -> QuerySet[PremiumCustomer]:
    return PremiumCustomer.objects.filter(discount__gte=least)


@deferrable
def visit(customer: Customer, tag: str, dry: bool = False) -> None: ...


@deferrable
async def avisit(customer: Customer, tag: str, dry: bool = False) -> None: ...


@deferrable(batch=True)
def visit_page(customers: list[Customer], tag: str, dry: bool = False) -> None: ...


@deferrable
def visit_premium(customer: PremiumCustomer, tag: str, dry: bool = False) -> None: ...


@deferrable
def visited(tag: str, dry: bool = False) -> None: ...


@deferrable
def visited_otherwise(tag: int) -> None: ...


@deferrable
def add(a: int, b: str = "x") -> float:
    """Add doc."""
    return 1.0


@deferrable
def add2(a: int) -> None: ...


@deferrable(name="kwonly", version=2, queue="q", missing="retry")
def kwonly(a: int, *, b: str, c: bool = False) -> None: ...


@deferrable
def posonly(a: int, b: str, /, c: float = 1.0) -> None: ...


@deferrable
def varargs(*nums: int) -> None: ...


@deferrable
def varkw(a: int, **extra: str) -> None: ...


@deferrable
async def acoro(a: int) -> str:
    return ""


@deferrable
def ident(x: T, y: list[T]) -> T:
    return x


@deferrable(name="takes_models", batch=True)
def takes_models(customers: list[Customer], n: int = 0) -> None: ...


@deferrable
def takes_model(customer: Customer, n: int = 0) -> None: ...


@deferrable
def optional(a: int | None = None, when: datetime | None = None) -> None: ...


@deferrable
def unpacked(**row: Unpack[Row]) -> None: ...


@overload
def _over(x: int) -> int: ...
@overload
def _over(x: str, y: int) -> str: ...
def _over(x: int | str, y: int = 0) -> int | str:
    return x


over = deferrable(_over)


# A second deferrable of the same signature, and one that takes whatever can travel.
@deferrable(ledger=False)
async def acoro2(a: int) -> None: ...


@deferrable
def anything(value: Serializable, *, rest: Any = None) -> None: ...


class Svc:
    @staticmethod
    @deferrable
    def inner(a: int, b: str = "") -> None: ...
