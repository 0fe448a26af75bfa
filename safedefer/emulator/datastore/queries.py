"""Query evaluation: which entities match, in which order, between which cursors. Pure, over given entities."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import total_ordering
from operator import itemgetter
from typing import Any, Final, TypeAlias, final

from google.protobuf.message import DecodeError

from safedefer.emulator.datastore.failures import invalid, unsupported
from safedefer.emulator.datastore.keys import Element, EntityKey, parse_key
from safedefer.emulator.datastore.messages import Entity, Value
from safedefer.emulator.datastore.storage import Stored
from safedefer.emulator.datastore.values import SortKey, index_entries, sort_key

Row: TypeAlias = tuple[EntityKey, Stored]
Entry: TypeAlias = tuple[SortKey, Any]
"""One index entry: what it sorts by, and the value that it is made of."""
Entries: TypeAlias = Callable[[str], list[Entry]]
Test: TypeAlias = Callable[[Entries], bool]
Bound: TypeAlias = tuple[tuple[Element, ...], bool]
"""A path, and whether it belongs to the range itself."""

_KEY: Final = "__key__"
_SCATTER: Final = "__scatter__"
_LESS, _LESS_EQUAL, _GREATER, _GREATER_EQUAL, _EQUAL = 1, 2, 3, 4, 5
_IN, _NOT_EQUAL, _ANCESTOR, _NOT_IN = 6, 9, 11, 13
_INEQUALITIES: Final = frozenset({_LESS, _LESS_EQUAL, _GREATER, _GREATER_EQUAL, _NOT_EQUAL, _NOT_IN})
_AND, _OR = 1, 2
_DESCENDING: Final = 2
_MOST_IN: Final = {_IN: 30, _NOT_IN: 10}


@total_ordering
@final
class _Place:
    """Where a row stands among the results: its values in the order asked for, then its key."""

    __slots__ = ("parts",)

    def __init__(self, parts: list[tuple[Any, bool]]) -> None:
        self.parts = parts

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Place) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(tuple(part for part, _ in self.parts))

    def __lt__(self, other: "_Place") -> bool:
        for (mine, descending), (theirs, _) in zip(self.parts, other.parts, strict=True):
            if mine != theirs:
                return bool(theirs < mine) if descending else bool(mine < theirs)
        return False


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """One page of results.

    Attributes:
        rows: In order, each with the cursor behind it.
        skipped: How many results the offset passed over, and the cursor behind them.
        end_cursor: Behind the last row of the page.
        is_whole: Whether the page ends where the results end, or the limit.
        has_more: Whether there are results behind the limit.
    """

    rows: list[tuple[EntityKey, Stored, bytes]]
    skipped: int
    skipped_cursor: bytes
    end_cursor: bytes
    is_whole: bool
    has_more: bool


@final
class Query:
    """One query, checked and ready to be run.

    Raises:
        CallError: INVALID_ARGUMENT where it cannot be, UNIMPLEMENTED for what is not done here.
    """

    def __init__(self, message: Any, project: str, database: str, scatter_rate: float) -> None:
        self._project = project
        self._database = database
        self._scatter_rate = scatter_rate
        _refuse_unsupported(message)
        self.kind: str | None = message.kind[0].name if message.kind else None
        self.keys_only = bool(message.projection)
        self.low: Bound | None = None
        self.high: Bound | None = None
        self._inequalities: list[str] = []
        self._test: Test = lambda _: True
        if message.HasField("filter"):
            self._test = self._compile(message.filter, required=True)
        self._orders = [(order.property.name, order.direction == _DESCENDING) for order in message.order]
        if not self._orders and self._inequalities and self._inequalities[0] != _KEY:
            self._orders = [(self._inequalities[0], False)]
        self._start = self._parse_cursor(message.start_cursor)
        self._end = self._parse_cursor(message.end_cursor)
        self._start_cursor = message.start_cursor
        self._offset = message.offset
        self._limit: int | None = message.limit.value if message.HasField("limit") else None
        if self._offset < 0 or (self._limit is not None and self._limit < 0):
            raise invalid("an offset or limit that is negative")

    def matching(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows that match, whatever their order, cursors or limit."""
        return (row for _, row, _ in self._placed(rows))

    def run(self, rows: Iterable[Row], *, most: int, most_bytes: int) -> Answer:
        """Evaluate one page.

        Args:
            rows: The entities of the kind, within `low` and `high`.
            most: Rows of one page; at least one is given, whatever its size.
            most_bytes: Size of one page.
        """
        found = sorted(self._placed(rows), key=itemgetter(0))
        if self._start is not None:
            start = self._start
            found = [item for item in found if start < item[0]]
        if self._end is not None:
            end = self._end
            found = [item for item in found if not end < item[0]]
        skipped = found[: self._offset]
        found = found[self._offset :]
        allowed = len(found) if self._limit is None else min(self._limit, len(found))
        page: list[tuple[EntityKey, Stored, bytes]] = []
        size = 0
        for _, (key, stored), cursor in found[:allowed]:
            size += 64 if self.keys_only else stored.entity.ByteSize()
            if page and (len(page) >= most or size > most_bytes):
                break
            page.append((key, stored, cursor))
        skipped_cursor = skipped[-1][2] if skipped else b""
        end_cursor = page[-1][2] if page else skipped_cursor or self._start_cursor
        return Answer(page, len(skipped), skipped_cursor, end_cursor, len(page) == allowed, len(found) > allowed)

    def count(self, rows: Iterable[Row]) -> int:
        """How many results there are, within cursors, offset and limit."""
        whole = self.run(rows, most=1 << 62, most_bytes=1 << 62)
        return len(whole.rows)

    def _placed(self, rows: Iterable[Row]) -> Iterator[tuple[_Place, Row, bytes]]:
        for key, stored in rows:
            entries = self._entries_of(key, stored)
            if not self._test(entries):
                continue
            chosen: list[tuple[Entry, bool]] = []
            for name, descending in self._orders:
                values = entries(name)
                if not values:
                    break  # Without a value to sort by, it is not in the index that is read.
                chosen.append(((max if descending else min)(values, key=itemgetter(0)), descending))
            else:
                yield (
                    self._place([(entry[0], flag) for entry, flag in chosen], key),
                    (key, stored),
                    self._cursor(key, chosen),
                )

    def _place(self, parts: list[tuple[Any, bool]], key: EntityKey) -> _Place:
        backwards = bool(self._orders) and self._orders[-1][1]
        return _Place([*parts, (key.path, backwards)])

    def _cursor(self, key: EntityKey, chosen: list[tuple[Entry, bool]]) -> bytes:
        place = Entity(key=key.message())
        for index, ((_, value), _) in enumerate(chosen):
            place.properties[str(index)].CopyFrom(value)
        data: bytes = place.SerializeToString(deterministic=True)
        return data

    def _parse_cursor(self, cursor: bytes) -> _Place | None:
        if not cursor:
            return None
        try:
            place = Entity.FromString(cursor)
            parts = [
                (sort_key(place.properties[str(index)], self._project, self._database), descending)
                for index, (_, descending) in enumerate(self._orders)
            ]
            return self._place(parts, parse_key(self._project, self._database, place.key))
        except DecodeError:
            raise invalid("a cursor that is not of this query") from None

    def _entries_of(self, key: EntityKey, stored: Stored) -> Entries:
        def entries(name: str) -> list[Entry]:
            if name == _KEY:
                value = Value(key_value=key.message())
                return [(sort_key(value, self._project, self._database), value)]
            if name == _SCATTER:
                return self._scatter(key)
            if name not in stored.entity.properties:
                return []
            return list(index_entries(stored.entity.properties[name], self._project, self._database))

        return entries

    def _scatter(self, key: EntityKey) -> list[Entry]:
        """The hidden property of a part of all keys, chosen by their hash: always the same ones."""
        digest = hashlib.sha256(repr(key.path).encode()).digest()
        if int.from_bytes(digest[:4], "big") >= self._scatter_rate * (1 << 32):
            return []
        value = Value(blob_value=digest[4:12])
        return [(sort_key(value, self._project, self._database), value)]

    def _compile(self, message: Any, *, required: bool) -> Test:
        """A test for a filter.

        Args:
            required: Whether every result has to pass it, so that it may narrow the range of keys.
        """
        if message.WhichOneof("filter_type") == "property_filter":
            return self._compile_property(message.property_filter, required=required)
        composite = message.composite_filter
        if composite.op not in (_AND, _OR) or not composite.filters:
            raise invalid("a composite filter needs an operator and filters")
        all_of = composite.op == _AND
        tests = [self._compile(part, required=required and all_of) for part in composite.filters]
        if all_of:
            return lambda entries: all(test(entries) for test in tests)
        return lambda entries: any(test(entries) for test in tests)

    def _compile_property(self, message: Any, *, required: bool) -> Test:
        name, operator, value = message.property.name, message.op, message.value
        if operator == _ANCESTOR:
            return self._compile_ancestor(name, value)
        if operator in _MOST_IN:
            values = value.array_value.values
            if not 0 < len(values) <= _MOST_IN[operator]:
                raise invalid(f"an IN or NOT_IN of 1 to {_MOST_IN[operator]} values")
            wanted = {sort_key(part, self._project, self._database) for part in values}
            if operator == _IN:
                return lambda entries: any(entry in wanted for entry, _ in entries(name))
            self._inequalities.append(name)
            return lambda entries: any(entry not in wanted for entry, _ in entries(name))
        bound = sort_key(value, self._project, self._database)
        if operator in _INEQUALITIES:
            self._inequalities.append(name)
        if name == _KEY and required:
            self._narrow(operator, value)
        compare = _COMPARISONS.get(operator)
        if compare is None:
            raise invalid("an unknown operator")
        # An inequality compares with values of its own type alone.
        return lambda entries: any(
            compare(entry, bound) and (entry[0] == bound[0] or operator == _NOT_EQUAL) for entry, _ in entries(name)
        )

    def _compile_ancestor(self, name: str, value: Any) -> Test:
        if name != _KEY or value.WhichOneof("value_type") != "key_value":
            raise invalid("HAS_ANCESTOR compares __key__ with a key")
        ancestor = parse_key(self._project, self._database, value.key_value).path

        def test(entries: Entries) -> bool:
            ((_, key),) = entries(_KEY)
            path = parse_key(self._project, self._database, key.key_value).path
            return path[: len(ancestor)] == ancestor

        return test

    def _narrow(self, operator: int, value: Any) -> None:
        if value.WhichOneof("value_type") != "key_value":
            raise invalid("__key__ is compared with keys")
        path = parse_key(self._project, self._database, value.key_value).path
        if operator in (_GREATER, _GREATER_EQUAL, _EQUAL):
            self.low = (path, operator != _GREATER)
        if operator in (_LESS, _LESS_EQUAL, _EQUAL):
            self.high = (path, operator != _LESS)


_COMPARISONS: Final[dict[int, Callable[[SortKey, SortKey], bool]]] = {
    _LESS: lambda entry, bound: entry < bound,
    _LESS_EQUAL: lambda entry, bound: entry <= bound,
    _GREATER: lambda entry, bound: entry > bound,
    _GREATER_EQUAL: lambda entry, bound: entry >= bound,
    _EQUAL: lambda entry, bound: entry == bound,
    _NOT_EQUAL: lambda entry, bound: entry != bound,
}


def _refuse_unsupported(message: Any) -> None:
    if len(message.kind) > 1:
        raise invalid("a query has at most one kind")
    if message.kind and message.kind[0].name.startswith("__"):
        raise unsupported(f"queries of {message.kind[0].name}")
    if message.HasField("find_nearest"):
        raise unsupported("find_nearest")
    if message.distinct_on:
        raise unsupported("distinct_on")
    if [projection.property.name for projection in message.projection] not in ([], [_KEY]):
        raise unsupported("projections other than of __key__")
