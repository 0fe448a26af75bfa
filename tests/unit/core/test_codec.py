"""Arguments and their one encoding."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any, Literal, NamedTuple, TypedDict
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedefer.core.codec import Arguments, decode_arguments, encode_arguments
from safedefer.core.function import RegisteredFunction
from safedefer.core.limits import MAX_DEPTH, MAX_NODES
from safedefer.core.signing import verify_body
from safedefer.core.wire import WireError, pack, unpack
from safedefer.errors import ArgumentsRefusedError, InvalidCallError, Reason, UnencodableArgumentError
from tests.support.builders import Row, Rows, make_envelope, verified


class Color(Enum):
    RED = "red"
    CRIMSON = "red"  # noqa: PIE796  # An alias, on purpose.
    GREEN = 2


class Level(IntEnum):
    LOW = 1


@dataclass
class Node:
    value: int
    children: list["Node"]


@dataclass(frozen=True)
class Money:
    amount: Decimal
    row: Row | None = None


class Point(NamedTuple):
    x: int
    y: float


class Options(TypedDict, total=False):
    retries: int
    label: str


def everything(
    a: int,
    b: str | None = None,
    /,
    c: float | list[int] = 1.0,
    *rest: bytes,
    d: dict[str, Money] | None = None,
    e: Color | Level = Color.RED,
    **more: Any,
) -> None: ...


def anything(value: Any) -> None: ...


def rows(one: Row, many: list[Row], maybe: dict[str, Row | None], money: Money) -> None: ...


def shapes(
    node: Node,
    point: Point,
    options: Options,
    pair: tuple[int, str],
    numbers: tuple[int, ...],
    tags: frozenset[str],
    word: Literal["a", 1, None, True],
) -> None: ...


def moments(a: datetime, b: date, c: time, d: timedelta, e: Decimal, f: UUID) -> None: ...


class Odd(tzinfo):
    """A time zone of a kind that nobody knows."""

    def utcoffset(self, moment: datetime | None) -> timedelta:
        return timedelta(0)

    def dst(self, moment: datetime | None) -> timedelta:
        return timedelta(0)

    def tzname(self, moment: datetime | None) -> str:
        return "odd"


UNCHECKED_MONEY: Any = Money
ODD = datetime(2026, 1, 1, tzinfo=Odd())


def round_trip(function: Callable[..., None], *args: Any, found: Rows | None = None, **kwargs: Any) -> Arguments:
    """Encode, sign, verify and decode a call; the body has to be its own encoding again."""
    parameters = RegisteredFunction(function).parameters
    resolver = found or Rows()
    body = encode_arguments(parameters, args, kwargs, resolver)
    decoded = decode_arguments(parameters, verify_body(verified(make_envelope(body=body))), resolver)
    arguments = decoded.build(resolver.resolve(decoded.references))
    assert encode_arguments(parameters, arguments.args, arguments.kwargs, resolver) == body
    return arguments


def same(first: Any, second: Any) -> bool:
    """Equal, of the same types, and NaN equal to itself."""
    if type(first) is not type(second):
        return False
    if isinstance(first, float):
        return first == second or (math.isnan(first) and math.isnan(second))
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, datetime):
        return repr(first) == repr(second)
    if isinstance(first, Decimal):
        return str(first) == str(second)
    return bool(first == second)


ZONES = st.one_of(
    st.none(),
    st.just(UTC),
    st.sampled_from(["Europe/Vienna", "UTC", "America/New_York"]).map(ZoneInfo),
    st.integers(-86_399, 86_399).map(lambda seconds: timezone(timedelta(seconds=seconds))),
)
ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(1 << 80), 1 << 80),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.datetimes(timezones=ZONES),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.decimals(),
    st.uuids(),
)
HASHABLE = st.one_of(st.integers(), st.text(max_size=5), st.binary(max_size=5), st.uuids())
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(max_size=5), inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.frozensets(HASHABLE, max_size=4),
        st.sets(HASHABLE, max_size=4),
    ),
    max_leaves=12,
)


@given(VALUES)
def test_any_value_comes_back_as_it_was(value: object) -> None:
    (back,) = round_trip(anything, value).args
    assert same(value, back)


@given(st.floats())
def test_any_float_comes_back_where_the_annotation_is_float(value: float) -> None:
    def takes(x: float) -> None: ...

    takes.__qualname__ = "takes"
    assert same(round_trip(takes, value).args[0], value)


@given(st.sets(st.one_of(st.integers(), st.text(max_size=4)), max_size=6), st.randoms())
def test_set_has_one_encoding_whatever_its_order(value: set[object], random: Any) -> None:
    parameters = RegisteredFunction(anything).parameters
    shuffled = list(value)
    random.shuffle(shuffled)
    assert encode_arguments(parameters, (set(shuffled),), {}, Rows()) == encode_arguments(
        parameters, (value,), {}, Rows()
    )


@given(st.binary(max_size=80))
def test_any_body_is_refused_or_is_its_own_encoding(data: bytes) -> None:
    parameters = RegisteredFunction(everything).parameters
    try:
        arguments = decode_arguments(parameters, verify_body(verified(make_envelope(body=data))), Rows()).build({})
    except ArgumentsRefusedError:
        return
    assert encode_arguments(parameters, arguments.args, arguments.kwargs, Rows()) == data


@given(VALUES, st.integers(0, 200), st.integers(0, 255))
def test_changed_body_is_refused_or_is_its_own_encoding(value: object, position: int, byte: int) -> None:
    parameters = RegisteredFunction(anything).parameters
    body = bytearray(encode_arguments(parameters, (value,), {}, Rows()))
    body[position % len(body)] = byte
    try:
        arguments = decode_arguments(parameters, verify_body(verified(make_envelope(body=bytes(body)))), Rows()).build(
            {}
        )
    except ArgumentsRefusedError:
        return
    assert encode_arguments(parameters, arguments.args, arguments.kwargs, Rows()) == bytes(body)


def test_every_kind_of_parameter_is_filled() -> None:
    money = {"x": Money(Decimal("1.50"))}
    arguments = round_trip(everything, 1, "b", [1, 2], b"r", b"s", d=money, e=Level.LOW, other=[None])
    assert arguments.args == (1, "b", [1, 2], b"r", b"s")
    assert arguments.kwargs == {"d": money, "e": Level.LOW, "other": [None]}


def test_classes_that_are_annotated_come_back_as_themselves() -> None:
    node = Node(1, [Node(2, []), Node(3, [Node(4, [])])])
    values = (node, Point(1, 2.5), {"label": "x"}, (1, "a"), (1, 2, 3), frozenset({"a", "b"}), True)
    arguments = round_trip(shapes, *values)
    assert all(map(same, arguments.args, values))


def test_moments_keep_their_zone_and_fold() -> None:
    late = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Vienna"), fold=1)
    values = (late, date(2026, 1, 2), time(1, 2, 3, 4), timedelta(-1, 5, 6), Decimal("1E+5"), UUID(int=5))
    arguments = round_trip(moments, *values)
    assert all(map(same, arguments.args, values))
    back: Any = arguments.args[0]
    assert back.fold == 1
    assert str(back.tzinfo) == "Europe/Vienna"


def test_alias_of_an_enum_member_is_the_member() -> None:
    def takes(color: Color) -> None: ...

    takes.__qualname__ = "takes"
    assert round_trip(takes, Color.CRIMSON).args == (Color.RED,)


def test_rows_travel_as_references_each_asked_for_once() -> None:
    first, second = Row(1), Row(("a", 2))
    found = Rows({1: first, ("a", 2): second})
    parameters = RegisteredFunction(rows).parameters
    args = (first, [first, second, first], {"x": None, "y": second}, Money(Decimal(1), first))
    body = encode_arguments(parameters, args, {}, found)
    decoded = decode_arguments(parameters, verify_body(verified(make_envelope(body=body))), found)
    assert [reference.key for reference in decoded.references] == [1, ("a", 2)]
    assert decoded.build(found.resolve(decoded.references)).args == args


@pytest.mark.parametrize(
    ("call", "path"),
    [
        (lambda: (anything, ([1, {"rows": [0, 1, 2, object()]}],), {}), 'args[0][1]["rows"][3]'),
        (lambda: (anything, ({"a": (1, {2})},), {}), None),
        (lambda: (anything, ({1: 2},), {}), "args[0]"),
        (lambda: (anything, (Color.RED,), {}), "args[0]"),
        (lambda: (anything, (Money(Decimal(1)),), {}), "args[0]"),
        (lambda: (anything, (Row(1),), {}), "args[0]"),
        (lambda: (anything, (float("nan"),), {}), "args[0]"),
        (lambda: (anything, ([float("inf")],), {}), "args[0][0]"),
        (lambda: (anything, (type("Text", (str,), {})("x"),), {}), "args[0]"),
        (lambda: (anything, (type("Number", (int,), {})(1),), {}), "args[0]"),
        (lambda: (anything, (bytearray(b"x"),), {}), "args[0]"),
        (lambda: (anything, (range(3),), {}), "args[0]"),
        (lambda: (anything, (print,), {}), "args[0]"),
        (lambda: (anything, (Exception,), {}), "args[0]"),
        (lambda: (everything, (1,), {"d": {"x": UNCHECKED_MONEY(1)}}), 'kwargs["d"]["x"].amount'),
        (lambda: (everything, ("1",), {}), "args[0]"),
        (lambda: (everything, (1.0,), {}), "args[0]"),
        (lambda: (everything, (1, 2), {}), "args[1]"),
        (lambda: (everything, (1, None, "x"), {}), "args[2]"),
        (lambda: (everything, (1, None, 1.0, "text"), {}), "args[3]"),
        (lambda: (everything, (1,), {"e": "red"}), 'kwargs["e"]'),
        (lambda: (everything, (1,), {"e": 1}), 'kwargs["e"]'),
        (lambda: (rows, (Row(None), [], {}, Money(Decimal(1))), {}), "args[0]"),
        (lambda: (rows, (Row(1), [Row(2), Row(None)], {}, Money(Decimal(1))), {}), "args[1][1]"),
        (lambda: (rows, (Row(1), [], {}, Money(Decimal(1), Row(None))), {}), "args[3].row"),
        (
            lambda: (moments, (ODD, date.min, time.min, timedelta(), Decimal(0), UUID(int=0)), {}),
            "args[0]",
        ),
    ],
)
def test_value_that_cannot_travel_is_refused_with_its_path(call: Callable[[], Any], path: str | None) -> None:
    function, args, kwargs = call()
    parameters = RegisteredFunction(function).parameters
    if path is None:
        encode_arguments(parameters, args, kwargs, Rows())
        return
    with pytest.raises(UnencodableArgumentError) as caught:
        encode_arguments(parameters, args, kwargs, Rows())
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((1, None, 1.0), {"c": 2.0}),
        ((), {"a": 1}),
        ((1,), {"b": None}),
    ],
)
def test_call_that_does_not_fit_is_refused(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    def strict(a: int, b: str | None = None, /, c: float = 1.0) -> None: ...

    strict.__qualname__ = "strict"
    with pytest.raises(InvalidCallError):
        encode_arguments(RegisteredFunction(strict).parameters, args, kwargs, Rows())


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth - 1):
        value = [value]
    return value


def test_depth_is_bounded_alike_on_both_sides() -> None:
    assert round_trip(anything, nested(MAX_DEPTH)).args
    with pytest.raises(UnencodableArgumentError, match="deeper"):
        round_trip(anything, nested(MAX_DEPTH + 1))
    parameters = RegisteredFunction(anything).parameters
    body = pack([[nested(MAX_DEPTH + 1)], {}])
    with pytest.raises(ArgumentsRefusedError) as caught:
        decode_arguments(parameters, verify_body(verified(make_envelope(body=body))), Rows())
    assert caught.value.reason is Reason.BODY_LIMITS


def test_value_that_contains_itself_is_refused() -> None:
    value: list[object] = []
    value.append(value)
    with pytest.raises(UnencodableArgumentError):
        round_trip(anything, value)
    node = Node(1, [])
    node.children.append(node)
    parameters = RegisteredFunction(shapes).parameters
    with pytest.raises(UnencodableArgumentError):
        encode_arguments(parameters, (node, Point(1, 1), {}, (1, ""), (), frozenset(), "a"), {}, Rows())


def test_number_of_values_is_bounded_alike_on_both_sides() -> None:
    with pytest.raises(UnencodableArgumentError, match="values"):
        round_trip(anything, [1] * (MAX_NODES + 1))
    assert round_trip(anything, [1] * 100_000).args[0] == [1] * 100_000


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\xcc\x01",
        b"\xcd\x00\x01",
        b"\xd0\x01",
        b"\xd9\x01a",
        b"\xda\x00\x01a",
        b"\xc5\x00\x01a",
        b"\xdc\x00\x01\x01",
        b"\xde\x00\x01\xa1a\x01",
        b"\xca\x3f\x80\x00\x00",
        b"\xc7\x01\x01a",
        b"\x82\xa1a\x01\xa1a\x01",
        b"\x81\x01\x01",
        b"\x81\xc4\x01a\x01",
        b"\x81\xc0\x01",
        b"\x01\x01",
        b"\x91",
        b"\xa1\xff",
        b"\xd6\xff\x00\x00\x00\x00",
        b"\xc7\x0c\xff" + b"\0" * 12,
        b"\x91" * 1_100 + b"\x01",
    ],
)
def test_only_the_shortest_encoding_is_read(data: bytes) -> None:
    with pytest.raises(WireError):
        unpack(data)
