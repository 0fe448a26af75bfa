"""Outbox over a Django model: its row is written on the caller's own alias, in the caller's own transaction."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Final, final

from django.db import connections, router
from django.db.models import QuerySet

from safedefer.core.outbox import WaitingCall
from safedefer.django.datastore_pages import is_datastore
from safedefer.django.models import OutboxCall
from safedefer.django.records import translated
from safedefer.errors import StoreUnavailableError

logger: Final = logging.getLogger("safedefer.outbox")
_TABLE: Final = "safedefer_outboxcall"
_ABSENT_SECONDS: Final = 30.0


@final
class DjangoOutbox:
    """Keeps waiting calls in the table of `OutboxCall`, on every alias that has it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._present: set[str] = set()
        self._absent_until: dict[str, float] = {}

    def put(self, using: str, task_id: str, envelope: bytes, now: int) -> bool:
        """Write a row in the transaction that is open."""
        if not self._has_table(using):
            return False
        with translated("write"):
            OutboxCall.objects.using(using).create(task_id=task_id, envelope=envelope, created_at=now)
        return True

    def put_many(self, using: str, calls: Sequence[tuple[str, bytes]], now: int) -> bool:
        """Write many rows in the transaction that is open."""
        if not self._has_table(using):
            return False
        rows = [OutboxCall(task_id=task_id, envelope=envelope, created_at=now) for task_id, envelope in calls]
        with translated("write"):
            OutboxCall.objects.using(using).bulk_create(rows)
        return True

    def remove_many(self, using: str, task_ids: Sequence[str]) -> None:
        """Remove many rows."""
        with translated("write"):
            OutboxCall.objects.using(using).filter(task_id__in=task_ids).delete()

    def remove(self, using: str, task_id: str) -> None:
        """Remove a row."""
        with translated("write"):
            OutboxCall.objects.using(using).filter(task_id=task_id).delete()

    def claim(self, *, older_than: int, now: int, lease: timedelta, limit: int) -> Sequence[WaitingCall]:
        """Lease rows, each by a conditional update, so that no two relays get the same."""
        until = now + int(lease.total_seconds())
        found: list[WaitingCall] = []
        for using in connections:
            with _each_alone(using):
                if not self._has_table(using):
                    continue
                for row in _due(using, older_than).filter(leased_until__lte=now).order_by("created_at")[:limit]:
                    mine = OutboxCall.objects.using(using).filter(pk=row.pk, leased_until=row.leased_until)
                    if mine.update(leased_until=until):
                        found.append(_waiting(using, row))
        return found

    def is_waiting(self, *, older_than: int) -> bool:
        """Whether any alias has such a row."""
        for using in connections:
            with _each_alone(using):
                if self._has_table(using) and _due(using, older_than).exists():
                    return True
        return False

    def _has_table(self, using: str) -> bool:
        """Whether the table is there: asked before, since a failing insert would spoil the caller's transaction.

        Only what was seen is remembered for good: it may be migrated while this process runs.
        """
        now = time.monotonic()
        with self._lock:
            if using in self._present or now < self._absent_until.get(using, now):
                return using in self._present
        # Of Datastore no question about tables can be asked inside a transaction, nor can waiting calls be found there.
        found = not is_datastore(using) and router.allow_migrate_model(using, OutboxCall) and look_for_table(using)
        with self._lock:
            if found:
                self._present.add(using)
            else:
                self._absent_until[using] = now + _ABSENT_SECONDS
        if not found:
            logger.info("database %r has no outbox; calls of its transactions are sent after commit", using)
        return found


def look_for_table(using: str, name: str = _TABLE) -> bool:
    """Whether a database has a table, by default the outbox's; one that cannot say has not.

    Raises:
        StoreUnavailableError: The database did not answer.
    """
    try:
        with translated("look for"):
            return name in connections[using].introspection.table_names()
    except NotImplementedError:
        return False


def has_table(using: str, name: str = _TABLE) -> bool:
    """The same, where a database that does not answer counts as one without it."""
    try:
        return look_for_table(using, name)
    except StoreUnavailableError:
        return False


@contextmanager
def _each_alone(using: str) -> Iterator[None]:
    """A database that does not answer keeps the calls of no other one waiting."""
    try:
        with translated("read"):
            yield
    except StoreUnavailableError as error:
        logger.warning("the outbox of database %r waits: %s", using, error)


def _waiting(using: str, row: OutboxCall) -> WaitingCall:
    return WaitingCall(using=using, task_id=row.task_id, envelope=bytes(row.envelope), created_at=row.created_at)


def _due(using: str, older_than: int) -> QuerySet[OutboxCall]:
    return OutboxCall.objects.using(using).filter(created_at__lte=older_than)


@final
class NoOutbox:
    """Where the setting turns the outbox off."""

    def put(self, using: str, task_id: str, envelope: bytes, now: int) -> bool:  # noqa: ARG002
        """Keep nothing."""
        return False

    def put_many(self, using: str, calls: Sequence[tuple[str, bytes]], now: int) -> bool:  # noqa: ARG002
        """Keep nothing."""
        return False

    def remove(self, using: str, task_id: str) -> None:
        """There is nothing."""

    def remove_many(self, using: str, task_ids: Sequence[str]) -> None:
        """There is nothing."""

    def claim(self, *, older_than: int, now: int, lease: timedelta, limit: int) -> Sequence[WaitingCall]:  # noqa: ARG002
        """There is nothing."""
        return ()

    def is_waiting(self, *, older_than: int) -> bool:  # noqa: ARG002
        """There is nothing."""
        return False
