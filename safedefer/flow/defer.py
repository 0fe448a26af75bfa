"""Call -> body -> claims -> envelope -> task. Everything that can be wrong is found before anything is sent."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from secrets import token_bytes
from typing import Final, final

from safedefer.core.audit import Action, AuditEvent, Severity
from safedefer.core.claims import Claims, Delivery, Storage, TaskType
from safedefer.core.codec import encode_arguments
from safedefer.core.function import RegisteredFunction
from safedefer.core.limits import DEFAULT_DISPATCH_DEADLINE, MAX_SCHEDULE_AHEAD
from safedefer.core.names import TASK_ID_BYTES, TaskId
from safedefer.core.options import TaskOptions
from safedefer.core.ports import SendableTask
from safedefer.core.signing import claim_body, sign_envelope
from safedefer.core.surroundings import Surroundings
from safedefer.errors import (
    ConfigurationError,
    InvalidOptionError,
    PayloadTooLargeError,
    Reason,
    SafeDeferError,
    TaskExistsError,
    UnavailableError,
    UsageError,
)
from safedefer.flow.calling import log_failure
from safedefer.flow.current import lineage_of
from safedefer.flow.outbox import ensure_sweeps
from safedefer.flow.overflow import remove_overflow, write_overflow
from safedefer.flow.runtime import Runtime
from safedefer.flow.tasks import make_task

logger: Final = logging.getLogger("safedefer.defer")


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
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SealedCall:
    """A signed call, ready to be sent.

    Attributes:
        overflow: The body, where it is to be kept outside the task.
    """

    claims: Claims
    task: SendableTask
    options: TaskOptions
    overflow: bytes | None

    def result(self, *, created: bool | None) -> DeferredTask:
        """What the caller of `defer` is told."""
        return DeferredTask(
            task_id=self.claims.task_id.hex(),
            task_name=self.claims.task_name,
            queue=self.claims.audience.queue,
            created=created,
        )


def defer_call(
    runtime: Runtime,
    function: RegisteredFunction,
    options: TaskOptions,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
) -> DeferredTask:
    """Seal a call and send it: now, or once the transaction that is open on its alias has committed.

    A body that is kept outside the task is written at once, so that the task never waits for it; after a rollback it
    expires.

    Raises:
        UsageError: The arguments, an option, or the size cannot work; nothing was sent.
        ConfigurationError: No such queue, or Cloud Tasks refuses the task.
        QueueUnavailableError: Cloud Tasks did not answer; the task may or may not exist.
        StoreUnavailableError: The store did not take a large body; nothing was sent.
        TaskExistsError: A task of that name exists and the caller asked to be told.
    """
    call = seal_call(runtime, function, options, args, kwargs)
    keep_body(runtime, call)
    if runtime.commits.in_transaction(options.using):
        send_after_commit(runtime, call)
        return call.result(created=None)
    return send_call(runtime, call)


def keep_body(runtime: Runtime, call: SealedCall) -> None:
    """Write the body of a call that is kept outside its task.

    Raises:
        InvalidOptionError: It would be part of a transaction that the call does not wait for.
        StoreUnavailableError: The store did not take it.
    """
    if call.overflow is None:
        return
    store = runtime.records_using
    if store not in (None, call.options.using) and runtime.commits.in_transaction(store):
        raise InvalidOptionError(
            f"the arguments are too large for a task and would be part of the open transaction of {store!r}, for which "
            f"the call does not wait; give _using={store!r}, or defer outside of that transaction"
        )
    write_overflow(runtime.records, call.claims, call.overflow)


def send_after_commit(runtime: Runtime, call: SealedCall) -> None:
    """Send a call when the transaction on its alias has committed; never, if it is rolled back.

    With an outbox the sealed call is a row of that transaction: if who commits it dies, it is sent all the same.

    Raises:
        StoreUnavailableError: The row could not be written; the transaction should be rolled back.
    """
    using, task_id = call.options.using, call.claims.task_id.hex()
    if runtime.outbox.put(using, task_id, call.task.envelope, int(runtime.clock.time())):
        ensure_sweeps(runtime)
        runtime.commits.on_commit(using, lambda: _send_waiting(runtime, call))
    else:
        runtime.commits.on_commit(using, lambda: send_call(runtime, call))


def _send_waiting(runtime: Runtime, call: SealedCall) -> None:
    """Send what has just committed. Whatever goes wrong, its row stays, and the relay sends it."""
    using, task_id = call.options.using, call.claims.task_id.hex()
    try:
        send_call(runtime, call, waits=True)
        runtime.outbox.remove(using, task_id)
    except TaskExistsError:
        runtime.outbox.remove(using, task_id)
        raise
    except SafeDeferError as error:
        logger.warning("call %s waits on in the outbox: %s", task_id, error)


async def defer_call_async(
    runtime: Runtime,
    function: RegisteredFunction,
    options: TaskOptions,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
) -> DeferredTask:
    """The same for a coroutine: everything that waits does so in a thread."""
    return await runtime.invoker.in_thread(lambda: defer_call(runtime, function, options, args, kwargs))


def seal_call(
    runtime: Runtime,
    function: RegisteredFunction,
    options: TaskOptions,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    *,
    task_id: TaskId | None = None,
    surroundings: Surroundings | None = None,
) -> SealedCall:
    """Encode, sign and measure a call. Sends nothing.

    Args:
        task_id: Its identity, if it has one already.
        surroundings: Those of the caller, if they were captured already.
    Raises:
        UsageError: The arguments, an option, or the size cannot work.
    """
    body = encode_arguments(
        function.parameters, args, kwargs, runtime.resolver, with_related=not options.wipe_related_caches
    )
    return seal_body(runtime, TaskType.CALL, function, options, body, task_id=task_id, surroundings=surroundings)


def seal_body(
    runtime: Runtime,
    kind: TaskType,
    function: RegisteredFunction,
    options: TaskOptions,
    body: bytes,
    *,
    task_id: TaskId | None = None,
    surroundings: Surroundings | None = None,
) -> SealedCall:
    """Sign and measure an encoded body. Sends nothing.

    Raises:
        UsageError: An option, or the size cannot work.
    """
    if len(body) > runtime.body_cap_bytes:
        raise PayloadTooLargeError(
            f"the arguments of {function.name} take {len(body):,} bytes, the cap is {runtime.body_cap_bytes:,}; "
            "store the data and pass a reference to it",
            size_bytes=len(body),
            limit_bytes=runtime.body_cap_bytes,
        )
    if task_id is None:
        task_id = TaskId(token_bytes(TASK_ID_BYTES))
    deadline = DEFAULT_DISPATCH_DEADLINE if options.deadline is None else options.deadline
    now = runtime.clock.time()
    schedule_time = _schedule_time(runtime, options, now)
    claims = Claims(
        type=kind,
        audience=runtime.policy.audience(runtime.default_queue if options.queue is None else options.queue),
        function=function.ref,
        producer=runtime.producer,
        deadline_seconds=int(deadline.total_seconds()),
        body=claim_body(body, Storage.INLINE),
        task_id=task_id,
        lineage=lineage_of(task_id),
        issued_at=int(now),
        not_before=int(now if schedule_time is None else schedule_time),
        expires_at=_expires_at(runtime, options, now if schedule_time is None else schedule_time),
        delivery=Delivery(name=options.name, route=runtime.route_of(options)),
        retry=options.retry_options,
        surroundings=runtime.surroundings.capture() if surroundings is None else surroundings,
    )
    draft = _Draft(runtime, options, claims, schedule_time)
    if len(body) <= runtime.inline_limit_bytes:
        task = draft.prepare(claims, body)
        if task.size_bytes <= runtime.inline_limit_bytes:
            return draft.call(claims, task, overflow=None)
    if options.small_task:
        raise PayloadTooLargeError(
            f"the task of {function.name} would take more than {runtime.inline_limit_bytes:,} bytes, and small_task "
            "keeps its arguments from being stored outside",
            size_bytes=len(body),
            limit_bytes=runtime.inline_limit_bytes,
        )
    outside = replace(claims, body=replace(claims.body, storage=Storage.OVERFLOW))
    return draft.call(outside, draft.prepare(outside, b""), overflow=body)


@final
@dataclass(frozen=True, slots=True)
class _Draft:
    """What a call has in common, wherever its body goes."""

    runtime: Runtime
    options: TaskOptions
    claims: Claims
    schedule_time: float | None

    def prepare(self, claims: Claims, inline_body: bytes) -> SendableTask:
        """Sign the claims and build the task around them."""
        runtime = self.runtime
        envelope = sign_envelope(claims, inline_body, runtime.ring.primary, runtime.deployment)
        return runtime.sender.prepare(make_task(claims, envelope, schedule_time=self.schedule_time))

    def call(self, claims: Claims, task: SendableTask, *, overflow: bytes | None) -> SealedCall:
        """The finished call."""
        return SealedCall(claims=claims, task=task, options=self.options, overflow=overflow)


def send_call(runtime: Runtime, call: SealedCall, *, waits: bool = False) -> DeferredTask:
    """Create the task of a sealed call.

    A stored body is removed again when the service has said no. Where it has not answered the task may exist, and the
    body stays until it expires.

    Args:
        waits: The call is in the outbox, so that a refusal is not its end.
    Raises:
        ConfigurationError: No such queue, or Cloud Tasks refuses the task.
        QueueUnavailableError: Cloud Tasks did not answer; the task may or may not exist.
        TaskExistsError: A task of that name exists and the caller asked to be told.
    """
    try:
        # A name made from random bytes exists only if an earlier try of this create went through.
        created = runtime.sender.send(call.task) or call.options.name is None
    except (ConfigurationError, UsageError):
        if not waits:
            discard_overflow(runtime, call.claims)
        raise
    return record_deferred(runtime, call, created=created)


def record_deferred(runtime: Runtime, call: SealedCall, *, created: bool) -> DeferredTask:
    """Record that a call is on its way, and what its caller is told.

    Args:
        created: False where a task of its name existed.
    Raises:
        TaskExistsError: One existed, and the caller asked to be told.
    """
    # A task of that name may be this very one, whose first create was answered too late: its stored body stays.
    claims = call.claims
    event = AuditEvent(
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
    try:
        runtime.audit.emit(event)
    except Exception as error:  # noqa: BLE001  # The task exists: its caller must not take it for failed.
        log_failure(f"the event of task {event.task_id} could not be recorded", error)
    if not created and call.options.raise_if_exists:
        raise TaskExistsError(
            f"a task named {claims.task_name} exists in queue {claims.audience.queue}, or did recently"
        )
    return call.result(created=created)


def discard_overflow(runtime: Runtime, claims: Claims) -> None:
    """Remove a stored body that nobody will ask for; if the store does not answer, it expires."""
    try:
        remove_overflow(runtime.records, claims)
    except UnavailableError:
        logger.warning("the stored body of task %s could not be removed; it expires", claims.task_id.hex())


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
