"""A runtime whose ports are in memory and remember what was asked of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from safedefer.core.audit import AuditEvent
from safedefer.core.claims import Claims, Producer
from safedefer.core.codec import encode_arguments
from safedefer.core.envelope import CONTENT_TYPE
from safedefer.core.function import RegisteredFunction
from safedefer.core.names import FunctionName, QueueName
from safedefer.core.outbox import WaitingCall
from safedefer.core.ports import OutgoingTask, SendableTask, VerifiedCaller
from safedefer.core.registry import Registry
from safedefer.core.routing import ANYWHERE
from safedefer.core.surroundings import NO_SURROUNDINGS, Surroundings
from safedefer.errors import Reason, SafeDeferError, TokenError
from safedefer.flow.current import CurrentTask
from safedefer.flow.dispatch import Dispatch
from safedefer.flow.ledger import Ledger
from safedefer.flow.runtime import Runtime
from safedefer.testing.fakes import MemoryRecords
from tests.support.builders import DEPLOYMENT, NOW, POLICY, RING, ManualClock, Row, Rows, make_claims, make_envelope

T = TypeVar("T")
CALLER = VerifiedCaller(email="tasks@acme.iam.gserviceaccount.com", subject="1")
ran: list[object] = []
"""What the functions below have left behind."""


def note(text: str) -> None:
    """Leave a text."""
    ran.append(text)


def raises(error: str) -> None:
    """Raise what `ERRORS` has under a name."""
    ran.append(error)
    raise ERRORS[error]


def greet(row: Row) -> None:
    """Leave the key of a row."""
    ran.append(row.pk)


ERRORS: dict[str, BaseException] = {}
"""What `raises` can raise."""


@dataclass
class Sent:
    """A task as it was prepared."""

    task: OutgoingTask
    size_bytes: int

    @property
    def envelope(self) -> bytes:
        """What it was prepared with."""
        return self.task.envelope


@dataclass
class Sender:
    """Remembers tasks; answers as it is told."""

    sent: list[OutgoingTask] = field(default_factory=list)
    answers: list[bool | Exception] = field(default_factory=list)
    overhead: int = 100
    batches: list[int] = field(default_factory=list)

    def prepare(self, task: OutgoingTask) -> SendableTask:
        """Measure."""
        return Sent(task, len(task.envelope) + self.overhead)

    def send(self, task: SendableTask) -> bool:
        """Answer with the next of `answers`, else yes."""
        assert isinstance(task, Sent)
        self.sent.append(task.task)
        answer = self.answers.pop(0) if self.answers else True
        if isinstance(answer, Exception):
            raise answer
        return answer

    def send_many(self, tasks: Sequence[SendableTask]) -> list[bool | SafeDeferError]:
        """What `send` says of each."""
        self.batches.append(len(tasks))
        outcomes: list[bool | SafeDeferError] = []
        for task in tasks:
            try:
                outcomes.append(self.send(task))
            except SafeDeferError as error:
                outcomes.append(error)
        return outcomes


class Tokens:
    """Believes one token."""

    def verify(self, authorization: str | None) -> VerifiedCaller:
        """Believe `Bearer good`."""
        if authorization != "Bearer good":
            raise TokenError(Reason.TOKEN_SIGNATURE)
        return CALLER


@dataclass
class Commits:
    """A transaction that a test opens and commits."""

    open_on: set[str] = field(default_factory=set)
    waiting: list[Callable[[], object]] = field(default_factory=list)

    def in_transaction(self, using: str) -> bool:
        """Whether the test has opened one."""
        return using in self.open_on

    def on_commit(self, using: str, action: Callable[[], object]) -> None:
        """Keep the action."""
        self.waiting.append(action)

    def atomic(self, using: str) -> AbstractContextManager[None]:
        """Nothing here is rolled back."""
        raise NotImplementedError


@dataclass
class Around:
    """Surroundings that a test chooses, and those that were restored."""

    here: Surroundings = NO_SURROUNDINGS
    restored_to: list[Surroundings] = field(default_factory=list)

    def capture(self) -> Surroundings:
        """What the test chose."""
        return self.here

    @contextmanager
    def restored(self, surroundings: Surroundings) -> Iterator[None]:
        """Remember them."""
        self.restored_to.append(surroundings)
        yield


@dataclass
class Outbox:
    """Rows of the aliases that a test gives one; a transaction is what the test says it is."""

    aliases: set[str] = field(default_factory=set)
    rows: dict[tuple[str, str], WaitingCall] = field(default_factory=dict)
    leases: dict[str, int] = field(default_factory=dict)

    def put(self, using: str, task_id: str, envelope: bytes, now: int) -> bool:
        """Keep it, where there is an outbox."""
        if using not in self.aliases:
            return False
        self.rows[using, task_id] = WaitingCall(using=using, task_id=task_id, envelope=envelope, created_at=now)
        return True

    def put_many(self, using: str, calls: Sequence[tuple[str, bytes]], now: int) -> bool:
        """Keep them, where there is an outbox."""
        return {self.put(using, task_id, envelope, now) for task_id, envelope in calls} == {True}

    def remove(self, using: str, task_id: str) -> None:
        """Forget it."""
        self.rows.pop((using, task_id), None)

    def remove_many(self, using: str, task_ids: Sequence[str]) -> None:
        """Forget them."""
        for task_id in task_ids:
            self.remove(using, task_id)

    def claim(self, *, older_than: int, now: int, lease: timedelta, limit: int) -> list[WaitingCall]:
        """Those that are due."""
        due = [
            row for row in self.rows.values() if row.created_at <= older_than and self.leases.get(row.task_id, 0) <= now
        ]
        for row in due[:limit]:
            self.leases[row.task_id] = now + int(lease.total_seconds())
        return due[:limit]

    def is_waiting(self, *, older_than: int) -> bool:
        """Whether one is."""
        return any(row.created_at <= older_than for row in self.rows.values())


class Invoker:
    """Calls plain functions."""

    def call(self, function: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        """Call it here."""
        function(*args, **kwargs)

    def call_each(
        self,
        function: Callable[..., object],
        firsts: Iterable[object],
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
    ) -> None:
        """Call it here for each."""
        for first in firsts:
            function(first, *args, **kwargs)

    async def in_thread(self, action: Callable[[], T]) -> T:
        """Call it here as well."""
        return action()


@dataclass
class Audit:
    """Keeps events, or fails from the one of a given number on."""

    events: list[AuditEvent] = field(default_factory=list)
    fails_from: int | None = None

    def emit(self, event: AuditEvent) -> None:
        """Keep it."""
        if self.fails_from is not None and len(self.events) >= self.fails_from:
            raise ConnectionError("a canary in the message of the sink")
        self.events.append(event)


@dataclass
class Failures:
    """Keeps what it is told of failures, or fails itself."""

    told: list[BaseException] = field(default_factory=list)
    error: Exception | None = None

    def failed(self, function: str, task_id: str, error: BaseException) -> None:
        """Keep it."""
        self.told.append(error)
        if self.error is not None:
            raise self.error


@dataclass
class Ports:
    """The runtime, and its ports by their own types."""

    clock: ManualClock = field(default_factory=ManualClock)
    sender: Sender = field(default_factory=Sender)
    commits: Commits = field(default_factory=Commits)
    audit: Audit = field(default_factory=Audit)
    failures: Failures = field(default_factory=Failures)
    records: MemoryRecords = field(default_factory=MemoryRecords)
    rows: Rows = field(default_factory=Rows)
    outbox: Outbox = field(default_factory=Outbox)
    around: Around = field(default_factory=Around)

    def runtime(self, **changes: Any) -> Runtime:
        """A runtime of these ports, with `note`, `raises` and `greet` registered."""
        registry = Registry()
        for function in (note, raises, greet):
            registry.register(RegisteredFunction(function, name=f"shop.{function.__name__}"))
        registry.seal(self.rows)
        values: dict[str, Any] = {
            "registry": registry,
            "queryset_functions": Registry(),
            "querysets": None,
            "ring": RING,
            "deployment": DEPLOYMENT,
            "policy": POLICY,
            "default_queue": QueueName("default"),
            "producer": Producer(service="web", revision="web-1"),
            "default_route": ANYWHERE,
            "sender": self.sender,
            "tokens": Tokens(),
            "resolver": self.rows,
            "commits": self.commits,
            "surroundings": self.around,
            "outbox": self.outbox,
            "invoker": Invoker(),
            "audit": self.audit,
            "failures": self.failures,
            "records": self.records,
            "records_using": None,
            "ledger": Ledger(self.records, self.clock),
            "clock": self.clock,
            **changes,
        }
        return Runtime(**values)

    def envelope(self, runtime: Runtime, name: str, *args: object, **claims: Any) -> bytes:
        """A signed call of a function of `runtime`."""
        function = runtime.registry.find(FunctionName(name), 1)
        body = encode_arguments(function.parameters, args, {}, self.rows)
        return make_envelope(make_claims(body, function=function.ref, **claims), body)


def make_dispatch(data: bytes, **changes: Any) -> Dispatch:
    """A dispatch that only its body can spoil."""
    left = [data]

    def read(size: int) -> bytes:
        part, left[0] = left[0][:size], left[0][size:]
        return part

    values: dict[str, Any] = {
        "method": "POST",
        "content_type": CONTENT_TYPE,
        "content_length": str(len(data)),
        "authorization": "Bearer good",
        "queue": "default",
        "task_name": "a-name",
        "retry_count": "0",
        "execution_count": "0",
        "read": read,
        **changes,
    }
    return Dispatch(**values)


def make_current(claims: Claims | None = None) -> CurrentTask:
    """A task that is being executed."""
    return CurrentTask(
        claims=make_claims() if claims is None else claims,
        name="a-name",
        attempt=1,
        retry_count=0,
        execution_count=0,
        deadline=datetime.fromtimestamp(NOW, UTC) + DEADLINE,
    )


DEADLINE = timedelta(seconds=600)
