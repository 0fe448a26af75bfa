"""Many tasks in one call: BatchCreateTasks, a long-running operation that reports each refusal by its place."""

import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final

from google.api_core import exceptions
from google.api_core.retry import Retry
from google.cloud import tasks_v2

from safedefer.core.limits import MAX_INLINE_TASK_BYTES
from safedefer.errors import QueueUnavailableError, SafeDeferError
from safedefer.gcp.faults import TaskAlreadyExists, creating_task

_TRY_SECONDS: Final = 20.0
_WAIT_SECONDS: Final = 24.0
# The client's own first pause is a second, which a whole batch does not take.
_POLLING: Final = Retry(predicate=lambda _: True, initial=0.02, multiplier=1.5, maximum=1.0, timeout=_WAIT_SECONDS)


def create_batch(
    make_client: Callable[[], tasks_v2.CloudTasksClient],
    parent: str,
    tasks: Sequence[tasks_v2.Task],
    retry: Retry,
    advice: str,
) -> Sequence[bool | SafeDeferError]:
    """Create up to 100 named tasks of one queue.

    Args:
        make_client: Gives the client of this process.
        parent: Full name of the queue.
        retry: How the call is repeated; its request id keeps the service from doing it twice.
        advice: What to do when the service does not answer.
    Returns:
        For each task, True if it was created, False if one of its name existed, else why it was not.
    """
    # The plain messages: their wrappers take longer than everything else that is done for a task here.
    message = tasks_v2.BatchCreateTasksRequest.pb()(parent=parent, request_id=str(uuid.uuid4()))
    for task in tasks:
        message.requests.add(parent=parent).task.CopyFrom(tasks_v2.Task.pb(task))
    request = tasks_v2.BatchCreateTasksRequest.wrap(message)
    try:
        with creating_task(parent, 0, MAX_INLINE_TASK_BYTES, advice=advice):
            operation = make_client().batch_create_tasks(request=request, retry=retry, timeout=_TRY_SECONDS)
            failed = _wait(operation, len(tasks))
    except SafeDeferError as error:
        return [error] * len(tasks)
    return [_outcome(failed.get(index), parent, task, advice) for index, task in enumerate(tasks)]


def _wait(operation: Any, count: int) -> dict[int, Any]:
    """Wait for a batch to end; gives the status of each request that failed.

    Raises:
        GoogleAPIError: It did not end in time, or failed as a whole.
    """
    problem: exceptions.GoogleAPIError | None = None
    try:
        operation.result(timeout=_WAIT_SECONDS, polling=_POLLING)
    except TimeoutError as error:
        raise exceptions.DeadlineExceeded("the batch took too long") from error  # type: ignore[no-untyped-call]
    except exceptions.GoogleAPIError as error:
        # Where every request has failed, so has the operation; the reasons are in its metadata all the same.
        problem = error
    metadata = operation.metadata
    failed = {} if metadata is None else dict(metadata.failed_requests)
    if problem is not None and len(failed) < count:
        raise problem
    return failed


def _outcome(status: Any, parent: str, task: tasks_v2.Task, advice: str) -> bool | SafeDeferError:
    if status is None:
        return True
    try:
        with creating_task(parent, tasks_v2.Task.pb(task).ByteSize(), MAX_INLINE_TASK_BYTES, advice=advice):
            raise exceptions.from_grpc_status(status.code, status.message)  # type: ignore[no-untyped-call]
    except TaskAlreadyExists:
        return False
    except SafeDeferError as error:
        return error
    raise QueueUnavailableError("a failed request without an error")
