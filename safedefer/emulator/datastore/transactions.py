"""Optimistic transactions: each reads as of its beginning, and commits only if nothing that it read has changed."""

import itertools
from dataclasses import dataclass, field
from typing import Final, final

from safedefer.emulator.datastore.failures import aborted, invalid
from safedefer.emulator.datastore.keys import EntityKey, Partition
from safedefer.emulator.datastore.queries import Query
from safedefer.emulator.datastore.storage import Storage

MAX_SECONDS: Final = 270.0
MAX_IDLE_SECONDS: Final = 60.0


@final
@dataclass(slots=True)
class Transaction:
    """One open transaction."""

    id: bytes
    read_version: int
    read_only: bool
    started: float
    used: float
    keys: set[EntityKey] = field(default_factory=set)
    queries: list[tuple[Partition, Query]] = field(default_factory=list)


@final
class Transactions:
    """The open transactions of one server."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._open: dict[bytes, Transaction] = {}
        self._numbers = itertools.count(1)

    def begin(self, now: float, *, read_only: bool) -> Transaction:
        """Open one."""
        self._expire(now)
        number = next(self._numbers).to_bytes(16, "big")
        transaction = Transaction(number, self._storage.version, read_only, now, now)
        self._open[number] = transaction
        return transaction

    def find(self, number: bytes, now: float) -> Transaction:
        """The open transaction of an id.

        Raises:
            CallError: INVALID_ARGUMENT: it has ended, expired, or never was.
        """
        self._expire(now)
        transaction = self._open.get(number)
        if transaction is None:
            raise invalid("The referenced transaction has expired or is no longer valid.")
        transaction.used = now
        return transaction

    def close(self, transaction: Transaction) -> None:
        """End one, whatever its outcome: its id is dead."""
        self._open.pop(transaction.id, None)

    def check_unchanged(self, transaction: Transaction) -> None:
        """Refuse to commit what rests on something that has changed.

        Raises:
            CallError: ABORTED.
        """
        storage = self._storage
        if any(storage.version_of(key) > transaction.read_version for key in transaction.keys):
            raise aborted()
        for partition, query in transaction.queries:
            if storage.changed(partition, query.kind) <= transaction.read_version:
                continue
            then = query.matching(storage.reader(partition, query.kind, transaction.read_version))
            if then != query.matching(storage.reader(partition, query.kind, None)):
                raise aborted()

    @property
    def oldest_read(self) -> int:
        """The oldest version that an open transaction reads as of."""
        return min((transaction.read_version for transaction in self._open.values()), default=self._storage.version)

    def _expire(self, now: float) -> None:
        for transaction in list(self._open.values()):
            if now - transaction.started > MAX_SECONDS or now - transaction.used > MAX_IDLE_SECONDS:
                del self._open[transaction.id]
