"""Ports in memory that keep the same contract as the real ones."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hmac import compare_digest
from secrets import token_urlsafe
from typing import Final, final

from safedefer.core.limits import MAX_REQUEST_BYTES, MAX_SCHEDULE_AHEAD
from safedefer.core.ports import OutgoingTask, SendableTask, VerifiedCaller
from safedefer.core.records import Change, Put, Record, RecordKey, RecordKind
from safedefer.core.routing import routed_url
from safedefer.django.calls import DjangoClock
from safedefer.errors import (
    PayloadTooLargeError,
    Reason,
    RecordConflictError,
    SafeDeferError,
    TaskRefusedError,
    TokenError,
)

NAME_MEMORY: Final = timedelta(hours=24)
"""How long the name of a task that is gone stays taken. Cloud Tasks says: up to 24 hours."""
_OVERHEAD_BYTES: Final = 1_024
"""About what the URL, the names and the token's description add to the envelope in Cloud Tasks' own message."""
_BEARER: Final = "Bearer "
_CLOCK: Final = DjangoClock()


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


@final
class ManualClock:
    """Clock that stands still until it is moved; naive datetimes are read as Django's settings say.

    It is the clock of the tasks alone: `timezone.now()` goes on telling the real time.
    """

    def __init__(self, start: datetime | None = None) -> None:
        """Stand at a moment.

        Args:
            start: By default the present.
        """
        self._now = _CLOCK.time() if start is None else self.aware(start).timestamp()

    def time(self) -> float:
        """Seconds since 1970 in UTC."""
        return self._now

    def aware(self, moment: datetime) -> datetime:
        """The same moment with a time zone."""
        return _CLOCK.aware(moment)

    def advance(self, by: float | timedelta) -> None:
        """Move on by seconds, or a timedelta."""
        self._now += by.total_seconds() if isinstance(by, timedelta) else by

    def move_to(self, moment: datetime | float) -> None:
        """Move to a moment, which may lie in the past: a datetime, or seconds since 1970 in UTC."""
        self._now = self.aware(moment).timestamp() if isinstance(moment, datetime) else float(moment)


@final
@dataclass(frozen=True, slots=True, repr=False)
class _MeasuredTask:
    task: OutgoingTask
    size_bytes: int

    @property
    def envelope(self) -> bytes:
        return self.task.envelope


@final
@dataclass(slots=True, kw_only=True, repr=False)
class QueuedTask:
    """A task as a queue in memory holds it.

    Attributes:
        task: What was created.
        number: Grows with every task that is created.
        due: When it is to be dispatched, in seconds since 1970.
        failures: Dispatches so far; a task whose dispatch succeeded is gone.
        executions: Those of them that were answered with anything but a server error.
    """

    task: OutgoingTask
    number: int
    due: float
    failures: int = 0
    executions: int = 0

    def __repr__(self) -> str:
        return f"<QueuedTask {self.task.queue}/{self.task.name}>"


@final
@dataclass(slots=True)
class MemorySender:
    """TaskSender into queues in memory; there is a queue of every name. Safe for threads.

    Attributes:
        clock: What time it is.
        handler_url: Whom tasks call; decides how they can be routed.
        created: Told of every task, once it is in its queue.
    """

    clock: ManualClock
    handler_url: str
    created: Callable[[OutgoingTask], None] = lambda _: None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _tasks: dict[tuple[str, str], QueuedTask] = field(default_factory=dict, repr=False)
    _gone: dict[tuple[str, str], float] = field(default_factory=dict, repr=False)
    _count: int = 0

    def prepare(self, task: OutgoingTask) -> SendableTask:
        """Measure a task: its envelope, and about what Cloud Tasks' message adds to it."""
        routed_url(self.handler_url, task.route)
        return _MeasuredTask(task, len(task.envelope) + _OVERHEAD_BYTES)

    def send(self, task: SendableTask) -> bool:
        """Put the task into its queue, unless its name is taken, or was within the last 24 hours."""
        if not isinstance(task, _MeasuredTask):
            raise TypeError("MemorySender sends what it has prepared")
        outgoing, now = task.task, self.clock.time()
        if task.size_bytes > MAX_REQUEST_BYTES:
            size = task.size_bytes
            message = f"a task of {size:,} bytes is too large"
            raise PayloadTooLargeError(message, size_bytes=size, limit_bytes=MAX_REQUEST_BYTES)
        due = now if outgoing.schedule_time is None else outgoing.schedule_time
        if due > now + MAX_SCHEDULE_AHEAD.total_seconds():
            raise TaskRefusedError(f"a task for queue {outgoing.queue} is scheduled too far ahead")
        key = (outgoing.queue, outgoing.name)
        with self._lock:
            if key in self._tasks or now < self._gone.get(key, now):
                return False
            self._count += 1
            self._tasks[key] = QueuedTask(task=outgoing, number=self._count, due=due)
        self.created(outgoing)
        return True

    def send_many(self, tasks: Sequence[SendableTask]) -> Sequence[bool | SafeDeferError]:
        """Put tasks of one queue into it, each as `send` does."""
        if len({task.task.queue for task in tasks if isinstance(task, _MeasuredTask)}) > 1:
            raise TypeError("MemorySender sends one queue at a time")
        return [self._try(task) for task in tasks]

    def waiting(self, queue: str | None = None) -> list[QueuedTask]:
        """The tasks of a queue, or of all, in the order in which they are due."""
        with self._lock:
            found = [task for task in self._tasks.values() if queue in (None, task.task.queue)]
        return sorted(found, key=lambda task: (task.due, task.number))

    def remove(self, task: QueuedTask) -> None:
        """Take a task out; its name stays taken for a while."""
        key = (task.task.queue, task.task.name)
        with self._lock:
            if self._tasks.pop(key, None) is not None:
                self._gone[key] = self.clock.time() + NAME_MEMORY.total_seconds()

    def clear(self) -> None:
        """Take all tasks out, and forget their names."""
        with self._lock:
            self._tasks.clear()
            self._gone.clear()

    def _try(self, task: SendableTask) -> bool | SafeDeferError:
        try:
            return self.send(task)
        except SafeDeferError as error:
            return error


@final
class MintedTokens:
    """TokenVerifier that accepts the tokens it has minted itself, and no other one."""

    def __init__(self, email: str) -> None:
        self._caller = VerifiedCaller(email=email, subject="tests")
        self._token = token_urlsafe()

    def mint(self) -> str:
        """The value of an Authorization header that is accepted."""
        return _BEARER + self._token

    def verify(self, authorization: str | None) -> VerifiedCaller:
        """Compare the header with the one that was minted."""
        if not authorization:
            raise TokenError(Reason.TOKEN_MISSING)
        if not compare_digest(authorization.encode(), self.mint().encode()):
            raise TokenError(Reason.TOKEN_SIGNATURE)
        return self._caller

    def __repr__(self) -> str:
        return f"<MintedTokens of {self._caller.email}>"
