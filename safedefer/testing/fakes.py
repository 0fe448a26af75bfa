"""Ports in memory that keep the same contract as the real ones."""

import threading
from collections.abc import Mapping, Sequence
from typing import final

from safedefer.core.records import Change, Put, Record, RecordKey, RecordKind
from safedefer.errors import RecordConflictError


@final
class MemoryRecords:
    """RecordStore in memory, for one process. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[RecordKey, Record] = {}

    def get(self, keys: Sequence[RecordKey]) -> Mapping[RecordKey, Record]:
        """Read records."""
        with self._lock:
            return {key: self._records[key] for key in keys if key in self._records}

    def scan(self, kind: RecordKind, *, after: str = "", limit: int) -> Sequence[Record]:
        """Read records in the order of their ids."""
        with self._lock:
            keys = sorted(key for key in self._records if key.kind is kind and key.id > after)
            return [self._records[key] for key in keys[:limit]]

    def commit(self, changes: Sequence[Change]) -> None:
        """Make all changes, or none."""
        with self._lock:
            for change in changes:
                current = self._records.get(change.key)
                if (None if current is None else current.version) != change.expected:
                    raise RecordConflictError("a record has another version than its change expects")
            for change in changes:
                if isinstance(change, Put):
                    self._records[change.key] = Record(
                        key=change.key, version=change.version, data=change.data, expires_at=change.expires_at
                    )
                else:
                    del self._records[change.key]
