"""Statements that every checker has to accept, less the known gaps of `test_checkers.py`. One statement a line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from functools import partial
from typing import Any, Literal, NamedTuple, ParamSpec, TypedDict, TypeVar, assert_type
from uuid import UUID

from safedefer import DeferOptions, Deferrable, DeferredTask, Serializable, adefer, defer, deferrable
from tests.site.shop.models import Customer, PremiumCustomer
from tests.typing import functions as t
from tests.typing.functions import Svc

P = ParamSpec("P")
N = TypeVar("N", int, str)
now = datetime.now()
delta = timedelta(seconds=5)
customer = Customer(name="a")
premium = PremiumCustomer(name="b")
opts: DeferOptions = {"_queue": "q", "_eta": now}
pair: tuple[int, str] = (1, "x")


class Color(Enum):
    RED = 1


class Level(IntEnum):
    LOW = 1


class Point(NamedTuple):
    x: int
    y: int


class Row(TypedDict):
    sku: str
    tags: list[str]


@dataclass
class Money:
    amount: Decimal
    parts: list[Money] | None = None


# [plain]
defer(t.noargs)
defer(t.add, 1)
defer(t.add, 1, "x")
defer(t.add, 1, b="x")
defer(t.add, a=1, b="x")
defer(t.kwonly, 1, b="x")
defer(t.kwonly, a=1, b="x", c=True)
defer(t.posonly, 1, "x", 2.0)
defer(t.posonly, 1, "x", c=2.0)
defer(t.takes_model, customer, n=1)
defer(t.takes_model, customer=premium)
defer(t.optional, None, when=now)
# [star]
defer(t.varargs, 1, 2, 3)
defer(t.varargs)
defer(t.varkw, 1, foo="x")
defer(t.unpacked, sku="x", qty=1)
# [async]
defer(t.acoro, 1)
defer(t.acoro, a=1)
# [generic]
defer(t.ident, 1, [2])
defer(t.ident, x="1", y=["2"])
# [overloaded]
defer(t.over, 1)
defer(t.over, "x", 1)
# [static]
defer(Svc.inner, 1)
defer(Svc.inner, 1, b="x")
defer(Svc.inner, 1, b="x", _queue="q")
# [options]
defer(t.noargs, _queue="q")
defer(t.noargs, _eta=now, _name="n", _transactional=True)
defer(t.noargs, _countdown=5)
defer(t.noargs, _countdown=delta, _using="default")
defer(t.noargs, _expires=now, _deadline=30, _raise_if_exists=True, _small_task=True)
defer(t.add, 1, "x", _queue="q")
defer(t.add, 1, "x", _queue="q", _countdown=1.5)
defer(t.posonly, 1, "x", 2.0, _expires=delta, _deadline=delta)
defer(t.takes_model, customer, 1, _queue="q")
defer(t.acoro, 1, _queue="q")
defer(t.add, 1, _queue="q")
defer(t.takes_model, premium, _queue="q")
defer(t.optional, _queue="q")
defer(t.varargs, 1, 2, _queue="q")
defer(t.ident, 1, [2], _queue="q")
defer(t.over, "x", 1, _queue="q")
# [mixed]
defer(t.add, 1, b="x", _queue="q")
defer(t.add, a=1, b="x", _queue="q", _eta=now)
defer(t.kwonly, 1, b="x", _queue="q")
defer(t.kwonly, a=1, b="x", c=True, _countdown=delta)
defer(t.takes_model, customer=customer, n=1, _transactional=False)
defer(t.optional, when=now, _eta=now)
defer(t.varkw, 1, foo="x", _queue="q")
defer(t.acoro, a=1, _queue="q")
# [dict]
defer(t.add, 1, **opts)
defer(t.add, 1, "x", **opts)
defer(t.kwonly, 1, b="x", **opts)
defer(t.add, *pair)
defer(t.add, *pair, _queue="q")
# [indirect]
def w1(fn: Deferrable[Callable[P, Any]], *args: P.args, **kwargs: P.kwargs) -> DeferredTask: return defer(fn, *args, **kwargs)
def w2(fn: Deferrable[Callable[P, Any]], *args: P.args, **kwargs: P.kwargs) -> DeferredTask: return defer(fn, *args, _queue="q", **kwargs)
def w3(fn: Deferrable[Callable[[int], Any]]) -> DeferredTask: return defer(fn, 1, _queue="q")
def w4(fn: Deferrable[Callable[..., Any]]) -> DeferredTask: return defer(fn, 1, x=2, _queue="q")
def w5(fn: Any) -> DeferredTask: return defer(fn, 1, x=2, _queue="q")
def w6(flag: bool) -> DeferredTask: return defer(t.add if flag else t.add2, 1, _queue="q")
w1(t.add, 1, b="x")
w3(t.add)
# [adefer]
async def a1() -> DeferredTask: return await adefer(t.add, 1, "x")
async def a2() -> DeferredTask: return await adefer(t.add, 1, b="x")
async def a3() -> DeferredTask: return await adefer(t.add, 1, "x", _queue="q")
async def a4() -> DeferredTask: return await adefer(t.kwonly, 1, b="x", _queue="q")
async def a5() -> DeferredTask: return await t.add.adefer(1, b="x")
async def a6() -> DeferredTask: return await t.add.options(queue="q").adefer(1)
# [call]
_f1: float = t.add(1, "x")
_f2: float = t.add(1, b="x")
_f3: None = t.kwonly(1, b="x")
_f4: str = t.add.__name__
_g1: int = t.ident(1, [2])
_o1: str = t.over("x", 1)
# [as-callable]
_c1: Callable[[int], float] = t.add
_c2: list[float] = list(map(t.add, [1, 2]))
_c3: Callable[[int], float] = partial(t.add, b="x")
_c4: Callable[[int], int] = t.over
_c5: Callable[[int], None] = Svc.inner
# [methods]
t.add.defer(1, b="x")
t.kwonly.defer(1, b="x")
t.noargs.defer()
t.acoro.defer(a=1)
Svc.inner.defer(1, b="x")
t.add.options(queue="q").defer(1, b="x")
t.kwonly.options(eta=now, name="n").defer(1, b="x")
t.noargs.options(countdown=delta, expires=delta, deadline=15.5, small_task=True).defer()
# [results]
assert_type(defer(t.add, 1), DeferredTask)
assert_type(t.add(1), float)
assert_type(t.over("x", 1), str)
assert_type(t.ident(1, [2]), int)
assert_type(Svc.inner.defer(1), DeferredTask)
assert_type(defer(t.add, 1).created, bool | None)
# [travel]
@deferrable
def s0(a: int, b: str | None, c: list[int], d: dict[str, list[UUID]]) -> None: ...
@deferrable
def s1(a: Customer, b: Sequence[PremiumCustomer], c: Mapping[str, Decimal]) -> None: ...
@deferrable
def s2(a: Color, b: Point, c: tuple[int, ...], d: tuple[int, str], e: Level) -> None: ...
@deferrable
def s3(a: Row, b: Literal["x", 1]) -> None: ...
@deferrable
def s4(*a: int, **b: str) -> None: ...
@deferrable
def s5(a: Money, b: set[date], c: Serializable) -> None: ...
@deferrable
def s6(a: Any, b: dict[str, Any]) -> None: ...
@deferrable
def s7(a: N, b: list[N]) -> None: ...
@deferrable(name="s8", ledger=False)
def s8(a: frozenset[bytes], b: time, c: timedelta, d: AbstractSet[str]) -> None: ...
