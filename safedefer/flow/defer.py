"""Call -> body -> claims -> envelope -> task. Everything that can be wrong is found before anything is sent."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from secrets import token_bytes
from typing import final

from safedefer.core.audit import Action, AuditEvent, Severity
from safedefer.core.claims import Claims, Storage, TaskType
from safedefer.core.codec import encode_arguments
from safedefer.core.function import RegisteredFunction
from safedefer.core.limits import DEFAULT_DISPATCH_DEADLINE, MAX_SCHEDULE_AHEAD
from safedefer.core.names import TASK_ID_BYTES, TaskId, TaskName
from safedefer.core.options import TaskOptions
from safedefer.core.ports import OutgoingTask, SendableTask
from safedefer.core.signing import claim_body, sign_envelope
from safedefer.errors import InvalidOptionError, PayloadTooLargeError, Reason, TaskExistsError
from safedefer.flow.lineage import lineage_of
from safedefer.flow.runtime import Runtime


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DeferredTask:
    """What `defer` returns.

    Attributes:
        task_id: Identity of the call, in hex; the audit and the ledger know it by this.
        task_name: Name of the task within its queue.
        queue: Queue id.
        created: True once Cloud Tasks has the task; False where a task of that name existed already; None while it
            waits for the transaction to commit.
    """

    task_id: str
    task_name: str
    queue: str
    created: bool | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SealedCall:
    """A signed call, ready to be sent."""

    claims: Claims
    name: TaskName
    task: SendableTask
    options: TaskOptions

    def result(self, *, created: bool | None) -> DeferredTask:
        """What the caller of `defer` is told."""
        return DeferredTask(
            task_id=self.claims.task_id.hex(), task_name=self.name, queue=self.claims.audience.queue, created=created
        )


def defer_call(
    runtime: Runtime,
    function: RegisteredFunction,
    options: TaskOptions,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
) -> DeferredTask:
    """Seal a call and send it: now, or once the transaction that is open on its alias has committed.

    Raises:
        UsageError: The arguments, an option, or the size cannot work; nothing was sent.
        ConfigurationError: No such queue, or Cloud Tasks refuses the task.
        QueueUnavailableError: Cloud Tasks did not answer; the task may or may not exist.
        TaskExistsError: A task of that name exists and the caller asked to be told.
    """
    call = seal_call(runtime, function, options, args, kwargs)
    if runtime.commits.in_transaction(options.using):
        runtime.commits.on_commit(options.using, lambda: send_call(runtime, call))
        return call.result(created=None)
    return send_call(runtime, call)


async def defer_call_async(
    runtime: Runtime,
    function: RegisteredFunction,
    options: TaskOptions,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
) -> DeferredTask:
    """The same for a coroutine: seals at once, and waits for Cloud Tasks in a thread."""
    call = seal_call(runtime, function, options, args, kwargs)
    if runtime.commits.in_transaction(options.using):
        runtime.commits.on_commit(options.using, lambda: send_call(runtime, call))
        return call.result(created=None)
    return await asyncio.to_thread(send_call, runtime, call)


def seal_call(
    runtime: Runtime,
    function: RegisteredFunction,
    options: TaskOptions,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
) -> SealedCall:
    """Encode, sign and measure a call. Sends nothing.

    Raises:
        UsageError: The arguments, an option, or the size cannot work.
    """
    body = encode_arguments(function.parameters, args, kwargs, runtime.resolver)
    if len(body) > runtime.body_cap_bytes:
        raise PayloadTooLargeError(
            f"the arguments of {function.name} take {len(body):,} bytes, the cap is {runtime.body_cap_bytes:,}; "
            "store the data and pass a reference to it",
            size_bytes=len(body),
            limit_bytes=runtime.body_cap_bytes,
        )
    task_id = TaskId(token_bytes(TASK_ID_BYTES))
    queue = runtime.default_queue if options.queue is None else options.queue
    deadline = DEFAULT_DISPATCH_DEADLINE if options.deadline is None else options.deadline
    now = runtime.clock.time()
    schedule_time = _schedule_time(runtime, options, now)
    claims = Claims(
        type=TaskType.CALL,
        audience=runtime.policy.audience(queue),
        function=function.ref,
        producer=runtime.producer,
        deadline_seconds=int(deadline.total_seconds()),
        body=claim_body(body, Storage.INLINE),
        task_id=task_id,
        lineage=lineage_of(task_id),
        issued_at=int(now),
        not_before=int(now if schedule_time is None else schedule_time),
        expires_at=_expires_at(runtime, options, now if schedule_time is None else schedule_time),
    )
    envelope = sign_envelope(claims, body, runtime.ring.primary, runtime.deployment)
    name = TaskName(task_id.hex()) if options.name is None else options.name
    task = runtime.sender.prepare(
        OutgoingTask(queue=queue, name=name, envelope=envelope, schedule_time=schedule_time, deadline=deadline)
    )
    _check_size(runtime, function, task)
    return SealedCall(claims=claims, name=name, task=task, options=options)


def send_call(runtime: Runtime, call: SealedCall) -> DeferredTask:
    """Create the task of a sealed call.

    Raises:
        ConfigurationError: No such queue, or Cloud Tasks refuses the task.
        QueueUnavailableError: Cloud Tasks did not answer; the task may or may not exist.
        TaskExistsError: A task of that name exists and the caller asked to be told.
    """
    # A name made from random bytes exists only if an earlier try of this create went through.
    created = runtime.sender.send(call.task) or call.options.name is None
    claims = call.claims
    runtime.audit.emit(
        AuditEvent(
            action=Action.DEFER,
            accepted=True,
            reason=Reason.DEFERRED,
            severity=Severity.INFO,
            detail="" if created else "a task of that name existed already",
            function=claims.function.name,
            function_version=claims.function.version,
            task_id=claims.task_id.hex(),
            queue=claims.audience.queue,
            key=runtime.ring.primary.name,
            body_size_bytes=claims.body.size_bytes,
        )
    )
    if not created and call.options.raise_if_exists:
        raise TaskExistsError(f"a task named {call.name} exists in queue {claims.audience.queue}, or did recently")
    return call.result(created=created)


def _schedule_time(runtime: Runtime, options: TaskOptions, now: float) -> float | None:
    if options.countdown is not None:
        moment = now + options.countdown.total_seconds()
    elif options.eta is not None:
        moment = runtime.clock.aware(options.eta).timestamp()
    else:
        return None
    if moment > now + MAX_SCHEDULE_AHEAD.total_seconds():
        raise InvalidOptionError(f"a task can be scheduled {MAX_SCHEDULE_AHEAD.days} days ahead at most")
    return moment if moment > now else None


def _expires_at(runtime: Runtime, options: TaskOptions, start: float) -> int:
    latest = int(start) + int(runtime.policy.max_age.total_seconds())
    if options.expires is None:
        return latest
    if isinstance(options.expires, timedelta):
        moment = int(runtime.clock.time() + options.expires.total_seconds())
    else:
        moment = int(runtime.clock.aware(options.expires).timestamp())
    if moment < start:
        raise InvalidOptionError("option expires: the task would expire before it may run")
    if moment > latest:
        raise InvalidOptionError(f"option expires: at most {runtime.policy.max_age.days} days after it may run")
    return moment


def _check_size(runtime: Runtime, function: RegisteredFunction, task: SendableTask) -> None:
    if task.size_bytes > runtime.inline_limit_bytes:
        raise PayloadTooLargeError(
            f"the task of {function.name} takes {task.size_bytes:,} bytes, Cloud Tasks can be given "
            f"{runtime.inline_limit_bytes:,}; store the data and pass a reference to it",
            size_bytes=task.size_bytes,
            limit_bytes=runtime.inline_limit_bytes,
        )
