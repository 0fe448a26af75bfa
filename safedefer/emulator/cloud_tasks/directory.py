"""The queues by name, and the names of queues that are gone. The engine holds its lock around every call."""

from collections.abc import Iterator
from datetime import datetime, timedelta

import grpc

from safedefer.emulator.cloud_tasks.errors import ENTITY_NOT_FOUND, QUEUE_NOT_FOUND, CallError, not_found
from safedefer.emulator.cloud_tasks.messages import Queue
from safedefer.emulator.cloud_tasks.names import LocationName, QueueName, TaskName, location_of, queue_of
from safedefer.emulator.cloud_tasks.state import QueueState, TaskState
from safedefer.emulator.faults import Faults

_NAME_REMEMBERED = "The queue cannot be created because a queue with this name existed too recently."


class Directory:
    """Finds queues and tasks, or fails in the words of the service."""

    def __init__(self, *, task_name_memory: timedelta, queue_name_memory: timedelta, faults: Faults) -> None:
        """Start empty."""
        self._faults = faults
        self._task_name_memory = task_name_memory
        self._queue_name_memory = queue_name_memory
        self._queues: dict[QueueName, QueueState] = {}
        self._tombstones: dict[QueueName, datetime] = {}

    def __iter__(self) -> Iterator[QueueState]:
        """Go through all queues."""
        return iter(self._queues.values())

    def in_location(self, location: LocationName) -> list[QueueState]:
        """Return the queues of a location, by name."""
        return [self._queues[name] for name in sorted(self._queues) if location_of(name) == location]

    def find(self, name: QueueName) -> QueueState | None:
        """Return a queue, or None if there is none of this name."""
        return self._queues.get(name)

    def get(self, name: QueueName) -> QueueState:
        """Return a queue.

        Raises:
            CallError: NOT_FOUND.
        """
        queue = self._queues.get(name)
        if queue is None:
            raise not_found(QUEUE_NOT_FOUND)
        return queue

    def add(self, name: QueueName, stored: Queue, now: datetime) -> QueueState:
        """Add a queue whose name is not in use.

        Raises:
            CallError: FAILED_PRECONDITION, if the name was in use recently.
        """
        if self._tombstones.get(name, now) > now:
            raise CallError(grpc.StatusCode.FAILED_PRECONDITION, _NAME_REMEMBERED)
        self._tombstones.pop(name, None)
        queue = self._queues[name] = QueueState(
            stored, name_memory=self._task_name_memory, now=now, faults=self._faults
        )
        return queue

    def delete(self, name: QueueName, now: datetime) -> None:
        """Drop a queue with its tasks and the names they had, and remember its own.

        Raises:
            CallError: NOT_FOUND.
        """
        if self._queues.pop(name, None) is None:
            raise not_found(ENTITY_NOT_FOUND)
        self._tombstones[name] = now + self._queue_name_memory

    def get_task(self, name: TaskName, now: datetime) -> tuple[QueueState, TaskState]:
        """Return a task that has not finished, and its queue.

        Raises:
            CallError: NOT_FOUND.
        """
        queue = self._queues.get(queue_of(name))
        if queue is None:
            raise not_found(ENTITY_NOT_FOUND)
        queue.expire_tasks(now)
        task = queue.tasks.get(name)
        if task is None:
            raise not_found(ENTITY_NOT_FOUND)
        return queue, task
