"""Query evaluation: which entities match, in which order, between which cursors. Pure, over given entities."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import total_ordering
from operator import attrgetter, itemgetter
from typing import Any, Final, TypeAlias, final

from google.protobuf.message import DecodeError

from safedefer.emulator.datastore.entries import KEY, Entry, Index, Row
from safedefer.emulator.datastore.failures import invalid, unsupported
from safedefer.emulator.datastore.filters import Alternative, parse_filter
from safedefer.emulator.datastore.keys import EntityKey, parse_key
from safedefer.emulator.datastore.messages import Entity
from safedefer.emulator.datastore.projections import project_entity
from safedefer.emulator.datastore.storage import Scan, Stored
from safedefer.emulator.datastore.values import SortKey

_DESCENDING: Final = 2
_EVERYTHING: Final = Alternative((), (), {}, None, None)
_NO_LIMIT: Final = 1 << 62


@total_ordering
@final
class _Backwards:
    """A part of a place that sorts the other way round."""

    __slots__ = ("part",)

    def __init__(self, part: Any) -> None:
        self.part = part

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Backwards) and bool(self.part == other.part)

    def __hash__(self) -> int:
        return hash(self.part)

    def __lt__(self, other: "_Backwards") -> bool:
        return bool(other.part < self.part)


Place: TypeAlias = tuple[Any, ...]
"""Where a result stands among the results: its values in the order asked for, the values that it shows, its key."""


@final
@dataclass(frozen=True, slots=True)
class Result:
    """One result. An entity has several where a projection shows more than one value of a property.

    Attributes:
        ordered: The values that it is sorted by.
        shown: The values of the properties that are projected or distinct.
    """

    key: EntityKey
    stored: Stored
    place: Place
    ordered: tuple[Entry, ...]
    shown: tuple[Entry, ...]

    @property
    def cursor(self) -> bytes:
        """Behind this result. It holds what the place is made of."""
        place = Entity(key=self.key.message())
        for number, (_, value) in enumerate((*self.ordered, *self.shown)):
            place.properties[str(number)].CopyFrom(value)
        data: bytes = place.SerializeToString(deterministic=True)
        return data


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """One page of results.

    Attributes:
        skipped: How many results the offset passed over, and the cursor behind them.
        end_cursor: Behind the last result of the page.
        is_whole: Whether the page ends where the results end, at the limit or at the end cursor.
        has_more: Whether there are results behind the limit.
        is_cut: Whether there are results behind the end cursor.
    """

    results: list[Result]
    skipped: int
    skipped_cursor: bytes
    end_cursor: bytes
    is_whole: bool
    has_more: bool
    is_cut: bool


@final
class Query:
    """One query, checked and ready to be run.

    Raises:
        CallError: INVALID_ARGUMENT where it cannot be, UNIMPLEMENTED for what is not done here.
    """

    def __init__(self, message: Any, index: Index, *, required: Sequence[str] = ()) -> None:
        """Read a query.

        Args:
            required: Properties that an entity has to have beside those that the query names.
        """
        self._index = index
        if message.HasField("find_nearest"):
            raise unsupported("find_nearest")
        if len(message.kind) > 1:
            raise invalid("a query has at most one kind")
        self.kind: str | None = message.kind[0].name if message.kind else None
        self._alternatives = [_EVERYTHING]
        if message.HasField("filter"):
            self._alternatives = parse_filter(message.filter, index)
        projected = [part.property.name for part in message.projection]
        distinct = [part.name for part in message.distinct_on]
        orders = [(order.property.name, order.direction == _DESCENDING) for order in message.order]
        self._check(projected, distinct, orders)
        self.keys_only: bool = projected == [KEY]
        self.projected: tuple[str, ...] = () if self.keys_only else tuple(projected)
        self._distinct = tuple(distinct)
        self._shown = tuple(dict.fromkeys(name for name in (*projected, *distinct) if name != KEY))
        self._orders = self._effective(orders)
        self._required = tuple(required)
        self._goes_by_key = not self._shown and all(name == KEY for name, _ in self._orders)
        self._start_cursor = message.start_cursor
        self._start = self._parse_cursor(message.start_cursor)
        self._end = self._parse_cursor(message.end_cursor)
        self._offset = message.offset
        self._limit: int | None = message.limit.value if message.HasField("limit") else None
        if self._offset < 0 or (self._limit is not None and self._limit < 0):
            raise invalid("an offset or limit that is negative")

    def run(self, scan: Scan, *, most: int = _NO_LIMIT, most_bytes: int = _NO_LIMIT) -> Answer:
        """Evaluate one page.

        Args:
            most: Results of one page; at least one is given, whatever its size.
            most_bytes: Size of one page.
        """
        found = self._found(scan)
        last_skipped = None
        skipped = 0
        page: list[Result] = []
        size = 0
        is_whole, has_more, is_cut = True, False, False
        for result in found:
            if self._end is not None and self._end < result.place:
                is_cut = True
                break
            if skipped < self._offset:
                skipped, last_skipped = skipped + 1, result
                continue
            if len(page) == self._limit:
                has_more = True
                break
            size += 64 if self.keys_only else result.stored.entity.ByteSize()
            if page and (len(page) >= most or size > most_bytes):
                is_whole = False
                break
            page.append(result)
        skipped_cursor = b"" if last_skipped is None else last_skipped.cursor
        end_cursor = page[-1].cursor if page else skipped_cursor or self._start_cursor
        return Answer(page, skipped, skipped_cursor, end_cursor, is_whole, has_more, is_cut)

    def matching(self, scan: Scan) -> frozenset[tuple[EntityKey, int]]:
        """Keys and versions of what matches, whatever cursors, offset and limit."""
        return frozenset((result.key, result.stored.version) for result in self._read(scan, None))

    def entity(self, result: Result) -> Any:
        """What a result answers with."""
        if self.keys_only:
            return Entity(key=result.key.message())
        if not self.projected:
            return result.stored.entity
        values = {name: value for name, (_, value) in zip(self._shown, result.shown, strict=True)}
        return project_entity(result.key, {name: values[name] for name in self.projected if name != KEY})

    def _check(self, projected: list[str], distinct: list[str], orders: list[tuple[str, bool]]) -> None:
        if len(set(projected)) < len(projected):
            raise invalid("a property that is projected twice")
        equal = {name for part in self._alternatives for name, _ in part.equalities}
        if equal & set(projected) - {KEY}:
            raise invalid("cannot use projection on a property with an equality filter")
        names = {name for name, _ in orders[: len(set(distinct))]}
        if not names <= set(distinct):
            raise invalid("distinct_on properties come first in the order")
        if self.kind is None:
            filtered = {name for part in self._alternatives for name in (*part.inequalities, *equal)}
            if (filtered | {name for name, _ in orders} | set(projected) | set(distinct)) - {KEY}:
                raise invalid("a query without a kind goes by __key__ only")

    def _effective(self, orders: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
        """The order that the results come in."""
        if not orders:
            first, *others = self._alternatives
            unequal = [name for name in first.inequalities if all(name in part.inequalities for part in others)]
            return [(name, False) for name in unequal[:1] if name != KEY]
        fixed = {name for name, wanted in self._common_equalities() if len(wanted) == 1}
        # What every result has the same value of needs no order; and what follows the key decides nothing more.
        kept = [(name, backwards) for name, backwards in orders if name not in fixed]
        ends = next((number for number, (name, _) in enumerate(kept, 1) if name == KEY), len(kept))
        return kept[:ends]

    def _common_equalities(self) -> set[tuple[str, frozenset[SortKey]]]:
        """The equalities that hold in every alternative."""
        return set.intersection(*(set(part.equalities) for part in self._alternatives))

    def _found(self, scan: Scan) -> Iterator[Result]:
        """The results behind the start cursor, in order."""
        results: Iterable[Result] = self._read(scan, self._start)
        if not self._goes_by_key:
            results = sorted(results, key=attrgetter("place"))
        seen: set[tuple[Any, ...]] = set()
        for result in results:
            if self._distinct:
                shown = dict(zip(self._shown, result.shown, strict=True))
                values = tuple(shown[name][0] for name in self._distinct if name != KEY)
                if values in seen:
                    continue
                seen.add(values)
            if self._start is None or self._start < result.place:
                yield result

    def _read(self, scan: Scan, start: Place | None) -> Iterator[Result]:
        """All results: in order if that is the order of keys, and then only those behind `start`."""
        low, high = None, None
        if len(self._alternatives) == 1:
            low, high = self._alternatives[0].low, self._alternatives[0].high
        backwards = self._goes_by_key and self._backwards
        if start is not None and self._goes_by_key:
            path = start[-1].part if backwards else start[-1]
            if backwards:
                high = (path, False) if high is None else min(high, (path, False))
            elif low is None or low[0] <= path:
                low = (path, False)
        for row in scan(low, high, backwards):
            yield from self._results(row)

    @property
    def _backwards(self) -> bool:
        return bool(self._orders) and self._orders[-1][1]

    def _results(self, row: Row) -> Iterable[Result]:
        """What one entity contributes: at most one result for each combination of the values that are shown."""
        found: dict[tuple[Any, ...], Result] = {}
        entries = self._index.entries_of(row)
        for part in self._alternatives:
            if not part.matches(row[0], entries) or not all(entries(name) for name in self._required):
                continue
            for shown in itertools.product(*(part.candidates(entries, name) for name in self._shown)):
                values = dict(zip(self._shown, shown, strict=True))
                ordered: list[Entry] = []
                for name, backwards in self._orders:
                    under = [values[name]] if name in values else part.candidates(entries, name)
                    if not under:
                        break  # Without a value to sort by, it is not in the index that is read.
                    ordered.append((max if backwards else min)(under, key=itemgetter(0)))
                else:
                    result = self._result(row, tuple(ordered), shown)
                    ranks = tuple(rank for rank, _ in shown)
                    if ranks not in found or result.place < found[ranks].place:
                        found[ranks] = result
        return found.values()

    def _result(self, row: Row, ordered: tuple[Entry, ...], shown: tuple[Entry, ...]) -> Result:
        key, stored = row
        ranks = [rank for rank, _ in ordered], [rank for rank, _ in shown]
        return Result(key, stored, self._place(key, *ranks), ordered, shown)

    def _place(self, key: EntityKey, ordered: list[Any], shown: list[Any]) -> Place:
        parts = [
            _Backwards(rank) if backwards else rank for rank, (_, backwards) in zip(ordered, self._orders, strict=True)
        ]
        return (*parts, *shown, _Backwards(key.path) if self._backwards else key.path)

    def _parse_cursor(self, cursor: bytes) -> Place | None:
        if not cursor:
            return None
        try:
            place = Entity.FromString(cursor)
        except DecodeError:
            raise invalid("a cursor that is not of this query") from None
        names = [str(number) for number in range(len(self._orders) + len(self._shown))]
        if set(place.properties) != set(names):
            raise invalid("a cursor that is not of this query")
        ranks = [self._index.entry(place.properties[name])[0] for name in names]
        partition = self._index.partition
        key = parse_key(partition.project, partition.database, place.key, allow_reserved=True)
        return self._place(key, ranks[: len(self._orders)], ranks[len(self._orders) :])
