"""What is due when: a heap from which entries can be taken back."""

import heapq
from collections.abc import Hashable
from datetime import datetime
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

_SLACK = 64
"""Below this many entries it is not worth counting the dead ones."""


class Schedule(Generic[Key]):
    """Keys with the time at which each is due. Every operation costs O(log n) at most, on average.

    Moving or discarding a key leaves its old entry in the heap, to be skipped when it surfaces. Once such entries are
    the majority the heap is rebuilt, so that keys which come and go far ahead of their time do not pile up.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._due: dict[Key, tuple[datetime, int]] = {}
        self._heap: list[tuple[datetime, int, Key]] = []
        self._last_number = 0

    def __len__(self) -> int:
        """Return how many keys are scheduled."""
        return len(self._due)

    def put(self, key: Key, due: datetime) -> None:
        """Schedule `key`, or move it. Keys due at the same time leave in the order in which they were put."""
        self._last_number += 1
        self._due[key] = (due, self._last_number)
        heapq.heappush(self._heap, (due, self._last_number, key))
        if len(self._heap) > 2 * len(self._due) + _SLACK:
            self._rebuild()

    def discard(self, key: Key) -> None:
        """Take `key` back, if it is scheduled."""
        self._due.pop(key, None)

    def next_due(self) -> datetime | None:
        """Return the earliest time at which a key is due, or None if there is none."""
        self._drop_dead_entries()
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: datetime) -> Key | None:
        """Remove and return the key that has been due longest, or None if none is due at `now`."""
        earliest = self.next_due()
        if earliest is None or earliest > now:
            return None
        _, _, key = heapq.heappop(self._heap)
        del self._due[key]
        return key

    def _drop_dead_entries(self) -> None:
        while self._heap and self._is_dead(self._heap[0]):
            heapq.heappop(self._heap)

    def _is_dead(self, entry: tuple[datetime, int, Key]) -> bool:
        due, number, key = entry
        return self._due.get(key) != (due, number)

    def _rebuild(self) -> None:
        self._heap = [(due, number, key) for key, (due, number) in self._due.items()]
        heapq.heapify(self._heap)
