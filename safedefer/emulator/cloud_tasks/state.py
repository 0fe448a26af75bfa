"""One queue with its tasks, in memory. Every method is given the time; nothing here locks, waits or sends."""

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from safedefer.emulator.cloud_tasks import limits, rates, retries
from safedefer.emulator.cloud_tasks.headers import AttemptFacts, dispatch_headers
from safedefer.emulator.cloud_tasks.messages import (
    BASIC_VIEW,
    FULL_VIEW,
    METHOD_NAMES,
    PAUSED,
    RUNNING,
    HttpRequest,
    Queue,
    Task,
)
from safedefer.emulator.cloud_tasks.names import QueueName, TaskName, parse_queue_name, short_id
from safedefer.emulator.cloud_tasks.queue_forms import rate_limits, retry_rules
from safedefer.emulator.cloud_tasks.retries import Answer, Response
from safedefer.emulator.cloud_tasks.schedule import Schedule
from safedefer.emulator.cloud_tasks.times import timestamp
from safedefer.emulator.faults import Faults


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """For which account and audience a dispatch gets its token."""

    email: str
    audience: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
    """One attempt that has begun: everything delivery needs, and nothing it could change."""

    number: int
    queue: QueueName
    task: TaskName
    attempt: int
    scheduled_at: datetime
    dispatched_at: datetime
    deadline: datetime
    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)
    identity: Identity | None
    is_forced: bool
    loses_response: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class TaskState:
    """A task that has not finished: its stored form, which never changes, and what has become of it so far."""

    name: TaskName
    stored: Task
    sequence: int
    created_at: datetime
    scheduled_at: datetime
    own_rules: retries.RetryRules | None
    dispatch_count: int = 0
    response_count: int = 0
    execution_count: int = 0
    first_dispatched_at: datetime | None = None
    last_scheduled_at: datetime | None = None
    last_dispatched_at: datetime | None = None
    last_answered_at: datetime | None = None
    last_answer: Answer | None = None

    def render(self, view: int) -> Task:
        """Return the task as a caller reads it. The basic view lacks the body and nothing else."""
        task = Task()
        task.CopyFrom(self.stored)
        task.schedule_time.CopyFrom(timestamp(self.scheduled_at))
        task.dispatch_count = self.dispatch_count
        task.response_count = self.response_count
        task.view = FULL_VIEW if view == FULL_VIEW else BASIC_VIEW
        if view != FULL_VIEW:
            task.http_request.ClearField("body")
        self._render_attempts(task)
        return task

    def _render_attempts(self, task: Task) -> None:
        if self.first_dispatched_at and self.last_scheduled_at and self.last_dispatched_at:
            task.first_attempt.dispatch_time.CopyFrom(timestamp(self.first_dispatched_at))
            task.last_attempt.schedule_time.CopyFrom(timestamp(self.last_scheduled_at))
            task.last_attempt.dispatch_time.CopyFrom(timestamp(self.last_dispatched_at))
        if self.last_answered_at and self.last_answer:
            task.last_attempt.response_time.CopyFrom(timestamp(self.last_answered_at))
            code, text = retries.response_status(self.last_answer)
            task.last_attempt.response_status.code = code
            task.last_attempt.response_status.message = text


class QueueState:
    """A queue: settings, tasks in the order of their creation, and the names of tasks that are gone."""

    def __init__(self, stored: Queue, *, name_memory: timedelta, now: datetime, faults: Faults) -> None:
        """Start empty and with a full token bucket."""
        self._faults = faults
        self.name: QueueName = parse_queue_name(stored.name)
        self.stored: Queue = stored
        self.tasks: OrderedDict[TaskName, TaskState] = OrderedDict()
        self.in_flight: int = 0
        self._limits = rate_limits(stored)
        self._rules = retry_rules(stored.retry_config)
        self._bucket = rates.full_bucket(self._limits, now)
        self._schedule: Schedule[TaskName] = Schedule()
        self._name_memory = name_memory
        self._tombstones: OrderedDict[TaskName, datetime] = OrderedDict()
        self._last_sequence = 0

    @property
    def is_paused(self) -> bool:
        """Whether dispatching is switched off."""
        return self.stored.state == PAUSED

    def configure(self, stored: Queue, now: datetime) -> None:
        """Take over new settings. They hold for waiting tasks too, and what the bucket holds stays within the burst."""
        filled = rates.refill(self._bucket, self._limits, now)
        self.stored = stored
        self._limits = rate_limits(stored)
        self._rules = retry_rules(stored.retry_config)
        self._bucket = rates.refill(filled, self._limits, now)

    def pause(self, *, paused: bool) -> None:
        """Switch dispatching off or on. Attempts in flight go on."""
        self.stored.state = PAUSED if paused else RUNNING

    def add(self, stored: Task, name: TaskName, now: datetime) -> TaskState:
        """Take a checked task whose name is free."""
        self._last_sequence += 1
        scheduled_at = stored.schedule_time.ToDatetime(tzinfo=now.tzinfo)
        task = TaskState(
            name=name,
            stored=stored,
            sequence=self._last_sequence,
            created_at=now,
            scheduled_at=scheduled_at,
            own_rules=retry_rules(stored.retry_config) if stored.HasField("retry_config") else None,
        )
        self.tasks[name] = task
        self._plan(task)
        return task

    def remove(self, task: TaskState, now: datetime) -> None:
        """Forget a task and remember its name."""
        del self.tasks[task.name]
        self._schedule.discard(task.name)
        self._tombstones[task.name] = now + self._name_memory

    def purge(self, now: datetime) -> None:
        """Forget every task. An attempt in flight goes on, and its answer is of no consequence."""
        for name in self.tasks:
            self._tombstones[name] = now + self._name_memory
        self.tasks.clear()
        self._schedule = Schedule()
        self.stored.purge_time.CopyFrom(timestamp(now))

    def is_remembered(self, name: TaskName, now: datetime) -> bool:
        """Tell whether a task of this name finished or was deleted recently."""
        self.expire_tasks(now)
        while self._tombstones and next(iter(self._tombstones.values())) <= now:
            self._tombstones.popitem(last=False)
        return name in self._tombstones

    def expire_tasks(self, now: datetime) -> None:
        """Drop the tasks that are older than the retention. They stand at the front."""
        while self.tasks:
            oldest = next(iter(self.tasks.values()))
            if now - oldest.created_at < limits.TASK_RETENTION:
                return
            self.remove(oldest, now)

    def has_due_task(self, now: datetime) -> bool:
        """Tell whether a task waits to be dispatched, be it held back by rate or concurrency. Never while paused."""
        due = self._schedule.next_due()
        return not self.is_paused and due is not None and due <= now

    def next_dispatch_at(self, now: datetime) -> datetime | None:
        """Return when the next task may be dispatched, or None if only a change to the queue can bring that about."""
        due = self._schedule.next_due()
        if self.is_paused or due is None or self.in_flight >= self._limits.concurrent:
            return None
        return max(due, rates.next_token_at(self._bucket, self._limits, now))

    def take_due(self, now: datetime) -> TaskState | None:
        """Return the task to be dispatched now, and spend a token on it. None: no task, no token or no room."""
        self.expire_tasks(now)
        next_at = self.next_dispatch_at(now)
        if next_at is None or next_at > now:
            return None
        bucket = rates.take_token(self._bucket, self._limits, now)
        name = self._schedule.pop_due(now)
        if bucket is None or name is None:
            return None
        if self._faults.draw("reorder"):
            self._schedule.put(name, now)  # Behind whatever else is due; alone it comes back at once.
            name = self._schedule.pop_due(now) or name
        self._bucket = bucket
        return self.tasks[name]

    def begin(self, task: TaskState, *, number: int, forced: bool, now: datetime) -> Dispatch:
        """Count an attempt as begun and return what is to be sent."""
        scheduled_at = now if forced else task.scheduled_at
        headers = dispatch_headers(task.stored.http_request.headers, self._facts(task, scheduled_at))
        self._schedule.discard(task.name)
        self.in_flight += 1
        task.dispatch_count += 1
        task.first_dispatched_at = task.first_dispatched_at or now
        task.scheduled_at = task.last_scheduled_at = scheduled_at
        task.last_dispatched_at = now
        task.last_answered_at = None
        request = task.stored.http_request
        return Dispatch(
            number=number,
            queue=self.name,
            task=task.name,
            attempt=task.dispatch_count,
            scheduled_at=scheduled_at,
            dispatched_at=now,
            deadline=now + task.stored.dispatch_deadline.ToTimedelta(),
            method=METHOD_NAMES[request.http_method],
            url=request.url,
            headers=headers,
            body=request.body,
            identity=_identity(request),
            is_forced=forced,
            loses_response=self._faults.draw("drop-response") is not None,
        )

    def repeat(self, dispatch: Dispatch, *, number: int) -> Dispatch:
        """Begin an attempt once more, as it is: the service promises to deliver at least once."""
        self.in_flight += 1
        return replace(dispatch, number=number, loses_response=self._faults.draw("drop-response") is not None)

    def settle(self, task: TaskState, dispatch: Dispatch, answer: Answer, now: datetime) -> None:
        """Take in how an attempt ended: the task is done, given up, or scheduled again."""
        self.in_flight -= 1
        if self.tasks.get(task.name) is not task:
            return  # It was deleted or purged meanwhile, or another attempt of it succeeded.
        task.response_count += isinstance(answer, Response)
        task.execution_count += retries.counts_as_execution(answer)
        task.last_answer = answer
        task.last_answered_at = now
        rules = task.own_rules or self._rules
        first_attempt = task.first_dispatched_at or dispatch.dispatched_at
        if retries.is_success(answer) or retries.has_given_up(
            rules, attempts=task.dispatch_count, first_attempt=first_attempt, now=now
        ):
            self.remove(task, now)
            return
        # A failed attempt counts its delay from the failure; one that was forced counts it from the call of RunTask.
        start = dispatch.dispatched_at if dispatch.is_forced else now
        task.scheduled_at = start + retries.retry_delay(rules, task.dispatch_count, answer)
        self._plan(task)

    def _plan(self, task: TaskState) -> None:
        delay = self._faults.draw("delay")
        self._schedule.put(task.name, task.scheduled_at + timedelta(seconds=delay.seconds if delay else 0))

    def _facts(self, task: TaskState, scheduled_at: datetime) -> AttemptFacts:
        return AttemptFacts(
            queue_id=short_id(self.name),
            task_id=short_id(task.name),
            retry_count=task.dispatch_count,
            execution_count=task.execution_count,
            scheduled_at=scheduled_at,
            previous_response=retries.previous_response(task.last_answer) if task.last_answer else None,
        )


def _identity(request: HttpRequest) -> Identity | None:
    if not request.HasField("oidc_token"):
        return None
    token = request.oidc_token
    return Identity(email=token.service_account_email, audience=token.audience or request.url)
