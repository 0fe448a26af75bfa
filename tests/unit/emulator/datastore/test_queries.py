"""Query evaluation against an oracle that tries every value of every property."""

import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cmp_to_key
from typing import Any, Final, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedefer.emulator.datastore.entries import Index
from safedefer.emulator.datastore.failures import CallError
from safedefer.emulator.datastore.keys import EntityKey
from safedefer.emulator.datastore.messages import Entity, RunQueryRequest, Value
from safedefer.emulator.datastore.queries import Query, Result
from safedefer.emulator.datastore.storage import Storage
from tests.unit.emulator.datastore.values import KEYS_IN_ORDER, PARTITION, VALUES_IN_ORDER, key

LESS, LESS_EQUAL, GREATER, GREATER_EQUAL, EQUAL, IN, NOT_EQUAL, ANCESTOR, NOT_IN = 1, 2, 3, 4, 5, 6, 9, 11, 13
AND, OR = 1, 2
COMPARE: Final[Mapping[int, Callable[[Any, Any], object]]] = {
    LESS: operator.lt,
    LESS_EQUAL: operator.le,
    GREATER: operator.gt,
    GREATER_EQUAL: operator.ge,
    EQUAL: operator.eq,
    NOT_EQUAL: operator.ne,
}
NAMES: Final[tuple[str, ...]] = ("a", "b")
# A few values of each kind, so that they meet: null, a boolean, numbers, a time, a text, a blob, a key.
DOMAIN: Final = tuple(VALUES_IN_ORDER[number] for number in (0, 2, 3, 6, 7, 9, 10, 17, 22, 28, 31))

Rank: TypeAlias = int
"""Position in DOMAIN; the oracle compares nothing else."""
Row: TypeAlias = tuple[EntityKey, Mapping[str, tuple[Rank, ...]]]


@dataclass(frozen=True)
class Leaf:
    """A property filter. Of a key, `operand` is the key itself."""

    name: str
    operator: int
    operand: Any


@dataclass(frozen=True)
class Tree:
    """A composite filter."""

    operator: int
    parts: tuple["Leaf | Tree", ...]


Filter: TypeAlias = Leaf | Tree | None


@dataclass(frozen=True)
class Asked:
    """A query as the test sees it."""

    kind: str | None = "A"
    where: Filter = None
    orders: tuple[tuple[str, bool], ...] = ()
    projection: tuple[str, ...] = ()
    distinct: tuple[str, ...] = ()

    def message(self) -> Any:
        """As protobuf."""
        query = RunQueryRequest().query
        if self.kind is not None:
            query.kind.add(name=self.kind)
        if self.where is not None:
            fill_filter(query.filter, self.where)
        for name, descending in self.orders:
            query.order.add(direction=2 if descending else 1).property.name = name
        for name in self.projection:
            query.projection.add().property.name = name
        for name in self.distinct:
            query.distinct_on.add(name=name)
        return query


def fill_filter(message: Any, where: Leaf | Tree) -> None:
    if isinstance(where, Tree):
        message.composite_filter.op = where.operator
        for part in where.parts:
            fill_filter(message.composite_filter.filters.add(), part)
        return
    found = message.property_filter
    found.property.name, found.op = where.name, where.operator
    if where.name == "__key__":
        found.value.key_value.CopyFrom(where.operand.message())
    elif where.operator in (IN, NOT_IN):
        found.value.array_value.values.extend(DOMAIN[rank][-1] for rank in where.operand)
    else:
        found.value.CopyFrom(DOMAIN[where.operand][-1])


def store(rows: Sequence[Row]) -> Storage:
    storage = Storage()
    for entity_key, properties in rows:
        entity = Entity(key=entity_key.message())
        for name, ranks in properties.items():
            values = [DOMAIN[rank][0] for rank in ranks]
            if len(values) == 1:
                entity.properties[name].CopyFrom(values[0])
            else:
                entity.properties[name].array_value.values.extend(values)
                entity.properties[name].array_value.SetInParent()
        storage.version += 1
        storage.write(entity_key, entity, storage.version, 0.0)
    return storage


def passes(leaf: Leaf, row: Row, chosen: Mapping[str, Rank | None]) -> bool:
    """Whether a leaf holds, given the one value that each property's inequalities look at."""
    entity_key, properties = row
    if leaf.operator == ANCESTOR:
        return bool(entity_key.path[: len(leaf.operand.path)] == leaf.operand.path)
    if leaf.name == "__key__":
        mine: Any = KEYS_IN_ORDER.index(entity_key)
        operand: Any = KEYS_IN_ORDER.index(leaf.operand)
    else:
        if leaf.operator in (EQUAL, IN):
            wanted = leaf.operand if leaf.operator == IN else (leaf.operand,)
            return any(rank in wanted for rank in properties.get(leaf.name, ()))
        mine, operand = chosen[leaf.name], leaf.operand
        if mine is None:
            return False
    return mine not in operand if leaf.operator == NOT_IN else bool(COMPARE[leaf.operator](mine, operand))


def holds(where: Filter, row: Row, chosen: Mapping[str, Rank | None]) -> bool:
    if where is None:
        return True
    if isinstance(where, Leaf):
        return passes(where, row, chosen)
    return (all if where.operator == AND else any)(holds(part, row, chosen) for part in where.parts)


def leaves(where: Filter) -> Iterator[Leaf]:
    if isinstance(where, Leaf):
        yield where
    elif where is not None:
        for part in where.parts:
            yield from leaves(part)


Found: TypeAlias = tuple[EntityKey, tuple[Rank, ...]]
"""A result: its key, and the values that it shows."""


def expected(asked: Asked, rows: Sequence[Row]) -> list[Found]:
    """Every result in order, found by trying every combination of values."""
    shown_names = tuple(dict.fromkeys((*(n for n in asked.projection if n != "__key__"), *asked.distinct)))
    names: tuple[str, ...] = NAMES
    needed = {*shown_names, *(name for name, _ in asked.orders if name != "__key__")}
    best: dict[Found, tuple[Any, ...]] = {}
    compare: Callable[[Any], Any] = cmp_to_key(lambda one, other: compare_places(asked, one, other))
    for row in rows:
        entity_key, properties = row
        if asked.kind is not None and entity_key.kind != asked.kind:
            continue
        choices = [properties.get(name) or (() if name in needed else (None,)) for name in NAMES]
        for combination in itertools.product(*choices):
            chosen: dict[str, Rank | None] = dict(zip(names, combination, strict=True))
            if not holds(asked.where, row, chosen):
                continue
            position = KEYS_IN_ORDER.index(entity_key)
            ordered = tuple(position if name == "__key__" else chosen[name] for name, _ in asked.orders)
            shown = tuple(chosen[name] or 0 for name in shown_names)
            place = (ordered, shown, position)
            found = (entity_key, shown)
            if found not in best or compare(place) < compare(best[found]):
                best[found] = place
    results = sorted(best, key=lambda found: compare(best[found]))
    if not asked.distinct:
        return results
    first: dict[tuple[Rank, ...], Found] = {}
    for found in results:
        values = dict(zip(shown_names, found[1], strict=True))
        first.setdefault(tuple(values[name] for name in asked.distinct), found)
    return list(first.values())


def compare_places(asked: Asked, one: tuple[Any, ...], other: tuple[Any, ...]) -> int:
    for (_, descending), mine, theirs in zip(asked.orders, one[0], other[0], strict=True):
        if mine != theirs:
            return 1 if (mine > theirs) != descending else -1
    if one[1] != other[1]:
        return -1 if one[1] < other[1] else 1
    backwards = bool(asked.orders) and asked.orders[-1][1]
    return 0 if one[2] == other[2] else 1 if (one[2] > other[2]) != backwards else -1


def found_of(results: Sequence[Result]) -> list[Found]:
    ranks = {index(value): rank for rank, group in enumerate(DOMAIN) for value in group}
    return [(result.key, tuple(ranks[index(value)] for _, value in result.shown)) for result in results]


def index(value: Any) -> Any:
    return Index(PARTITION, 0.5).entry(value)[0]


def run(message: Any, storage: Storage, **options: Any) -> Any:
    query = Query(message, Index(PARTITION, 0.5))
    return query.run(storage.reader(PARTITION, query.kind, None), **options)


ranks = st.integers(0, len(DOMAIN) - 1)
properties = st.dictionaries(st.sampled_from(NAMES), st.lists(ranks, max_size=3).map(tuple))
tables = st.dictionaries(st.sampled_from(KEYS_IN_ORDER), properties, max_size=10).map(lambda table: list(table.items()))
key_leaves = st.builds(
    Leaf,
    st.just("__key__"),
    st.sampled_from([LESS, LESS_EQUAL, GREATER, GREATER_EQUAL, EQUAL, ANCESTOR]),
    st.sampled_from(KEYS_IN_ORDER),
)
value_leaves = st.one_of(
    st.builds(Leaf, st.sampled_from(NAMES), st.sampled_from([LESS, LESS_EQUAL, GREATER, GREATER_EQUAL, EQUAL]), ranks),
    st.builds(Leaf, st.sampled_from(NAMES), st.just(IN), st.lists(ranks, min_size=1, max_size=2).map(tuple)),
)
lone_leaves = st.one_of(
    st.builds(Leaf, st.sampled_from(NAMES), st.just(NOT_EQUAL), ranks),
    st.builds(Leaf, st.sampled_from(NAMES), st.just(NOT_IN), st.lists(ranks, min_size=1, max_size=3).map(tuple)),
)


def trees(parts: st.SearchStrategy[Leaf | Tree]) -> st.SearchStrategy[Leaf | Tree]:
    return st.builds(Tree, st.sampled_from([AND, OR]), st.lists(parts, min_size=1, max_size=3).map(tuple))


filters = st.one_of(
    st.none(),
    lone_leaves,
    st.recursive(st.one_of(value_leaves, key_leaves), trees, max_leaves=4),
)


@st.composite
def questions(draw: st.DrawFn) -> Asked:
    """A query whose order the service defines: an order is named wherever an inequality would bring one of its own."""
    where = draw(filters)
    used = list(leaves(where))
    equal = {leaf.name for leaf in used if leaf.operator in (EQUAL, IN)}
    free = [name for name in (*NAMES, "__key__") if name not in equal]
    orders = (
        draw(st.lists(st.tuples(st.sampled_from(free), st.booleans()), max_size=2, unique_by=lambda o: o[0]))
        if free
        else []
    )
    if orders and orders[0][0] == "__key__":
        orders = orders[:1]
    elif not orders and any(leaf.name in NAMES and leaf.operator not in (EQUAL, IN) for leaf in used):
        orders = [("__key__", False)]
    able = [name for name in NAMES if name not in equal]
    projection = draw(st.lists(st.sampled_from(able), unique=True).map(tuple)) if able else ()
    firsts = tuple(name for name, _ in orders if name in NAMES)
    distinct = draw(st.sampled_from([(), firsts, firsts[:1]]))
    if orders and orders[0][0] == "__key__":
        distinct = ()
    return Asked(where=where, orders=tuple(orders), projection=projection, distinct=distinct)


@given(tables, questions())
def test_query_finds_what_the_oracle_finds(rows: list[Row], asked: Asked) -> None:
    assert found_of(run(asked.message(), store(rows)).results) == expected(asked, rows)


@given(tables, questions(), st.integers(1, 3), st.integers(0, 4), st.integers(0, 12))
def test_pages_cursors_offset_and_limit_cut_one_and_the_same_list(
    rows: list[Row], asked: Asked, most: int, offset: int, limit: int
) -> None:
    storage = store(rows)
    whole = expected(asked, rows)
    message = asked.message()
    message.offset, message.limit.value = offset, limit
    seen: list[Found] = []
    answer = run(message, storage, most=most)
    while not answer.is_whole:
        seen += found_of(answer.results)
        message.offset -= answer.skipped
        message.limit.value -= len(answer.results)
        message.start_cursor = answer.end_cursor
        answer = run(message, storage, most=most)
    seen += found_of(answer.results)
    assert seen == whole[offset : offset + limit]
    assert answer.has_more == (len(whole) > offset + limit)


@given(tables, questions(), st.integers(0, 9))
def test_end_cursor_includes_what_it_is_behind(rows: list[Row], asked: Asked, number: int) -> None:
    storage = store(rows)
    message = asked.message()
    results = run(message, storage).results
    if number < len(results):
        message.end_cursor = results[number].cursor
        answer = run(message, storage)
        assert found_of(answer.results) == found_of(results[: number + 1])
        assert answer.is_cut == (len(results) > number + 1)


key_filters = st.one_of(
    st.none(), key_leaves, st.lists(key_leaves, min_size=1, max_size=3).map(lambda p: Tree(AND, tuple(p)))
)


@given(tables, key_filters, st.booleans(), st.sampled_from(["A", "B", None]), st.booleans())
def test_ranges_of_keys_read_what_the_oracle_finds(
    rows: list[Row], where: Filter, keys_only: bool, kind: str | None, backwards: bool
) -> None:
    projection = ("__key__",) if keys_only else ()
    asked = Asked(kind=kind, where=where, orders=(("__key__", backwards),), projection=projection)
    assert found_of(run(asked.message(), store(rows)).results) == expected(asked, rows)


def test_page_in_the_order_of_keys_reads_no_more_than_itself() -> None:
    storage = store([(key("A", number), {}) for number in range(1, 1_001)])
    read = []

    def scan(*bounds: Any) -> Iterator[Any]:
        for row in storage.reader(PARTITION, "A", None)(*bounds):
            read.append(row)
            yield row

    where = Leaf("__key__", GREATER, key("A", 500))
    message = Asked(where=where, orders=(("__key__", False),)).message()
    message.limit.value = 10
    answer = Query(message, Index(PARTITION, 0.5)).run(scan)
    assert [result.key for result in answer.results] == [key("A", number) for number in range(501, 511)]
    assert len(read) == 11


def test_alternative_without_the_value_of_an_inequality_is_found() -> None:
    rows: list[Row] = [(key("A", 1), {"a": (3,)}), (key("A", 2), {"b": (3,)})]
    where = Tree(OR, (Leaf("a", EQUAL, 3), Leaf("b", GREATER, 0)))
    assert [found[0] for found in found_of(run(Asked(where=where).message(), store(rows)).results)] == [
        key("A", 1),
        key("A", 2),
    ]


def test_order_by_what_is_equal_decides_nothing() -> None:
    rows: list[Row] = [(key("A", 1), {"a": (1, 5)}), (key("A", 2), {"a": (0, 5)})]
    asked = Asked(where=Leaf("a", EQUAL, 5), orders=(("a", False),))
    assert [found[0] for found in found_of(run(asked.message(), store(rows)).results)] == [key("A", 1), key("A", 2)]


@pytest.mark.parametrize(
    "where",
    [
        Tree(AND, (Leaf("a", NOT_EQUAL, 1), Leaf("b", NOT_EQUAL, 1))),
        Tree(AND, (Leaf("a", NOT_IN, (1,)), Leaf("b", IN, (1,)))),
        Tree(OR, (Leaf("a", NOT_IN, (1,)), Leaf("b", EQUAL, 1))),
        Leaf("a", IN, ()),
        Leaf("a", NOT_IN, (1,) * 11),
        Leaf("a", 99, 1),
        Leaf("a", ANCESTOR, 1),
        Leaf("", EQUAL, 1),
        Tree(99, (Leaf("a", EQUAL, 1),)),
        Tree(AND, ()),
        Tree(OR, (Leaf("a", EQUAL, 1),) * 31),
        Tree(AND, (Tree(OR, (Leaf("a", EQUAL, 1),) * 6),) * 2),
        Tree(AND, (Leaf("a", IN, (1,) * 6), Leaf("b", IN, (1,) * 6))),
    ],
)
def test_filter_that_the_service_refuses_is_refused(where: Leaf | Tree) -> None:
    with pytest.raises(CallError):
        run(Asked(where=where).message(), Storage())


def test_excluded_value_is_found_by_nothing() -> None:
    storage = Storage()
    entity = Entity(key=key("A", 1).message())
    entity.properties["a"].CopyFrom(Value(integer_value=1, exclude_from_indexes=True))
    storage.write(key("A", 1), entity, 1, 0.0)
    for asked in (Asked(where=Leaf("a", GREATER_EQUAL, 0)), Asked(orders=(("a", False),)), Asked(projection=("a",))):
        assert run(asked.message(), storage).results == []
