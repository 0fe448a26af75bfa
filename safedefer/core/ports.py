"""What the rules need of the outside, as Protocols. `safedefer.django.setup` chooses what fills them."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol, TypeVar, final

from safedefer.core.audit import AuditEvent
from safedefer.core.names import QueueName, TaskName
from safedefer.core.outbox import WaitingCall
from safedefer.core.queues import PresentQueue, QueueField, QueueSpec
from safedefer.core.records import Change, Record, RecordKey, RecordKind
from safedefer.core.references import ModelReference
from safedefer.core.retries import RetryOptions
from safedefer.core.routing import ANYWHERE, Route
from safedefer.core.surroundings import Surroundings
from safedefer.errors import SafeDeferError

T = TypeVar("T")


class Clock(Protocol):
    """Tells the time, and what a naive datetime means."""

    def time(self) -> float:
        """Seconds since 1970 in UTC."""
        ...

    def aware(self, moment: datetime) -> datetime:
        """The same moment with a time zone; a naive one is read as the project's settings say."""
        ...


@final
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class OutgoingTask:
    """One task as Cloud Tasks is to hold it.

    Attributes:
        queue: Queue id.
        name: Last part of its name; every task has one, so that a repeated create cannot make two.
        envelope: The request body.
        schedule_time: Seconds since 1970; None means now.
        deadline: Dispatch deadline.
        route: Where in an App Engine application it runs.
        retry: Backoff of its own; None leaves it to the queue.
    """

    queue: QueueName
    name: TaskName
    envelope: bytes
    schedule_time: float | None
    deadline: timedelta
    route: Route = ANYWHERE
    retry: RetryOptions | None = None

    def __repr__(self) -> str:
        return f"<OutgoingTask {self.queue}/{self.name}>"


class SendableTask(Protocol):
    """An outgoing task in the form that the service takes."""

    @property
    def size_bytes(self) -> int:
        """Exact size of what the service is given to store."""
        ...

    @property
    def envelope(self) -> bytes:
        """The request body that it was made with."""
        ...


class TaskSender(Protocol):
    """Creates tasks."""

    def prepare(self, task: OutgoingTask) -> SendableTask:
        """Build what would be sent, so that it can be measured. Does no I/O.

        Raises:
            InvalidOptionError: The handler's host cannot be routed as the task asks.
        """
        ...

    def send(self, task: SendableTask) -> bool:
        """Create the task.

        Returns:
            False where a task of that name exists already, or existed too recently.
        Raises:
            QueueNotFoundError: No such queue.
            PayloadTooLargeError: The service finds it too large.
            TaskRefusedError: The service refuses it for good.
            QueueUnavailableError: The service did not answer; the task may or may not exist.
        """
        ...

    def send_many(self, tasks: Sequence[SendableTask]) -> Sequence[bool | SafeDeferError]:
        """Create up to `MAX_BATCH_TASKS` tasks of one queue.

        Returns:
            For each what `send` would have returned or raised.
        """
        ...


class QueueAdmin(Protocol):
    """Reads and changes the settings of queues.

    Every method raises QueueRefusedError where the service refuses for good, and QueueUnavailableError where it does
    not answer `within` the time that is given.
    """

    def get(self, name: QueueName, *, within: timedelta) -> PresentQueue | None:
        """Read a queue, or None where there is none of that name."""
        ...

    def create(self, spec: QueueSpec, *, within: timedelta) -> bool:
        """Create a queue; what the spec does not name is the service's default.

        Returns:
            False where there is a queue of that name by now.
        """
        ...

    def update(self, spec: QueueSpec, fields: Collection[QueueField], *, within: timedelta) -> None:
        """Change the named settings of a queue, and no other."""
        ...

    def all(self, *, within: timedelta) -> Sequence[PresentQueue]:
        """Read every queue of the location, by name."""
        ...


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedCaller:
    """Whom a verified identity token names."""

    email: str
    subject: str


class TokenVerifier(Protocol):
    """Decides whether the Authorization header of a dispatch proves that our queue called."""

    def verify(self, authorization: str | None) -> VerifiedCaller:
        """Verify the header.

        Trust: `authorization` comes from the network.
        Raises:
            TokenError: It proves nothing.
            TokenKeysUnavailableError: It cannot be verified now.
        """
        ...


class ReferenceResolver(Protocol):
    """Model instances and the references that stand for them."""

    def is_model(self, cls: type) -> bool:
        """Whether instances of the class, or of its subclasses, are rows."""
        ...

    def allows(self, label: str, cls: type) -> bool:
        """Whether a label names the model `cls` or a subclass of it. Never imports anything."""
        ...

    def reference(self, instance: object, *, with_related: bool = False) -> ModelReference:
        """The reference of a row.

        Args:
            with_related: Name the relations that the instance holds loaded rows of.
        Raises:
            ValueError: The instance is no saved row; the message says why.
        """
        ...

    def resolve(self, references: Iterable[ModelReference]) -> Mapping[ModelReference, object]:
        """Load rows, those of one model, alias and set of relations together. What is gone is not in the result.

        Raises:
            UnavailableError: The database did not answer.
        """
        ...


class CommitHook(Protocol):
    """The caller's database transaction."""

    def in_transaction(self, using: str) -> bool:
        """Whether a transaction is open on the alias.

        Raises:
            InvalidOptionError: There is no such alias.
        """
        ...

    def on_commit(self, using: str, action: Callable[[], object]) -> None:
        """Call `action` once the transaction has committed; never, if it is rolled back."""
        ...

    def atomic(self, using: str) -> AbstractContextManager[None]:
        """Commit all that the block writes on the alias, or none of it if it raises; inside of another, a savepoint.

        Raises:
            CommitRefusedError: The database will not commit it.
            StoreUnavailableError: It could not be committed now.
        """
        ...


class Outbox(Protocol):
    """Calls that wait to be sent, each in the database whose transaction it belongs to."""

    def put(self, using: str, task_id: str, envelope: bytes, now: int) -> bool:
        """Keep a sealed call in the transaction that is open on the alias.

        Returns:
            False where that database has no outbox.
        Raises:
            StoreUnavailableError: It could not be written.
        """
        ...

    def put_many(self, using: str, calls: Sequence[tuple[str, bytes]], now: int) -> bool:
        """The same for many calls: their task ids and envelopes."""
        ...

    def remove(self, using: str, task_id: str) -> None:
        """Take a call out; one that is not there is no matter.

        Raises:
            StoreUnavailableError: The database did not answer.
        """
        ...

    def remove_many(self, using: str, task_ids: Sequence[str]) -> None:
        """The same for many calls."""
        ...

    def claim(self, *, older_than: int, now: int, lease: timedelta, limit: int) -> Sequence[WaitingCall]:
        """Take calls for a time, oldest first; nobody else gets them meanwhile. A database that is down has none.

        Args:
            older_than: Only what was kept until then, in seconds since 1970.
            limit: How many of each database, at the most.
        """
        ...

    def is_waiting(self, *, older_than: int) -> bool:
        """Whether a call waits that was kept until then, in a database that answers."""
        ...


class SurroundingsSource(Protocol):
    """What surrounds the running code: trace, language, time zone."""

    def capture(self) -> Surroundings:
        """What surrounds the caller."""
        ...

    def restored(self, surroundings: Surroundings) -> AbstractContextManager[None]:
        """Run the block in surroundings; what they do not name, or nobody knows any more, stays as it is."""
        ...


class AuditSink(Protocol):
    """Keeps audit events."""

    def emit(self, event: AuditEvent) -> None:
        """Record one event. An exception means that it was not recorded."""
        ...


class Invoker(Protocol):
    """Calls a deferred function, whatever its kind."""

    def call(self, function: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        """Call a function, or run a coroutine function to its end."""
        ...

    def call_each(
        self,
        function: Callable[..., object],
        firsts: Iterable[object],
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
    ) -> None:
        """Call a function for one first argument after another; a coroutine function is run in one event loop for all.

        Args:
            firsts: The next one is asked for when the call for the one before has ended, in this thread's event loop
                where there is one: it must not wait.
        """
        ...

    async def in_thread(self, action: Callable[[], T]) -> T:
        """Run blocking code for a coroutine, in the thread that holds the caller's transaction, if there is one."""
        ...


class FailureSink(Protocol):
    """Is handed the exceptions of deferred functions, for the application's own error reporting."""

    def failed(self, function: str, task_id: str, error: BaseException) -> None:
        """Report one failed execution."""
        ...


class RecordStore(Protocol):
    """Durable records. The one port for state that outlives a process."""

    def get(self, keys: Sequence[RecordKey]) -> Mapping[RecordKey, Record]:
        """Read records, each as of its last commit; those that do not exist are absent from the result.

        Raises:
            StoreUnavailableError: The store did not answer.
        """
        ...

    def scan(self, kind: RecordKind, *, after: str = "", limit: int) -> Sequence[Record]:
        """Read records of one kind in the order of their ids, beginning behind `after`.

        Args:
            limit: How many at the most; the store may give fewer, but gives none only at the end.
        Raises:
            StoreUnavailableError: The store did not answer.
        """
        ...

    def commit(self, changes: Sequence[Change]) -> None:
        """Make all changes, or none of them.

        Args:
            changes: At most one for each key; data of 9,000,000 bytes together.
        Raises:
            RecordConflictError: A record has not the version that its change expects. Nothing was changed.
            StoreUnavailableError: The store did not answer. The changes may or may not have been made.
        """
        ...
