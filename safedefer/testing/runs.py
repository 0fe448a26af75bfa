"""What became of a dispatch in a test, and the errors that a test is told."""

from dataclasses import dataclass
from enum import Enum
from typing import final

from safedefer.errors import Reason, SafeDeferError
from safedefer.flow.outcome import Verdict

_ENDED_WELL = frozenset({Verdict.DONE, Verdict.DROP, Verdict.REISSUE})


@final
class TaskFailedBehaviour(Enum):
    """What `process_task_queues` does about a task that fails. The names are djangae's."""

    DO_NOTHING = "do_nothing"
    """Leave it in its queue, and go on with the others."""
    RETRY_TASK = "retry_task"
    """Try it again after its backoff, until it succeeds or is given up."""
    RAISE_ERROR = "raise_error"
    """Leave it in its queue, and raise TaskFailedError."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRun:
    """One dispatch.

    Attributes:
        function: Function name; None where the envelope was refused before it could be read.
        task_id: Identity of the call, in hex; None likewise.
        task_name: Name of the task.
        queue: Queue id.
        attempt: Which dispatch of this task it was, from 1.
        outcome: What became of the task, as the audit event has it: `done`, `drop`, `reissue`, `failed`, `dead` and so
            on.
        reason: Why.
        detail: More of it; for a failed function the type of its exception.
        error: What the function raised.
    """

    function: str | None
    task_id: str | None
    task_name: str
    queue: str
    attempt: int
    outcome: str
    reason: Reason
    detail: str
    error: BaseException | None

    @property
    def failed(self) -> bool:
        """Whether it was refused or its function raised: everything but done, dropped, or put off on purpose.

        An iteration acknowledges a slice whose callback raised, since the next one goes on with that row.
        """
        return self.outcome not in _ENDED_WELL or self.error is not None


@final
class TaskFailedError(SafeDeferError):
    """A task failed in `process_task_queues`; what its function raised is `__cause__`.

    Attributes:
        run: The dispatch.
    """

    def __init__(self, run: TaskRun) -> None:
        detail = f" ({run.detail})" if run.detail else ""
        what = "a task" if run.function is None else f"{run.function}"
        super().__init__(f"{what} in queue {run.queue} ended as {run.outcome}: {run.reason.value}{detail}")
        self.run = run


@final
class EndlessTasksError(SafeDeferError):
    """`process_task_queues` came to no end: a task defers itself again and again, or fails each time."""
