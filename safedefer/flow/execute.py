"""Dispatch -> verified call -> function -> outcome. Every way to run a function goes through `handle_dispatch`.

The checks are numbered and stand in their order: nothing is parsed before it is authenticated, except the fixed frame
that carries the tag; nothing is executed before everything was checked.
"""

from dataclasses import dataclass, field, replace
from typing import Final, final

from safedefer.core.audit import Action, AuditEvent, Severity
from safedefer.core.claims import CODEC_ID, ITERATION, Claims, Storage, TaskType
from safedefer.core.codec import decode_arguments
from safedefer.core.control import Drop, Retry
from safedefer.core.envelope import parse_envelope
from safedefer.core.function import RegisteredFunction
from safedefer.core.iteration.decisions import Acknowledge, CreateFinalize, CreateSlice, Reissue, Stop
from safedefer.core.signing import VerifiedBody, VerifiedEnvelope, verify_body, verify_envelope
from safedefer.errors import (
    AlreadyExecutedError,
    ArgumentsRefusedError,
    ClaimsError,
    FunctionFailedError,
    LeaseLostError,
    QueueUnavailableError,
    Reason,
    ReferenceMissingError,
    RejectedError,
    StoreUnavailableError,
    TokenKeysUnavailableError,
    UnavailableError,
)
from safedefer.flow.calling import call_function, describe_task, load_arguments, log_failure, logger
from safedefer.flow.defer import discard_overflow
from safedefer.flow.dispatch import Dispatch, check_form, read_exactly
from safedefer.flow.giving_up import Attempted, give_up
from safedefer.flow.iterate import forget_run, work_on
from safedefer.flow.iteration_tasks import create_iteration_task
from safedefer.flow.iteration_walk import function_of
from safedefer.flow.later import LaterError, check_standing, check_times, postponed
from safedefer.flow.ledger import Lease
from safedefer.flow.outbox import run_sweep, tend_outbox
from safedefer.flow.outcome import Outcome, Verdict, judge
from safedefer.flow.overflow import read_overflow
from safedefer.flow.reissue import ReissueError, TooEarlyError, reissue
from safedefer.flow.runtime import Runtime


@final
@dataclass(slots=True)
class _Progress:
    """What is known of a dispatch so far: for its audit event, and for giving up."""

    started: float
    attempted: Attempted = field(default_factory=Attempted)
    event: AuditEvent = field(
        default=AuditEvent(
            action=Action.DISPATCH, accepted=False, reason=Reason.INTERNAL_ERROR, severity=Severity.CRITICAL
        )
    )

    def learn(self, **known: object) -> None:
        self.event = replace(self.event, **known)  # type: ignore[arg-type]  # The callers stand below.


def handle_dispatch(runtime: Runtime, dispatch: Dispatch) -> Outcome:
    """Verify a dispatch and, if everything holds, execute its call.

    Whatever happens is one outcome and one audit event at the end, and one event before the function runs. An error
    that nobody foresaw is never taken for success.
    """
    progress = _Progress(started=runtime.clock.time())
    verdict = severity = None
    try:
        reason, detail = _execute_or_reissue(runtime, dispatch, progress)
        verdict = Verdict.RETRY if detail == _TOO_EARLY else None
    except ReferenceMissingError as error:
        reason, detail = error.reason, error.detail
        verdict, severity = _MISSING[error.detail]  # The detail is the function's own policy.
    except RejectedError as error:
        reason, detail = error.reason, error.detail
    except UnavailableError as error:
        reason, detail = _unavailable(error), type(error).__name__
        logger.warning("a dispatch has to wait: %s", error)  # Our own texts, which say what to look at.
    except Exception as error:  # noqa: BLE001  # A fault of ours answers 503: the task stays, and is looked at.
        reason, detail = Reason.INTERNAL_ERROR, type(error).__name__
        log_failure("dispatch failed inside safedefer", error)
    usual = judge(reason)
    settled = _settle(runtime, dispatch, progress, Outcome(verdict or usual[0], reason), detail)
    if progress.attempted.verified is not None:
        tend_outbox(runtime)
    progress.learn(
        accepted=settled.reason in _CALLED,
        reason=settled.reason,
        severity=severity or usual[1],
        detail=detail,
        outcome=settled.verdict.value,
        duration_ms=round((runtime.clock.time() - progress.started) * 1000, 3),
    )
    return _record(runtime, progress.event, settled)


_RAN: Final = frozenset({Verdict.DONE, Verdict.FAILED})
_CALLED: Final = frozenset({Reason.EXECUTED, Reason.FUNCTION_FAILED, Reason.POSTPONED, Reason.DROPPED})
"""With these, the function was called in this dispatch."""
_MISSING: Final = {
    "drop": (Verdict.DROP, Severity.NOTICE),
    "retry": (Verdict.RETRY, Severity.NOTICE),
    "fail": (Verdict.REFUSED, Severity.WARNING),
}
_TOO_EARLY: Final = "the reissued task has come before its time"


def _settle(runtime: Runtime, dispatch: Dispatch, progress: _Progress, outcome: Outcome, detail: str) -> Outcome:
    """Keep what is given up as a dead letter, and give back a lease that is still held."""
    attempted = progress.attempted
    try:
        if give_up(runtime, dispatch, attempted, outcome, detail):
            return Outcome(Verdict.DEAD, outcome.reason)
    except AlreadyExecutedError as error:
        return Outcome(judge(error.reason)[0], error.reason)
    except LeaseLostError:
        outcome = Outcome(Verdict.RETRY, outcome.reason)
    except UnavailableError as error:
        # What cannot be kept must stay in the queue: the outcome is answered as it stands, and comes again.
        logger.warning("a call could not be kept as a dead letter: %s", error)
    except Exception as error:  # noqa: BLE001  # Likewise.
        log_failure("a call could not be kept as a dead letter", error)
    if attempted.lease is not None:
        _give_back(runtime, attempted.lease, executed=attempted.executed)
    return outcome


def _execute_or_reissue(runtime: Runtime, dispatch: Dispatch, progress: _Progress) -> tuple[Reason, str]:
    try:
        return _verify_and_execute(runtime, dispatch, progress)
    except LaterError as later:
        return _reissue(runtime, dispatch, later)


def _verify_and_execute(runtime: Runtime, dispatch: Dispatch, progress: _Progress) -> tuple[Reason, str]:
    attempted = progress.attempted

    # 1. It has the form of a dispatch: method, content type, one bounded length.
    length = check_form(dispatch, runtime.request_cap_bytes)

    # 2. The identity token proves that our queue called. From here on the X-CloudTasks-* headers are Google's.
    caller = runtime.tokens.verify(dispatch.authorization)
    attempted.number = (dispatch.retries or 0) + 1
    progress.learn(actor=caller.email, attempt=None if dispatch.retries is None else attempted.number)

    # 3. The body is read, as long as it said it is.
    data = read_exactly(dispatch, length)
    attempted.envelope = data

    # 4. The frame: fixed offsets, nothing decoded.
    untrusted = parse_envelope(data)

    # 5. The tag proves that our code wrote the call. Only now are the claims read.
    envelope = verify_envelope(untrusted, runtime.ring, runtime.deployment)
    claims = envelope.claims
    progress.learn(
        function=claims.function.name,
        function_version=claims.function.version,
        task_id=claims.task_id.hex(),
        queue=claims.audience.queue,
        key=envelope.key.name,
        body_size_bytes=claims.body.size_bytes,
    )

    # 6. It is meant for this handler, came through the queue it was signed for, and its time is now.
    runtime.policy.check_audience(claims, dispatch.queue)
    # A sweep calls no function: it sends what is sealed already, early or late. Only this library signs one.
    if claims.type is TaskType.SWEEP:
        report = run_sweep(runtime)
        return Reason.SWEPT, f"{report.sent} sent, {report.buried} given up, {report.left} left"
    attempted.verified = envelope
    check_times(runtime, claims, data)

    # Tasks of an iteration: what they call is in a sealed plan, and in the ledger they always are.
    if claims.type in ITERATION:
        return _iterate(runtime, dispatch, progress, envelope, data)

    # 7. The function is registered; its parameters may have changed since, which decoding decides.
    function = runtime.registry.find(claims.function.name, claims.function.version)

    # 8. The ledger does not know it as executed, nor as being executed.
    uses_ledger = function.ledger or claims.body.storage is Storage.OVERFLOW
    standing = runtime.ledger.look(claims) if uses_ledger else None
    if standing is not None:
        check_standing(runtime, standing.claim, claims, data)

    # 9. The body is the one that was signed, wherever it was kept.
    body = _fetch_body(runtime, envelope)

    # 10. The arguments, decoded along the function's annotations.
    decoded = decode_arguments(function.parameters, body, runtime.resolver)

    # 11. The right to execute is taken, for a time; of several dispatches of one task one gets it.
    if standing is not None:
        lease = check_standing(runtime, runtime.ledger.claim(claims, standing), claims, data)
        if lease is not None:
            attempted.take(lease)
            progress.learn(attempt=attempted.number)

    # 12. The rows are loaded, the decision is recorded, and the function runs.
    try:
        arguments = load_arguments(runtime, function, decoded)
        note = _note(function, envelope)
        runtime.audit.emit(replace(progress.event, accepted=True, reason=note, severity=Severity.INFO))
        task = describe_task(runtime, claims, dispatch, attempted.number)
        attempted.executed = True
        call_function(runtime, function, body, arguments, task)
    except FunctionFailedError as failure:
        match failure.__cause__:
            case Drop() as drop:
                _finish(runtime, attempted, claims)
                return Reason.DROPPED, drop.reason
            case Retry() as retry if not attempted.is_last(runtime.clock.time()):
                raise postponed(runtime, attempted, claims, data, retry.after) from None
            case cause:
                return Reason.FUNCTION_FAILED, type(cause).__name__
    except ReferenceMissingError as error:
        attempted.executed = True  # The function's own policy decides on it, and its attempts bound it.
        if error.detail == "drop":
            _finish(runtime, attempted, claims)
        raise

    # 13. Its end is recorded before the queue is told; what was kept for it is removed.
    _finish(runtime, attempted, claims)
    return Reason.EXECUTED, ""


def _iterate(
    runtime: Runtime, dispatch: Dispatch, progress: _Progress, envelope: VerifiedEnvelope, data: bytes
) -> tuple[Reason, str]:
    """Steps 8 to 13 for a task of an iteration, whose work ends in commands."""
    claims, attempted = envelope.claims, progress.attempted
    standing = runtime.ledger.look(claims)
    check_standing(runtime, standing.claim, claims, data)
    body = _fetch_body(runtime, envelope)
    lease = check_standing(runtime, runtime.ledger.claim(claims, standing), claims, data)
    if lease is None:
        raise LeaseLostError("another worker has claimed the task")
    attempted.take(lease)
    attempted.executed = True
    progress.learn(attempt=attempted.number)
    runtime.audit.emit(replace(progress.event, accepted=True, reason=Reason.ACCEPTED, severity=Severity.INFO))
    try:
        ended = work_on(runtime, body, data, describe_task(runtime, claims, dispatch, attempted.number))
    except FunctionFailedError as failure:
        cause = failure.__cause__
        if isinstance(cause, Retry) and not attempted.is_last(runtime.clock.time()):
            raise postponed(runtime, attempted, claims, data, cause.after) from None
        return Reason.FUNCTION_FAILED, type(cause).__name__
    if ended is None:
        _finish(runtime, attempted, claims)
        return Reason.EXECUTED, "the iteration is gone"
    for command in ended.commands:
        match command:
            case CreateSlice() | CreateFinalize():
                function = function_of(ended.walk, command).ref
                create_iteration_task(runtime, ended.walk.claims, ended.run, command, function)
            case Reissue(at=at):
                runtime.ledger.release(lease, until=at)
                attempted.lease = None
                raise LaterError(Reason.LEASE_HELD, claims, data, at=at, mark=f"after {lease.entry.fence}")
            case Acknowledge():
                _finish(runtime, attempted, claims)
                forget_run(runtime, ended)
                return Reason.EXECUTED, ""
            case Stop():
                break
    raise LeaseLostError("a task of an iteration cannot end yet")


def _reissue(runtime: Runtime, dispatch: Dispatch, later: LaterError) -> tuple[Reason, str]:
    try:
        reissue(runtime, later.claims, later.envelope, at=later.at, mark=later.mark, present=dispatch.task_name)
    except ReissueError as error:
        return Reason.REISSUE_FAILED, type(error.__cause__).__name__
    except TooEarlyError:
        return later.reason, _TOO_EARLY
    return later.reason, ""


def _finish(runtime: Runtime, attempted: Attempted, claims: Claims) -> None:
    lease, attempted.lease = attempted.lease, None
    if lease is not None:
        runtime.ledger.finish(lease)
        discard_overflow(runtime, claims)


def _give_back(runtime: Runtime, lease: Lease, *, executed: bool) -> None:
    try:
        runtime.ledger.release(lease, executed=executed)
    except UnavailableError as error:
        # The lease ends by itself, or is another worker's already: the next dispatch waits for its end.
        log_failure("a lease could not be given back", error)
    except Exception as error:  # noqa: BLE001  # A store that fails in an unforeseen way: likewise.
        log_failure("a lease could not be given back", error)


def _unavailable(error: UnavailableError) -> Reason:
    match error:
        case TokenKeysUnavailableError():
            return Reason.TOKEN_KEYS_UNAVAILABLE
        case LeaseLostError():
            return Reason.LEASE_LOST
        case StoreUnavailableError():
            return Reason.STORE_UNAVAILABLE
        case QueueUnavailableError():
            return Reason.REISSUE_FAILED
        case _:
            return Reason.REFERENCES_UNAVAILABLE


def _fetch_body(runtime: Runtime, envelope: VerifiedEnvelope) -> VerifiedBody:
    claims = envelope.claims
    if claims.body.codec != CODEC_ID:
        raise ClaimsError(Reason.TYPE_UNSUPPORTED, "a body in another encoding")
    if claims.body.storage is Storage.INLINE:
        return verify_body(envelope)
    if claims.body.size_bytes > runtime.body_cap_bytes:
        raise ArgumentsRefusedError(Reason.BODY_LIMITS, "the body is larger than this service's cap")
    return verify_body(envelope, read_overflow(runtime.records, claims))


def _note(function: RegisteredFunction, envelope: VerifiedEnvelope) -> Reason:
    """An accepted call whose function has changed since is told apart in the audit."""
    changed = function.ref.fingerprint != envelope.claims.function.fingerprint
    return Reason.SCHEMA_CHANGED if changed else Reason.ACCEPTED


def _record(runtime: Runtime, event: AuditEvent, outcome: Outcome) -> Outcome:
    try:
        runtime.audit.emit(event)
    except Exception as error:  # noqa: BLE001  # See below.
        log_failure("an audit event could not be recorded", error)
        # What has run must not run again for want of a record; what has not run waits until there can be one.
        if outcome.verdict not in _RAN:
            return Outcome(Verdict.UNAVAILABLE, Reason.INTERNAL_ERROR)
    return outcome
