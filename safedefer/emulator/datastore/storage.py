"""Entities in versions, so that a transaction reads all of them as of one moment.

Not safe for threads by itself: the surface holds one lock around each call.
"""

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, final

from safedefer.emulator.datastore.keys import Element, EntityKey, Partition


@final
@dataclass(frozen=True, slots=True)
class Stored:
    """One version of an entity. `entity` is None where it was deleted."""

    version: int
    entity: Any
    created: float
    updated: float


@final
@dataclass(slots=True)
class _Kind:
    """The paths of one kind in order, those deleted but still to be seen by a transaction among them."""

    paths: list[tuple[Element, ...]] = field(default_factory=list)


_FIRST_ID: Final = 5_000_000_000_000_000


@final
class Storage:
    """Everything that is stored."""

    def __init__(self) -> None:
        self.version = 0
        self._history: dict[EntityKey, list[Stored]] = {}
        self._kinds: dict[tuple[Partition, str], _Kind] = defaultdict(_Kind)
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
        low: tuple[tuple[Element, ...], bool] | None = None,
        high: tuple[tuple[Element, ...], bool] | None = None,
    ) -> Iterator[tuple[EntityKey, Stored]]:
        """Entities of a kind, or of all, in the order of their keys, between two bounds that may be included."""
        names = [kind] if kind is not None else sorted(name for place, name in self._kinds if place == partition)
        found: list[tuple[Element, ...]] = []
        for name in names:
            known = self._kinds.get((partition, name))
            if known is not None:
                start = 0 if low is None else (bisect_left if low[1] else bisect_right)(known.paths, low[0])
                end = (
                    len(known.paths)
                    if high is None
                    else (bisect_right if high[1] else bisect_left)(known.paths, high[0])
                )
                found += known.paths[start:end]
        if kind is None:
            found.sort()
        for path in found:
            key = EntityKey(partition, path)
            stored = self.get(key, at)
            if stored is not None:
                yield key, stored

    def kinds(self, partition: Partition) -> list[str]:
        """The kinds that have entities now."""
        names = sorted(name for place, name in self._kinds if place == partition)
        return [name for name in names if next(self.scan(partition, name, None), None) is not None]

    def write(self, key: EntityKey, entity: Any, version: int, now: float) -> Stored:
        """Add a version. `entity` None deletes."""
        history = self._history.get(key)
        if history is None:
            history = self._history[key] = []
            insort(self._kinds[key.partition, key.kind].paths, key.path)
        before = history[-1] if history else None
        created = now if before is None or before.entity is None else before.created
        stored = Stored(version, entity, created, now)
        history.append(stored)
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
                paths = self._kinds[key.partition, key.kind].paths
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
