"""Statements that every checker has to refuse, less the known gaps of `test_checkers.py`. One statement a line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import InitVar, dataclass
from datetime import datetime, timedelta
from enum import Enum, Flag, IntFlag
from io import TextIOWrapper
from typing import IO, Any, Generic, Literal, NamedTuple, NewType, NotRequired, ParamSpec, TypeAlias, TypedDict, TypeVar, Union, Unpack

from django.db.models import Model, QuerySet
from django.http import HttpRequest

from safedefer import DeferOptions, Deferrable, DeferredTask, adefer, defer, defer_iteration_with_finalize, deferrable
from tests.site.shop.models import Customer, Draft, Parcel
from tests.typing import functions as t
from tests.typing.functions import Svc

P = ParamSpec("P")
T = TypeVar("T")
Bad = TypeVar("Bad", int, HttpRequest)
Bound = TypeVar("Bound", bound=int)
now = datetime.now()
delta = timedelta(seconds=5)
parcel = Parcel()
opts: DeferOptions = {"_queue": "q", "_eta": now}
pair: tuple[int, str] = (1, "x")


class BadRow(TypedDict):
    sku: str
    request: HttpRequest


class Mode(Flag):
    READ = 1


class Access(IntFlag):
    READ = 1


@dataclass
class BadMoney:
    request: HttpRequest


@dataclass
class BadTree:
    children: list[BadTree]
    request: HttpRequest


@dataclass
class Secret:
    salt: InitVar[int]


@dataclass
class Box(Generic[Bound]):
    item: Bound


class BadPoint(NamedTuple):
    x: HttpRequest


class Pair(tuple[int, str]):
    pass


class Tree(TypedDict):
    children: list[Tree]


class Chain(TypedDict):
    next: NotRequired[Chain]


class Node(NamedTuple):
    children: list[Node]


class Color(Enum):
    RED = 1


class Other:
    class Color(Enum):
        RED = 1


class Whole(int):
    pass


UserId = NewType("UserId", int)
Json: TypeAlias = Union[int, list["Json"]]


# [plain]
defer(t.noargs, 1)
defer(t.add, "1")
defer(t.add)
defer(t.add, 1, b=2)
defer(t.add, 1, "x", 2)
defer(t.add, 1, c="x")
defer(t.add, 1, a=1)
defer(t.kwonly, 1)
defer(t.kwonly, 1, "x")
defer(t.kwonly, 1, b=None)
defer(t.posonly, a=1, b="x")
defer(t.takes_model, parcel)
defer(t.takes_models, parcel)
defer(t.takes_models, [parcel])
t.takes_models.defer(parcel)
defer(t.optional, when="today")
defer(t.optional, _a=1)
defer(t.anything, t)
defer(t.add, 1).created.nope
# [star]
defer(t.varargs, 1, "2")
defer(t.varkw, 1, foo=1)
defer(t.unpacked, sku=1)
# [async]
defer(t.acoro, "1")
async def co1() -> DeferredTask: return await defer(t.acoro, 1)
# [generic]
defer(t.ident, 1, 2)
defer(t.ident, None, [None])
# [overloaded]
defer(t.over, "x")
defer(t.over, 1, 2, 3)
# [static]
defer(Svc.inner, "1")
defer(Svc.inner, "1", b="x", _queue="q")
# [undecorated]
defer(len, "x")
defer(lambda: None)
defer(print, 1, _queue="q")
defer(Svc)
defer("tests.typing.functions.add", 1)
# [options]
defer(t.noargs, _queue=1)
defer(t.noargs, _eta="now")
defer(t.noargs, _qeue="q")
defer(t.noargs, queue="q")
defer(t.noargs, 1, _queue="q")
defer(t.noargs, _retry_options={})
defer(t.noargs, _service=1)
defer(t.noargs, _version=b"v")
defer(t.noargs, _instance=["i"])
defer(t.noargs, _wipe_related_caches="no")
defer(t.noargs, _name=b"n")
defer(t.noargs, _expires=5)
defer(t.noargs, _deadline=None)
defer(t.noargs, _transactional="yes")
defer(t.noargs, _using=1)
defer(t.noargs, _small_task="no")
defer(t.noargs, _raise_if_exists=None)
defer(t.add, "1", "x", _queue="q")
defer(t.add, 1, 2, _queue="q")
defer(t.add, 1, "x", 3, _queue="q")
defer(t.add, _queue="q")
defer(t.add, 1, "x", _countdown="5")
defer(t.takes_model, parcel, 1, _queue="q")
defer(t.acoro, "1", _queue="q")
defer(t.takes_model, parcel, _queue="q")
defer(t.varargs, 1, "2", _queue="q")
defer(t.over, "x", _queue="q")
# [mixed]
defer(t.add, 1, b=2, _queue="q")
defer(t.add, a="1", b="x", _queue="q")
defer(t.kwonly, 1, _queue="q")
defer(t.kwonly, 1, b=None, _queue="q")
defer(t.kwonly, 1, b="x", d=1, _queue="q")
defer(t.kwonly, 1, b="x", _queue=1)
defer(t.kwonly, 1, b="x", _qeue="q")
defer(t.optional, when="today", _eta=now)
defer(t.unpacked, sku=1, _queue="q")
defer(t.unpacked, sku="x", size=1, _queue="q")
defer(t.over, x="x", _queue="q")
# [dict]
defer(t.add, "1", **opts)
defer(t.kwonly, 1, b=2, **opts)
defer(t.add, *pair, 3)
# [indirect]
def w1(fn: Deferrable[Callable[P, Any]], *args: P.args, **kwargs: P.kwargs) -> DeferredTask: return defer(fn, *args)
def w2(fn: Deferrable[Callable[P, Any]], *args: P.args, **kwargs: P.kwargs) -> DeferredTask: return defer(fn, *args, _queue=1, **kwargs)
def w3(fn: Deferrable[Callable[[int], Any]]) -> DeferredTask: return defer(fn, "1", _queue="q")
def w4(fn: Deferrable[Callable[..., Any]]) -> DeferredTask: return defer(fn, 1, x=2, _queue=1)
def w6(flag: bool) -> DeferredTask: return defer(t.add if flag else t.add2, "1", _queue="q")
def w7(fn: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> DeferredTask: return defer(fn, *args, **kwargs)
def w9(fn: Deferrable[Callable[P, Any]], *args: P.args, **kwargs: P.kwargs) -> DeferredTask: return fn.options(queue=1).defer(*args, **kwargs)
w1(t.add, "1", b="x")
w3(t.kwonly)
# [adefer]
async def a1() -> DeferredTask: return await adefer(t.add, "1")
async def a2() -> DeferredTask: return await adefer(t.kwonly, 1, b=2, _queue="q")
async def a3() -> DeferredTask: return await adefer(t.add, 1, _qeue="q")
async def a4() -> DeferredTask: return adefer(t.add, 1)
async def a5() -> DeferredTask: return await t.add.adefer("1")
async def a6() -> None: adefer(t.add, 1)
async def a7() -> None: t.add.adefer(1)
async def a8() -> DeferredTask: return await adefer(t.over, "x", _queue="q")
async def a9() -> DeferredTask: return await adefer(t.noargs, _service=1)
async def a10() -> DeferredTask: return await adefer(len, "x")
# [call]
t.add("1")
t.kwonly(1)
_f5: str = t.add(1)
t.ident(1, 2)
t.over("x")
t.add(1, _queue="q")
# [as-callable]
_c1: Callable[[str], float] = t.add
_c2: list[float] = list(map(t.add, ["1"]))
_c5: Callable[[str], None] = Svc.inner
# [methods]
t.add.defer("1")
t.kwonly.defer(1)
t.add.defer(1, queue="q")
t.add.options(queue=1).defer(1)
t.add.options(qeue="q").defer(1)
t.add.options(queue="q").defer("1")
t.add.options("q").defer(1)
t.add.bind("1", "x")
t.kwonly.bind(1)
t.add.bind(1, "x", _queue="q")
t.add.options(service=1).defer(1)
t.add.defer(1, _queue="q")
t.unpacked.defer(sku=1)
Svc.inner.defer("1")
# [methods-generic]
t.ident.defer(1, 2)
t.over.defer("x")
t.over.options(queue="q").defer("x", "y")
async def m1() -> DeferredTask: return await t.ident.adefer(1, 2)
# [decorator]
deferrable(1)
deferrable(version="2")
deferrable(nam="x")
deferrable(name=1)
deferrable(missing="ignore")
deferrable(aliases="old")
# [iteration]
defer_iteration_with_finalize(Draft.objects.all(), t.visit, t.visited, "tag")
defer_iteration_with_finalize(Customer.objects.all(), t.visit_premium, t.visited, "tag")
defer_iteration_with_finalize(Customer.objects.all(), t.visit, t.visited, 1)
defer_iteration_with_finalize(Customer.objects.all(), t.visit, t.visited)
defer_iteration_with_finalize(Customer.objects.all(), t.visit, t.visited, "tag", extra=1)
defer_iteration_with_finalize(Customer.objects.all(), t.visit, t.visited_otherwise, "tag")
defer_iteration_with_finalize(Customer.objects.all(), t.visit, print, "tag")
defer_iteration_with_finalize([1], t.visit, t.visited, "tag")
t.premium.bind("3")

# [iteration-options]
defer_iteration_with_finalize(Customer.objects.all(), t.visit, t.visited, 1, _shards=3)
defer_iteration_with_finalize(Customer.objects.all(), t.visit, t.visited, "tag", _shards="3")
defer_iteration_with_finalize(Customer.objects.all(), t.visit, t.visited, "tag", _shrads=3)
defer_iteration_with_finalize(Customer.objects.all(), t.visit, t.visited, tag=1, _shards=3)
defer_iteration_with_finalize(Customer.objects.all(), t.visit, t.visited, "tag", _on_error="ignore")

# [lambda]
deferrable(lambda x: None)
deferrable(name="l1")(lambda: None)
# [method]
class K:
    @deferrable
    def m(self, a: int) -> None: ...
# [recursive]
@deferrable
def e0(a: Tree) -> None: ...
@deferrable
def e1(a: Chain) -> None: ...
@deferrable
def e2(a: list[Node]) -> None: ...
# [travel]
@deferrable
def s90(a: tuple[int, *tuple[str, ...]]) -> None: ...
@deferrable
def s0(a: HttpRequest) -> None: ...
@deferrable
def s1(a: int, b: Callable[[], None]) -> None: ...
@deferrable
def s2(a: IO[str]) -> None: ...
@deferrable
def s3(a: TextIOWrapper) -> None: ...
@deferrable
def s4(a: list[HttpRequest]) -> None: ...
@deferrable
def s5(a: int | HttpRequest) -> None: ...
@deferrable
def s6(a: QuerySet[Customer]) -> None: ...
@deferrable
def s7(a: BadRow) -> None: ...
@deferrable
def s8(a: object) -> None: ...
@deferrable
def s9(*a: HttpRequest) -> None: ...
@deferrable
def s10(**a: HttpRequest) -> None: ...
@deferrable
def s11(a: dict[int, str]) -> None: ...
@deferrable
def s12(a: type[int]) -> None: ...
@deferrable
def s13(a: T) -> None: ...
@deferrable
def s14(a: BadMoney) -> None: ...
@deferrable
def s15(a: Mode) -> None: ...
@deferrable(name="s16")
def s16(a: HttpRequest) -> None: ...
@deferrable
def s17(a: Model) -> None: ...
@deferrable
def s20(a) -> None: ...
@deferrable
def s21(a: int, _queue: str) -> None: ...
@deferrable
def s22(a: BadTree) -> None: ...
@deferrable
def s23(a: Secret) -> None: ...
@deferrable
def s24(a: Box[int]) -> None: ...
@deferrable
def s25(a: BadPoint) -> None: ...
@deferrable
def s26(a: Pair) -> None: ...
@deferrable
def s27(a: Color | Other.Color) -> None: ...
@deferrable
def s28(a: Literal[Color.RED]) -> None: ...
@deferrable
def s29(a: Access) -> None: ...
@deferrable
def s30(a: Whole) -> None: ...
@deferrable
def s31(a: UserId) -> None: ...
@deferrable
def s32(a: Bad) -> None: ...
@deferrable
def s33(a: Iterable[int]) -> None: ...
@deferrable
def s34(a: MutableMapping[str, int]) -> None: ...
@deferrable
def s35(a: complex) -> None: ...
@deferrable
def s36(a: bytearray) -> None: ...
@deferrable
def s37(a: type[Customer]) -> None: ...
@deferrable
def s38(a: dict[Any, int]) -> None: ...
@deferrable
def s39(a: tuple[int, HttpRequest]) -> None: ...
@deferrable
def s40(**row: Unpack[BadRow]) -> None: ...
@deferrable
def s41(a: Json) -> None: ...
@deferrable
def s42(__a: int) -> None: ...
@deferrable(name="s43", ledger=False)
def s43(a: int, _b: str) -> None: ...
@deferrable(queue="q")
async def s44(a: object) -> None: ...
@deferrable
async def s45(a: Callable[..., Any] | None = None) -> None: ...
@deferrable
def s46(first: HttpRequest, /) -> None: ...
