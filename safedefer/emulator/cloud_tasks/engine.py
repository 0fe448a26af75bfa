"""The state of the local Cloud Tasks service, under one lock: what the API calls do, and what the dispatcher takes."""

import secrets
import threading
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta

from safedefer.emulator.clock import Clock
from safedefer.emulator.cloud_tasks import paging, queue_forms
from safedefer.emulator.cloud_tasks.attempts import Attempt, record
from safedefer.emulator.cloud_tasks.directory import Directory
from safedefer.emulator.cloud_tasks.errors import (
    CallError,
    already_exists,
    invalid_argument,
    not_found,
)
from safedefer.emulator.cloud_tasks.limits import MAX_QUEUES_PER_PAGE, MAX_TASKS_PER_PAGE
from safedefer.emulator.cloud_tasks.messages import Queue, Task, UpdateQueueRequest
from safedefer.emulator.cloud_tasks.names import (
    LocationName,
    QueueName,
    TaskName,
    parse_queue_name,
    parse_task_name_in,
    queue_of,
    task_name,
)
from safedefer.emulator.cloud_tasks.retries import Answer, NoResponse, Response
from safedefer.emulator.cloud_tasks.state import Dispatch, QueueState, TaskState
from safedefer.emulator.cloud_tasks.task_forms import stored_task
from safedefer.emulator.faults import CLOUD_TASKS_FAULTS, Faults

_ATTEMPTS_KEPT = 10_000
_TASK_NAME_REMEMBERED = (
    "The task cannot be created because a task with this name existed too recently. "
    "For more information about task de-duplication see https://cloud.google.com/tasks/docs/reference/rest/v2/"
    "projects.locations.queues.tasks/create#body.request_body.FIELDS.task."
)
_TASK_GONE = (
    "The task no longer exists, though a task with this name existed recently. "
    "The task either successfully completed or was deleted."
)


class Engine:
    """Queues and tasks. Every method may be called from any thread.

    `changed` is the lock, and is notified after every change that could let a task be dispatched or a waiter go on.
    """

    def __init__(
        self, clock: Clock, *, task_name_memory: timedelta, queue_name_memory: timedelta, seed: int = 0
    ) -> None:
        """Start without queues."""
        self.clock = clock
        self.changed: threading.Condition = threading.Condition()
        self.faults: Faults = Faults(CLOUD_TASKS_FAULTS, seed=seed)
        self._queues = Directory(
            task_name_memory=task_name_memory, queue_name_memory=queue_name_memory, faults=self.faults
        )
        self._running: dict[int, tuple[QueueState, TaskState]] = {}
        self._forced: deque[Dispatch] = deque()
        self._last_dispatch = 0
        self._attempts: deque[Attempt] = deque(maxlen=_ATTEMPTS_KEPT)
        self._attempts_finished = 0

    # Queues

    def create_queue(self, requested: Queue) -> Queue:
        """Create a queue in state RUNNING.

        Raises:
            CallError: INVALID_ARGUMENT, ALREADY_EXISTS, or FAILED_PRECONDITION soon after a deletion.
        """
        name = parse_queue_name(requested.name)
        stored = queue_forms.stored_queue(requested)
        with self.changed:
            if self._queues.find(name) is not None:
                raise already_exists("Queue already exists")
            return _copy(self._queues.add(name, stored, self.clock.now()).stored)

    def update_queue(self, request: UpdateQueueRequest) -> Queue:
        """Change a queue's settings, or create it if it does not exist.

        Raises:
            CallError: INVALID_ARGUMENT, or FAILED_PRECONDITION soon after a deletion.
        """
        name = parse_queue_name(request.queue.name)
        with self.changed:
            queue = self._queues.find(name)
            stored = queue_forms.updated_queue(request, queue.stored if queue else None)
            if queue is None:
                self._queues.add(name, stored, self.clock.now())
            else:
                queue.configure(stored, self.clock.now())
            self.changed.notify_all()
            return _copy(stored)

    def get_queue(self, name: QueueName) -> Queue:
        """Return a queue.

        Raises:
            CallError: NOT_FOUND.
        """
        with self.changed:
            return _copy(self._queues.get(name).stored)

    def list_queues(self, location: LocationName, *, page_size: int, page_token: str) -> tuple[list[Queue], str]:
        """Return one page of a location's queues, by name, and the token of the next page.

        Raises:
            CallError: INVALID_ARGUMENT for a token that does not belong here.
        """
        now = self.clock.now()
        size = paging.page_size(page_size, most=MAX_QUEUES_PER_PAGE)
        after = paging.parse_page_token(page_token, parent=location, now=now)
        with self.changed:
            rest = [queue for queue in self._queues.in_location(location) if queue.name > after]
            page = [_copy(queue.stored) for queue in rest[:size]]
        if len(rest) <= size:
            return page, ""
        return page, paging.PageToken(parent=location, after=rest[size - 1].name, issued_at=now).encode()

    def pause_queue(self, name: QueueName, *, paused: bool) -> Queue:
        """Pause a queue, or resume it.

        Raises:
            CallError: NOT_FOUND.
        """
        return self._change_queue(name, lambda queue: queue.pause(paused=paused))

    def purge_queue(self, name: QueueName) -> Queue:
        """Drop every task of a queue, at once.

        Raises:
            CallError: NOT_FOUND.
        """
        return self._change_queue(name, lambda queue: queue.purge(self.clock.now()))

    def delete_queue(self, name: QueueName) -> None:
        """Drop a queue with its tasks. Its name stays taken for a while.

        Raises:
            CallError: NOT_FOUND.
        """
        with self.changed:
            self._queues.delete(name, self.clock.now())
            self.changed.notify_all()

    # Tasks

    def create_task(self, parent: QueueName, requested: Task, view: int) -> Task:
        """Add a task to a queue.

        Raises:
            CallError: NOT_FOUND for the queue, ALREADY_EXISTS for the name, INVALID_ARGUMENT for the rest; or a fault,
                after which the task may exist.
        """
        fault = self.faults.draw("refuse-create", "ambiguous-create")
        if fault and fault.kind == "refuse-create":
            raise CallError(fault.code, fault.text)
        name = parse_task_name_in(parent, requested.name) if requested.name else task_name(parent, _new_task_id())
        now = self.clock.now()
        stored = stored_task(requested, name, now)
        with self.changed:
            queue = self._queues.get(parent)
            if queue.is_remembered(name, now):
                raise already_exists(_TASK_NAME_REMEMBERED)
            if name in queue.tasks:
                raise already_exists("Requested entity already exists")
            task = queue.add(stored, name, now)
            self.changed.notify_all()
            if fault:
                raise CallError(fault.code, fault.text)
            return task.render(view)

    def get_task(self, name: TaskName, view: int) -> Task:
        """Return a task that has not finished.

        Raises:
            CallError: NOT_FOUND; the text tells a task that existed from one that never did.
        """
        with self.changed:
            now = self.clock.now()
            queue = self._queues.find(queue_of(name))
            if queue is not None and queue.is_remembered(name, now):
                raise not_found(_TASK_GONE)
            _, task = self._queues.get_task(name, now)
            return task.render(view)

    def list_tasks(self, parent: QueueName, *, page_size: int, page_token: str, view: int) -> tuple[list[Task], str]:
        """Return one page of a queue's tasks, oldest first, and the token of the next page.

        Raises:
            CallError: NOT_FOUND for the queue, INVALID_ARGUMENT for a token that does not belong here.
        """
        now = self.clock.now()
        size = paging.page_size(page_size, most=MAX_TASKS_PER_PAGE)
        after = _sequence(paging.parse_page_token(page_token, parent=parent, now=now))
        with self.changed:
            queue = self._queues.get(parent)
            queue.expire_tasks(now)
            waiting = [task for task in queue.tasks.values() if task.sequence > after]
            page = [task.render(view) for task in waiting[:size]]
        if len(waiting) <= size:
            return page, ""
        last = str(waiting[size - 1].sequence)
        return page, paging.PageToken(parent=parent, after=last, issued_at=now).encode()

    def delete_task(self, name: TaskName) -> None:
        """Drop a task, waiting or dispatched. Its name stays taken for a while.

        Raises:
            CallError: NOT_FOUND.
        """
        with self.changed:
            queue, task = self._queues.get_task(name, self.clock.now())
            queue.remove(task, self.clock.now())
            self.changed.notify_all()

    def run_task(self, name: TaskName, view: int) -> Task:
        """Dispatch a task now, whatever its schedule, its queue's state and limits, even if it is running.

        Returns:
            The task as it is once dispatched, before the target has answered.

        Raises:
            CallError: NOT_FOUND.
        """
        with self.changed:
            queue, task = self._queues.get_task(name, self.clock.now())
            self._forced.append(self._begin(queue, task, forced=True, now=self.clock.now()))
            self.changed.notify_all()
            return task.render(view)

    # For the dispatcher

    def take_due(self, *, room: int, most: int) -> list[Dispatch]:
        """Begin attempts that may start now: those that were forced, then up to `most` that are due.

        Args:
            room: How many attempts may be in flight over all queues; forced ones do not ask.
            most: Bounds the work of one call.
        """
        with self.changed:
            now = self.clock.now()
            taken = list(self._forced)
            self._forced.clear()
            for queue in self._queues:
                while len(self._running) < room and len(taken) < most and (task := queue.take_due(now)):
                    taken.append(self._begin(queue, task, forced=False, now=now))
            return [each for dispatch in taken for each in self._with_duplicate(dispatch)]

    def next_dispatch_at(self, *, room: int) -> datetime | None:
        """Return when `take_due` next has something, or None if only a change can bring that about."""
        with self.changed:
            if len(self._running) >= room:
                return None
            now = self.clock.now()
            times = [queue.next_dispatch_at(now) for queue in self._queues]
            return min((time for time in times if time is not None), default=None)

    def finish(self, dispatch: Dispatch, answer: Answer) -> Attempt:
        """Take in how an attempt ended, and record it."""
        with self.changed:
            now = self.clock.now()
            queue, task = self._running.pop(dispatch.number)
            if dispatch.loses_response and isinstance(answer, Response):
                answer = NoResponse(reason="lost")
            queue.settle(task, dispatch, answer, now)
            attempt = record(dispatch, answer, now)
            self._attempts.append(attempt)
            self._attempts_finished += 1
            self.changed.notify_all()
            return attempt

    def abandon(self, dispatch: Dispatch) -> None:
        """Forget that an attempt is in flight, because the service stops. Its task stays as it is."""
        with self.changed:
            queue, _ = self._running.pop(dispatch.number)
            queue.in_flight -= 1
            self.changed.notify_all()

    # For tests and whoever else looks on

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The finished attempts, oldest first; the last ten thousand are kept."""
        with self.changed:
            return tuple(self._attempts)

    def wait_idle(self, timeout: float) -> bool:
        """Wait until nothing is in flight and no task is due in a queue that is not paused.

        A due task that its queue's rate holds back counts as due.
        """
        return self._wait_for(lambda: not self._running and not self._has_due_task(), timeout)

    def wait_settled(self, timeout: float) -> bool:
        """Wait until nothing is in flight and nothing may be dispatched at the clock's present time.

        A due task that its queue's rate holds back does not count: more time has to pass first.
        """
        return self._wait_for(lambda: not self._running and not self._may_dispatch(), timeout)

    def wait_attempts(self, count: int, timeout: float) -> bool:
        """Wait until `count` attempts have finished since the start."""
        return self._wait_for(lambda: self._attempts_finished >= count, timeout)

    def wait_in_flight(self, count: int, timeout: float) -> bool:
        """Wait until at least `count` attempts are in flight at once."""
        return self._wait_for(lambda: len(self._running) >= count, timeout)

    def _wait_for(self, is_true: Callable[[], bool], timeout: float) -> bool:
        with self.changed:
            return self.changed.wait_for(is_true, timeout)

    def _has_due_task(self) -> bool:
        now = self.clock.now()
        return any(queue.has_due_task(now) for queue in self._queues)

    def _may_dispatch(self) -> bool:
        now = self.clock.now()
        times = [queue.next_dispatch_at(now) for queue in self._queues]
        return any(time <= now for time in times if time is not None)

    def _begin(self, queue: QueueState, task: TaskState, *, forced: bool, now: datetime) -> Dispatch:
        self._last_dispatch += 1
        self._running[self._last_dispatch] = (queue, task)
        dispatch = queue.begin(task, number=self._last_dispatch, forced=forced, now=now)
        self.changed.notify_all()
        return dispatch

    def _with_duplicate(self, dispatch: Dispatch) -> list[Dispatch]:
        if not self.faults.draw("duplicate"):
            return [dispatch]
        self._last_dispatch += 1
        queue, task = self._running[dispatch.number]
        self._running[self._last_dispatch] = (queue, task)
        return [dispatch, queue.repeat(dispatch, number=self._last_dispatch)]

    def _change_queue(self, name: QueueName, change: Callable[[QueueState], None]) -> Queue:
        with self.changed:
            queue = self._queues.get(name)
            change(queue)
            self.changed.notify_all()
            return _copy(queue.stored)


def _new_task_id() -> str:
    # The service's own ids are strings of digits, at times with leading zeros.
    return f"{secrets.randbelow(10**19):019d}"


def _sequence(after: str) -> int:
    if after.isascii() and after.isdigit():
        return int(after)
    if after:
        raise invalid_argument(paging.NOT_A_PAGE)
    return 0


def _copy(stored: Queue) -> Queue:
    copy = Queue()
    copy.CopyFrom(stored)
    return copy
