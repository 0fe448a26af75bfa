"""Which task is being executed here: what a function may know of it, and where what it defers comes from."""

from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, final

from safedefer.core.claims import Claims, Lineage
from safedefer.core.names import TaskId


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentTask:
    """The task that is being executed. Everything in it was verified: by the identity token, or by the signature.

    Attributes:
        claims: What the signature speaks for.
        name: Name of the Cloud Tasks task that brought the call; another one after a reissue.
        attempt: Which execution of the call this is, counted from 1 by the ledger; without one, by the queue.
        retry_count: Failed dispatches of this Cloud Tasks task before this one.
        execution_count: Those of them that were answered, and with no 5xx.
        deadline: When the queue gives up waiting for the answer.
    """

    claims: Claims
    name: str
    attempt: int
    retry_count: int
    execution_count: int
    deadline: datetime

    @property
    def id(self) -> str:
        """Identity of the call, in hex; the same whatever task brings it."""
        return self.claims.task_id.hex()

    @property
    def queue(self) -> str:
        """Queue id."""
        return self.claims.audience.queue

    @property
    def function(self) -> str:
        """Function name."""
        return self.claims.function.name

    @property
    def eta(self) -> datetime:
        """When it could first run."""
        return datetime.fromtimestamp(self.claims.not_before, UTC)

    @property
    def parent_id(self) -> str | None:
        """Identity of the call that deferred this one."""
        parent = self.claims.lineage.parent
        return None if parent is None else parent.hex()

    @property
    def root_id(self) -> str:
        """Identity of the first call of the chain that this one belongs to."""
        return self.claims.lineage.root.hex()

    @property
    def traceparent(self) -> str | None:
        """The caller's trace, as W3C Trace Context writes it."""
        return self.claims.surroundings.traceparent

    def __repr__(self) -> str:
        return f"<CurrentTask {self.id} {self.function} attempt {self.attempt}>"


walking: Final[ContextVar[int | None]] = ContextVar("safedefer_walking", default=None)
"""Index of the shard whose row is being called for here."""


def get_deferred_shard_index() -> int | None:
    """Index of the shard that the present callback of an iteration belongs to; None outside of one."""
    return walking.get()


executing: Final[ContextVar[CurrentTask | None]] = ContextVar("safedefer_executing", default=None)
"""The task that this thread or coroutine executes."""


def current_task() -> CurrentTask | None:
    """The task that is being executed here; None outside of one. Coroutines and their threads see their own."""
    return executing.get()


def lineage_of(task_id: TaskId) -> Lineage:
    """The lineage of a new task: its own root, or a child of the task that defers it."""
    current = executing.get()
    if current is None:
        return Lineage(root=task_id, parent=None, generation=0)
    parent = current.claims
    return Lineage(root=parent.lineage.root, parent=parent.task_id, generation=parent.lineage.generation + 1)
