"""Plays the queue in a test: takes tasks as they are due, and gives each to the real handler."""

from collections import Counter
from datetime import timedelta
from io import BytesIO
from typing import Final

from safedefer.core.claims import Claims, TaskType
from safedefer.core.envelope import CONTENT_TYPE, parse_envelope
from safedefer.core.ports import OutgoingTask
from safedefer.core.retries import RetryOptions
from safedefer.core.signing import verify_envelope
from safedefer.flow.dispatch import Dispatch
from safedefer.flow.execute import handle_dispatch
from safedefer.flow.outcome import Verdict
from safedefer.flow.runtime import Runtime
from safedefer.testing.fakes import QueuedTask
from safedefer.testing.runs import EndlessTasksError, TaskFailedBehaviour, TaskFailedError, TaskRun
from safedefer.testing.setup import Ports

_USUAL: Final = RetryOptions()
_STAYS: Final = frozenset(Verdict) - {Verdict.DONE, Verdict.DROP, Verdict.REISSUE, Verdict.DEAD}
"""After these, Cloud Tasks tries the task again."""
_SERVER_ERRORS: Final = frozenset({Verdict.FAILED, Verdict.UNAVAILABLE})
"""What Cloud Tasks does not count among the executions."""
_MOST_NAMED: Final = 3


def process_tasks(
    ports: Ports, queue: str | None, behaviour: TaskFailedBehaviour, *, only_due: bool, max_dispatches: int
) -> list[TaskRun]:
    """Dispatch what waits, and what comes of that, until nothing is left to be done.

    Args:
        queue: Only this one.
        only_due: Leave the clock where it is, and the tasks that are not due yet.
    Raises:
        TaskFailedError: A task failed, and `behaviour` is RAISE_ERROR.
        EndlessTasksError: There were `max_dispatches`, and still tasks to be dispatched.
    """
    runs: list[TaskRun] = []
    left_alone: set[int] = set()
    while (task := _next_task(ports, queue, left_alone, only_due=only_due)) is not None:
        if len(runs) >= max_dispatches:
            raise _endless(runs)
        run = dispatch_task(ports, task)
        runs.append(run)
        if run.failed and behaviour is TaskFailedBehaviour.RAISE_ERROR:
            raise TaskFailedError(run) from run.error
        if run.failed and behaviour is TaskFailedBehaviour.DO_NOTHING:
            left_alone.update({task.number}, _slices_behind(ports, task))
    return runs


def _slices_behind(ports: Ports, task: QueuedTask) -> list[int]:
    """The slices that were deferred in the last dispatch, if it was one: the row that failed waits for them."""
    if read_claims(ports.runtime, task.task).type is not TaskType.SLICE:
        return []
    found = [other for other in ports.sender.waiting(task.task.queue) if other.number > task.number]
    return [other.number for other in found if read_claims(ports.runtime, other.task).type is TaskType.SLICE]


def read_claims(runtime: Runtime, task: OutgoingTask) -> Claims:
    """The verified claims of a task that waits."""
    return verify_envelope(parse_envelope(task.envelope), runtime.ring, runtime.deployment).claims


def _next_task(ports: Ports, queue: str | None, left_alone: set[int], *, only_due: bool) -> QueuedTask | None:
    ports.commits.settle()
    now = ports.clock.time()
    for task in ports.sender.waiting(queue):
        if task.number not in left_alone and (task.due <= now or not only_due):
            return task
    return None


def dispatch_task(ports: Ports, task: QueuedTask) -> TaskRun:
    """Dispatch one task once: at its time, or now if that has passed."""
    if task.due > ports.clock.time():
        ports.clock.move_to(task.due)
    ports.audit.last = ports.failures.last = None
    outcome = handle_dispatch(ports.runtime, _make_dispatch(ports, task))
    event = ports.audit.last
    run = TaskRun(
        function=None if event is None else event.function,
        task_id=None if event is None else event.task_id,
        task_name=task.task.name,
        queue=task.task.queue,
        attempt=task.failures + 1,
        outcome=outcome.verdict.value,
        reason=outcome.reason,
        detail="" if event is None else event.detail,
        error=ports.failures.last,
    )
    if outcome.verdict in _STAYS:
        task.failures += 1
        task.executions += outcome.verdict not in _SERVER_ERRORS
        task.due = ports.clock.time() + backoff(task.task.retry or _USUAL, task.failures).total_seconds()
    else:
        ports.sender.remove(task)
    return run


def backoff(retry: RetryOptions, failures: int) -> timedelta:
    """The delay after the n-th failure: it doubles, then grows by the last step, as in Cloud Tasks."""
    steps = failures - 1
    doublings = min(steps, retry.doublings, 32)  # More than 32 pass any limit.
    step = retry.shortest * (1 << doublings)
    return min(step * (1 + max(0, steps - retry.doublings)), retry.longest)


def _make_dispatch(ports: Ports, task: QueuedTask) -> Dispatch:
    body = task.task.envelope
    return Dispatch(
        method="POST",
        content_type=CONTENT_TYPE,
        content_length=str(len(body)),
        authorization=ports.tokens.mint(),
        queue=task.task.queue,
        task_name=task.task.name,
        retry_count=str(task.failures),
        execution_count=str(task.executions),
        read=BytesIO(body).read,
    )


def _endless(runs: list[TaskRun]) -> EndlessTasksError:
    often = Counter(run.function or "a task that cannot be read" for run in runs).most_common(_MOST_NAMED)
    named = ", ".join(f"{name} {count} times" for name, count in often)
    return EndlessTasksError(
        f"after {len(runs):,} dispatches there are still tasks: does a task defer itself, or fail each time? "
        f"Dispatched were {named}"
    )
