"""Statements that every checker has to accept, less the known gaps of `test_checkers.py`. One statement a line."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import KW_ONLY, dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from functools import partial
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    Generic,
    Literal,
    NamedTuple,
    NotRequired,
    ParamSpec,
    TypeAlias,
    TypedDict,
    TypeVar,
    Unpack,
    assert_type,
)
from uuid import UUID

from django.db.models import QuerySet, TextChoices

from safedefer import Call, DeferOptions, Deferrable, DeferredTask, Iteration, RetryOptions, Serializable, adefer, defer
from safedefer import defer_iteration_with_finalize, defer_many, deferrable
from safedefer.key_ranges import sequential_int_key_ranges
from tests.site.shop.models import Customer, LoyalCustomer, PremiumCustomer, Stamped
from tests.typing import functions as t
from tests.typing.functions import Svc

P = ParamSpec("P")
R = TypeVar("R")
B = TypeVar("B", bound=int | str)
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


class Dot(Point):
    pass


OldPoint = collections.namedtuple("OldPoint", "x y")  # pyright: ignore[reportUntypedNamedTuple]


class Size(StrEnum):
    BIG = "big"


class State(TextChoices):
    NEW = "new", "New"


class Row(TypedDict):
    sku: str
    tags: list[str]
    note: NotRequired[Annotated[str, "seen by nobody"]]


@dataclass
class Money:
    amount: Decimal
    parts: list[Money] | None = None


class Wage(Money):
    pass


@dataclass(frozen=True, slots=True)
class Left:
    right: Right | None
    row: Row


@dataclass
class Right:
    left: Left | None
    _: KW_ONLY
    length: Final[int] = 0
    cache: object = field(init=False, default=None)
    shared: ClassVar[object] = None


@dataclass
class Box(Generic[B]):
    item: B


class Crate(TypedDict):
    loads: list[Load]


@dataclass
class Load:
    crate: Crate | None


Numbers: TypeAlias = list[int] | tuple[int, ...]


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
defer(t.takes_models, [customer], 1)
t.takes_models.defer([customer], n=1)
t.takes_models([customer])
defer(t.optional, None, when=now)
defer(t.anything, {"a": [1, (2.5, {"b"})]}, rest=customer)
# [star]
defer(t.varargs, 1, 2, 3)
defer(t.varargs)
defer(t.varkw, 1, foo="x")
defer(t.unpacked, sku="x", qty=1)
# [async]
defer(t.acoro, 1)
defer(t.acoro, a=1)
defer(t.acoro2, 1)
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
defer(t.noargs, _service="s", _version="v", _instance="i")
defer(t.add, 1, "x", _wipe_related_caches=False, _retry_options=RetryOptions(max_attempts=3))
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
defer(t.noargs, _deadline=delta, _raise_if_exists=False, _small_task=False)
# [mixed]
defer(t.add, 1, b="x", _queue="q")
defer(t.add, a=1, b="x", _queue="q", _eta=now)
defer(t.kwonly, 1, b="x", _queue="q")
defer(t.kwonly, a=1, b="x", c=True, _countdown=delta)
defer(t.takes_model, customer=customer, n=1, _transactional=False)
defer(t.optional, when=now, _eta=now)
defer(t.varkw, 1, foo="x", _queue="q")
defer(t.acoro, a=1, _queue="q")
defer(t.ident, x=1, y=[2], _queue="q")
defer(t.over, x="x", y=1, _queue="q")
defer(t.unpacked, sku="x", _queue="q")
defer(t.anything, [1, None], rest=now, _name="n")
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
def w7(fn: Callable[P, R]) -> Deferrable[Callable[P, R]]: return deferrable(fn)
def w8(fn: Callable[P, R]) -> Deferrable[Callable[P, R]]: return deferrable(name="w8", ledger=False)(fn)
def w9(fn: Deferrable[Callable[P, Any]], *args: P.args, **kwargs: P.kwargs) -> DeferredTask: return fn.options(queue="q").defer(*args, **kwargs)
async def w10(fn: Deferrable[Callable[P, Any]], *args: P.args, **kwargs: P.kwargs) -> DeferredTask: return await adefer(fn, *args, _queue="q", **kwargs)
def w11(fns: list[Deferrable[Callable[[int], Any]]]) -> list[DeferredTask]: return [fn.defer(1) for fn in fns]
w1(t.add, 1, b="x")
w3(t.add)
w9(t.kwonly, 1, b="x")
w11([t.add, t.acoro, t.acoro2])
# [adefer]
async def a1() -> DeferredTask: return await adefer(t.add, 1, "x")
async def a2() -> DeferredTask: return await adefer(t.add, 1, b="x")
async def a3() -> DeferredTask: return await adefer(t.add, 1, "x", _queue="q")
async def a4() -> DeferredTask: return await adefer(t.kwonly, 1, b="x", _queue="q")
async def a5() -> DeferredTask: return await t.add.adefer(1, b="x")
async def a6() -> DeferredTask: return await t.add.options(queue="q").adefer(1)
async def a7() -> DeferredTask: return await adefer(t.over, "x", 1, _queue="q")
async def a8() -> DeferredTask: return await adefer(t.ident, 1, [2])
async def a9() -> DeferredTask: return await adefer(t.noargs, _eta=now, _small_task=True)
async def a10() -> DeferredTask: return await adefer(t.add, 1, **opts)
# [call]
_f1: float = t.add(1, "x")
_f2: float = t.add(1, b="x")
_f3: None = t.kwonly(1, b="x")
_f4: str = t.add.__name__
_f5: object = t.noargs.__wrapped__()
async def c1() -> str: return await t.acoro(1)
_g1: int = t.ident(1, [2])
_o1: str = t.over("x", 1)
# [as-callable]
_c1: Callable[[int], float] = t.add
_c2: list[float] = list(map(t.add, [1, 2]))
_c3: Callable[[int], float] = partial(t.add, b="x")
_c4: Callable[[int], int] = t.over
_c5: Callable[[int], None] = Svc.inner
# [methods]
_calls: list[Call] = [t.add.bind(1, "x"), t.kwonly.bind(1, b="x"), t.add.options(queue="q").bind(1, "x")]
_many: list[DeferredTask] = defer_many(_calls)
defer_many(t.add.bind(number, "x") for number in range(3))
t.add.options(service="s", retry_options=RetryOptions(max_backoff=delta), wipe_related_caches=False).defer(1, "x")
t.add.defer(1, b="x")
t.kwonly.defer(1, b="x")
t.noargs.defer()
t.acoro.defer(a=1)
Svc.inner.defer(1, b="x")
t.add.options(queue="q").defer(1, b="x")
t.kwonly.options(eta=now, name="n").defer(1, b="x")
t.noargs.options(countdown=delta, expires=delta, deadline=15.5, small_task=True).defer()
t.noargs.options(deadline=delta, transactional=True, using="default", raise_if_exists=True).options(name="n").defer()
t.varkw.defer(1, foo="x")
t.unpacked.defer(sku="x")
t.anything.defer([1], rest=customer)
Svc.inner.options(queue="q").defer(1)
# [methods-generic]
t.ident.defer(1, [2])
t.ident.defer(x="1", y=["2"])
t.ident.options(queue="q").defer(1, [2])
t.over.defer(1)
t.over.defer("x", 1)
t.over.options(queue="q").defer("x", y=1)
async def m1() -> DeferredTask: return await t.ident.adefer(1, [2])
async def m2() -> DeferredTask: return await t.over.adefer("x", 1)
# [decorator]
_d1: Deferrable[Callable[[], None]] = deferrable(t.noargs.__wrapped__)
_d2: Deferrable[Callable[[], None]] = deferrable(name="d2", version=2, aliases=("d1",), missing="fail")(t.noargs.__wrapped__)
_d3: Deferrable[Callable[[], None]] = deferrable(queue="q", expires=delta, deadline=30, ledger=False)(t.noargs.__wrapped__)
# [results]
assert_type(defer(t.add, 1), DeferredTask)
assert_type(t.add(1), float)
assert_type(t.over("x", 1), str)
assert_type(t.ident(1, [2]), int)
assert_type(Svc.inner.defer(1), DeferredTask)
assert_type(defer(t.add, 1).created, bool | None)
assert_type(defer(t.add, 1, b="x", _queue="q"), DeferredTask)
async def r1() -> None: assert_type(await adefer(t.add, 1), DeferredTask)
async def r2() -> None: assert_type(await t.add.adefer(1), DeferredTask)
async def r3() -> None: assert_type(await t.acoro(1), str)
# [iteration]
defer_iteration_with_finalize(Customer.objects.all(), t.visit, t.visited, "tag")
defer_iteration_with_finalize(Customer.objects.filter(name="x"), t.visit, t.visited, tag="tag", dry=True)
defer_iteration_with_finalize(PremiumCustomer.objects.all(), t.visit, t.visited, "tag")
defer_iteration_with_finalize(t.premium.bind(3, city="x"), t.visit_premium, t.visited, "tag")
defer_iteration_with_finalize(t.premium(3), t.visit, t.visited, "tag")
defer_iteration_with_finalize(Customer.objects.all(), t.avisit, t.visited, "tag")
defer_iteration_with_finalize(Customer.objects.all(), t.visit_page, t.visited, "tag")
assert_type(defer_iteration_with_finalize(Customer.objects.all(), t.visit, t.visited, "tag"), Iteration)
assert_type(t.premium(3), QuerySet[PremiumCustomer, PremiumCustomer])

# [iteration-options]
defer_iteration_with_finalize(Customer.objects.all(), t.visit, t.visited, "tag", _shards=3, _queue="q", _on_error="skip")
defer_iteration_with_finalize(Customer.objects.all(), t.visit, t.visited, tag="tag", _shards=3, order_field="name")
defer_iteration_with_finalize(Customer.objects.all(), t.visit, t.visited, "tag", dry=True, _atomic="batch")
defer_iteration_with_finalize(Customer.objects.all(), t.visit, t.visited, "tag", key_ranges_getter=sequential_int_key_ranges)
defer_iteration_with_finalize(Customer.objects.all(), t.visit_page, t.visited, "tag", _deadline=timedelta(minutes=5))

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
@deferrable  # pyright: ignore[reportUnknownArgumentType]
def s9(a: list, b: dict, c: tuple, d: set, e: Sequence, f: Mapping) -> None: ...  # type: ignore[type-arg]  # pyright: ignore
@deferrable
def s10(a: tuple[()], c: Numbers, d: Annotated[int, "of it"]) -> None: ...
@deferrable
def s11(a: Dot, b: OldPoint, c: Size, d: State, e: Wage) -> None: ...
@deferrable
def s12(a: Left, b: list[Right] | Left, c: Crate, d: Load) -> None: ...
@deferrable
def s13(a: LoyalCustomer, b: Stamped | None, c: Customer | PremiumCustomer) -> None: ...
@deferrable
def s14(a: B, b: list[B], c: B | None) -> None: ...
@deferrable
def s15(a: Serializable | None, b: list[Serializable], c: dict[str, Serializable]) -> None: ...
@deferrable
def s16(**row: Unpack[Row]) -> None: ...
@deferrable
def s17(a: Literal[True, None, b"x"], /, b: bool = True, *, c: float = 1) -> None: ...
@deferrable
async def s18(a: UUID, b: datetime | date | None = None) -> None: ...
@deferrable(queue="q")
async def s19(a: Any) -> None: ...
