"""Batch creates: many tasks in one call, reported as a long-running operation.

The tasks exist when the call is answered. The answer says nevertheless that the operation runs, as the service may
answer, and only GetOperation tells how it ended: whoever does not ask finds out here and not in production.
"""

import threading
import uuid
from collections import OrderedDict
from datetime import datetime

import grpc

from safedefer.emulator.clock import Clock
from safedefer.emulator.cloud_tasks.engine import Engine
from safedefer.emulator.cloud_tasks.errors import ENTITY_NOT_FOUND, CallError, invalid_argument, not_found
from safedefer.emulator.cloud_tasks.limits import MAX_BATCH_CREATES
from safedefer.emulator.cloud_tasks.messages import (
    BATCH_FAILED,
    BATCH_PARTIALLY_SUCCEEDED,
    BATCH_RUNNING,
    BATCH_SUCCEEDED,
    BatchCreateTasksMetadata,
    BatchCreateTasksRequest,
    BatchCreateTasksResponse,
    Operation,
    Status,
    Task,
)
from safedefer.emulator.cloud_tasks.names import QueueName, location_of, parse_queue_name
from safedefer.emulator.cloud_tasks.times import timestamp

_OPERATIONS_KEPT = 1_000
_ALL_FAILED = (
    "None of the requests succeeded, refer to BatchCreateTasksMetadata.failed_requests for individual error details"
)


class Operations:
    """The batch creates of late, by operation name; a repeated request id finds the operation it made."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        """Take the engine that creates each task."""
        self._engine = engine
        self._clock = clock
        # Held during a whole batch, so that a repeated request waits for the first one and does nothing itself.
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Operation] = OrderedDict()

    def create_tasks(self, request: BatchCreateTasksRequest) -> Operation:
        """Create up to 100 tasks of one queue. Some may fail while others succeed.

        Returns:
            The operation as it was when it began.

        Raises:
            CallError: The request as a whole is refused, or its queue does not exist.
        """
        parent = parse_queue_name(request.parent)
        _check_batch(request)
        request_id = request.request_id or str(uuid.uuid4())
        name = f"{location_of(parent)}/operations/{uuid.uuid5(uuid.NAMESPACE_URL, f'{parent}/{request_id}').hex}"
        self._engine.get_queue(parent)
        with self._lock:
            if name not in self._kept:
                self._kept[name] = self._run(name, parent, request)
                if len(self._kept) > _OPERATIONS_KEPT:
                    self._kept.popitem(last=False)
            return _begun(self._kept[name])

    def get(self, name: str) -> Operation:
        """Return an operation, which has ended; the last thousand are kept.

        Raises:
            CallError: NOT_FOUND.
        """
        with self._lock:
            operation = self._kept.get(name)
        if operation is None:
            raise not_found(ENTITY_NOT_FOUND)
        return operation

    def _run(self, name: str, parent: QueueName, request: BatchCreateTasksRequest) -> Operation:
        started_at = self._clock.now()
        created: list[Task] = []
        failed: dict[int, CallError] = {}
        for index, one in enumerate(request.requests):
            try:
                created.append(self._engine.create_task(parent, one.task, one.response_view))
            except CallError as error:
                failed[index] = error
        operation = Operation(name=name, done=True)
        operation.metadata.Pack(_metadata(created, failed, started_at, self._clock.now()))
        if created:
            operation.response.Pack(BatchCreateTasksResponse(tasks=created))
        else:
            operation.error.CopyFrom(Status(code=grpc.StatusCode.ABORTED.value[0], message=_ALL_FAILED))
        return operation


def _check_batch(request: BatchCreateTasksRequest) -> None:
    if not 1 <= len(request.requests) <= MAX_BATCH_CREATES:
        raise invalid_argument(f"BatchCreateTasksRequest.requests must hold 1 to {MAX_BATCH_CREATES} requests.")
    if any(one.parent != request.parent for one in request.requests):
        raise invalid_argument("The parent of every request must be the same as BatchCreateTasksRequest.parent.")


def _begun(ended: Operation) -> Operation:
    """Return an operation as it looked before it ended."""
    metadata = BatchCreateTasksMetadata()
    ended.metadata.Unpack(metadata)
    running = BatchCreateTasksMetadata(state=BATCH_RUNNING)
    running.start_time.CopyFrom(metadata.start_time)
    begun = Operation(name=ended.name)
    begun.metadata.Pack(running)
    return begun


def _metadata(
    created: list[Task], failed: dict[int, CallError], started_at: datetime, ended_at: datetime
) -> BatchCreateTasksMetadata:
    state = BATCH_PARTIALLY_SUCCEEDED if created else BATCH_FAILED
    metadata = BatchCreateTasksMetadata(state=state if failed else BATCH_SUCCEEDED)
    metadata.start_time.CopyFrom(timestamp(started_at))
    metadata.end_time.CopyFrom(timestamp(ended_at))
    for index, error in failed.items():
        status = metadata.failed_requests[index]
        status.code = error.number
        status.message = error.text
        for detail in error.details:
            status.details.add().Pack(detail)
    return metadata
