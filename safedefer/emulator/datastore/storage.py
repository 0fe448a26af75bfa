"""Entities in versions, so that a transaction reads all of them as of one moment.

Not safe for threads by itself: the surface holds one lock around each call.
"""

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from heapq import merge
from typing import Any, Final, TypeAlias, final

from safedefer.emulator.datastore.keys import Element, EntityKey, Partition


@final
@dataclass(frozen=True, slots=True)
class Stored:
    """One version of an entity. `entity` is None where it was deleted."""

    version: int
    entity: Any
    created: float
    updated: float


Path: TypeAlias = tuple[Element, ...]
Bound: TypeAlias = tuple[tuple[Any, ...], bool]
"""A path, and whether it belongs to the range itself."""
Scan: TypeAlias = Callable[[Bound | None, Bound | None, bool], Iterable[tuple[EntityKey, Stored]]]
"""Reads entities between two bounds in the order of their keys, backwards if the last is true."""

_FIRST_ID: Final = 5_000_000_000_000_000


@final
class Storage:
    """Everything that is stored."""

    def __init__(self) -> None:
        self.version = 0
        self._history: dict[EntityKey, list[Stored]] = {}
        # The paths of each kind in order, those deleted but still to be seen by a transaction among them.
        self._kinds: dict[Partition, dict[str, list[Path]]] = defaultdict(dict)
        self._changed: dict[tuple[Partition, str], int] = {}
        self._next_id = _FIRST_ID
        self._reserved: set[int] = set()
        self._stale: list[EntityKey] = []

    def get(self, key: EntityKey, at: int | None = None) -> Stored | None:
        """The entity as of a version, or as it is now; None where there is none."""
        stored = self._as_of(key, at)
        return None if stored is None or stored.entity is None else stored

    def version_of(self, key: EntityKey) -> int:
        """The version of the last change of a key, deletion included; 0 where there was none."""
        history = self._history.get(key)
        return history[-1].version if history else 0

    def scan(
        self,
        partition: Partition,
        kind: str | None,
        at: int | None,
        *,
        low: Bound | None = None,
        high: Bound | None = None,
        backwards: bool = False,
    ) -> Iterator[tuple[EntityKey, Stored]]:
        """Entities of a kind, or of all, in the order of their keys, between two bounds that may be included.

        It reads as far as it is asked to, and no further.
        """
        names = [*self._kinds.get(partition, ())] if kind is None else [kind]
        sources = [self._paths(partition, name, low, high, backwards=backwards) for name in names]
        for path in _merged(sources, backwards=backwards):
            key = EntityKey(partition, path)
            stored = self.get(key, at)
            if stored is not None:
                yield key, stored

    def reader(self, partition: Partition, kind: str | None, at: int | None) -> Scan:
        """What a query reads a kind with, as of a version."""
        return lambda low, high, backwards: self.scan(partition, kind, at, low=low, high=high, backwards=backwards)

    def kinds(self, partition: Partition) -> list[str]:
        """The kinds that have entities now."""
        names = sorted(self._kinds.get(partition, {}))
        return [name for name in names if next(self.scan(partition, name, None), None) is not None]

    def partitions(self) -> list[Partition]:
        """The partitions that have entities now."""
        return [partition for partition in sorted(self._kinds) if self.kinds(partition)]

    def changed(self, partition: Partition, kind: str | None) -> int:
        """The version of the last change in a kind, or in all of them; 0 where there was none."""
        if kind is not None:
            return self._changed.get((partition, kind), 0)
        return max((version for (place, _), version in self._changed.items() if place == partition), default=0)

    def _paths(
        self, partition: Partition, kind: str, low: Bound | None, high: Bound | None, *, backwards: bool
    ) -> Iterator[Path]:
        paths = self._kinds.get(partition, {}).get(kind, [])
        start = 0 if low is None else (bisect_left if low[1] else bisect_right)(paths, low[0])
        end = len(paths) if high is None else (bisect_right if high[1] else bisect_left)(paths, high[0])
        numbers = range(start, end)
        return (paths[number] for number in (reversed(numbers) if backwards else numbers))

    def write(self, key: EntityKey, entity: Any, version: int, now: float) -> Stored:
        """Add a version. `entity` None deletes."""
        history = self._history.get(key)
        if history is None:
            history = self._history[key] = []
            insort(self._kinds[key.partition].setdefault(key.kind, []), key.path)
        before = history[-1] if history else None
        created = now if before is None or before.entity is None else before.created
        stored = Stored(version, entity, created, now)
        history.append(stored)
        self._changed[key.partition, key.kind] = version
        if len(history) > 1 or entity is None:
            self._stale.append(key)
        return stored

    def forget(self, oldest: int) -> None:
        """Drop versions that no transaction can see: of each key all but the last at or before `oldest`."""
        stale, self._stale = self._stale, []
        for key in dict.fromkeys(stale):
            history = self._history.get(key)
            if history is None:
                continue
            keep = max((index for index, stored in enumerate(history) if stored.version <= oldest), default=0)
            del history[:keep]
            if len(history) == 1 and history[0].entity is None and history[0].version <= oldest:
                del self._history[key]
                paths = self._kinds[key.partition][key.kind]
                del paths[bisect_left(paths, key.path)]
            elif len(history) > 1 or history[0].entity is None:
                self._stale.append(key)

    def allocate_id(self) -> int:
        """An id that nobody has: spread over its range as the service spreads them, and always the same sequence."""
        while True:
            # A full-period step through 53 bits, so that ids neither repeat nor follow each other.
            self._next_id = (self._next_id * 6_364_136_223_846_793_005 + 1_442_695_040_888_963_407) % (1 << 53)
            if self._next_id and self._next_id not in self._reserved:
                return self._next_id

    def reserve_id(self, number: int) -> None:
        """Never allocate this id."""
        self._reserved.add(number)

    def _as_of(self, key: EntityKey, at: int | None) -> Stored | None:
        history = self._history.get(key)
        if not history:
            return None
        if at is None:
            return history[-1]
        return next((stored for stored in reversed(history) if stored.version <= at), None)


def _merged(sources: list[Iterator[Path]], *, backwards: bool) -> Iterator[Path]:
    return sources[0] if len(sources) == 1 else merge(*sources, reverse=backwards)
