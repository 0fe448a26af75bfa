"""Dispatch -> verified call -> function -> outcome. Every way to run a function goes through `handle_dispatch`.

The checks are numbered and stand in their order: nothing is parsed before it is authenticated, except the fixed frame
that carries the tag; nothing is executed before everything was checked.
"""

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Final, final

from safedefer.core.audit import Action, AuditEvent, Severity
from safedefer.core.claims import CODEC_ID, Claims, Storage
from safedefer.core.codec import Arguments, DecodedArguments, decode_arguments
from safedefer.core.envelope import CONTENT_TYPE, parse_envelope
from safedefer.core.function import RegisteredFunction
from safedefer.core.ledger import Busy, Claim, Claimed, Finished
from safedefer.core.limits import CLOCK_SKEW
from safedefer.core.signing import VerifiedBody, VerifiedEnvelope, verify_body, verify_envelope
from safedefer.errors import (
    AlreadyExecutedError,
    ArgumentsRefusedError,
    ClaimsError,
    FunctionFailedError,
    LeaseLostError,
    Reason,
    ReferenceMissingError,
    RejectedError,
    RequestRefusedError,
    StoreUnavailableError,
    TokenKeysUnavailableError,
    UnavailableError,
)
from safedefer.flow.defer import discard_overflow
from safedefer.flow.ledger import Lease
from safedefer.flow.lineage import executing
from safedefer.flow.outcome import Outcome, Verdict, judge
from safedefer.flow.overflow import read_overflow
from safedefer.flow.reissue import ReissueError, TooEarlyError, reissue
from safedefer.flow.runtime import Runtime

logger: Final = logging.getLogger("safedefer.task")
_MAX_LENGTH_DIGITS: Final = 10
_MAX_ATTEMPT_DIGITS: Final = 9


@final
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Dispatch:
    """One HTTP request to the handler, as it came.

    Trust: everything here comes from the network.

    Attributes:
        method: HTTP method.
        content_type: The header's value, or None.
        content_length: The header's value, or None.
        authorization: The header's value, or None.
        queue: X-CloudTasks-QueueName; believed only once the identity token has been verified.
        task_name: X-CloudTasks-TaskName; likewise.
        retry_count: X-CloudTasks-TaskRetryCount; likewise.
        read: Reads the given number of bytes of the body, or fewer where it ends.
    """

    method: str
    content_type: str | None
    content_length: str | None
    authorization: str | None
    queue: str | None
    task_name: str | None
    retry_count: str | None
    read: Callable[[int], bytes]


@final
@dataclass(slots=True)
class _Progress:
    """What is known of a dispatch so far, for its audit event."""

    started: float
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
        _log_failure("dispatch failed inside safedefer", error)
    usual = judge(reason)
    outcome = Outcome(verdict or usual[0], reason)
    progress.learn(
        accepted=outcome.verdict in _RAN,
        reason=reason,
        severity=severity or usual[1],
        detail=detail,
        outcome=outcome.verdict.value,
        duration_ms=round((runtime.clock.time() - progress.started) * 1000, 3),
    )
    return _record(runtime, progress.event, outcome)


_RAN: Final = frozenset({Verdict.DONE, Verdict.FAILED})
_MISSING: Final = {
    "drop": (Verdict.DROP, Severity.NOTICE),
    "retry": (Verdict.RETRY, Severity.NOTICE),
    "fail": (Verdict.REFUSED, Severity.WARNING),
}
_TOO_EARLY: Final = "the reissued task has come before its time"


def _execute_or_reissue(runtime: Runtime, dispatch: Dispatch, progress: _Progress) -> tuple[Reason, str]:
    try:
        return _verify_and_execute(runtime, dispatch, progress)
    except _LaterError as later:
        return _reissue(runtime, dispatch, later)


def _verify_and_execute(runtime: Runtime, dispatch: Dispatch, progress: _Progress) -> tuple[Reason, str]:
    # 1. It has the form of a dispatch: method, content type, one bounded length.
    length = _check_form(runtime, dispatch)

    # 2. The identity token proves that our queue called. From here on the X-CloudTasks-* headers are Google's.
    caller = runtime.tokens.verify(dispatch.authorization)
    progress.learn(actor=caller.email, attempt=_attempt(dispatch.retry_count))

    # 3. The body is read, as long as it said it is.
    data = _read_exactly(dispatch, length)

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
    _check_times(runtime, claims, data)

    # 7. The function is registered; its parameters may have changed since, which decoding decides.
    function = runtime.registry.find(claims.function.name, claims.function.version)

    # 8. The ledger does not know it as executed, nor as being executed.
    uses_ledger = function.ledger or claims.body.storage is Storage.OVERFLOW
    standing = runtime.ledger.look(claims) if uses_ledger else None
    if standing is not None:
        _check_standing(runtime, standing.claim, claims, data)

    # 9. The body is the one that was signed, wherever it was kept.
    body = _fetch_body(runtime, envelope)

    # 10. The arguments, decoded along the function's annotations.
    decoded = decode_arguments(function.parameters, body, runtime.resolver)

    # 11. The right to execute is taken, for a time; of several dispatches of one task one gets it.
    lease: Lease | None = None
    if standing is not None:
        claim = runtime.ledger.claim(claims, standing)
        lease = _check_standing(runtime, claim, claims, data)
    if lease is not None:
        progress.learn(attempt=lease.entry.attempts)

    # 12. The rows are loaded, the decision is recorded, and the function runs.
    try:
        arguments = _load(runtime, function, decoded)
        note = _note(function, envelope)
        runtime.audit.emit(replace(progress.event, accepted=True, reason=note, severity=Severity.INFO))
        _run(runtime, function, body, arguments)
    except FunctionFailedError as failure:
        _give_back(runtime, lease)
        return Reason.FUNCTION_FAILED, type(failure.__cause__).__name__
    except ReferenceMissingError as error:
        if error.detail == "drop":
            _finish(runtime, lease, claims)
        else:
            _give_back(runtime, lease)
        raise
    except Exception:
        _give_back(runtime, lease)
        raise

    # 13. Its end is recorded before the queue is told; what was kept for it is removed.
    _finish(runtime, lease, claims)
    return Reason.EXECUTED, ""


@final
class _LaterError(Exception):
    """Not now: the call is to come again at a given time."""

    def __init__(self, reason: Reason, claims: Claims, envelope: bytes, *, at: float, mark: str) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.claims = claims
        self.envelope = envelope
        self.at = at
        self.mark = mark


def _check_times(runtime: Runtime, claims: Claims, data: bytes) -> None:
    try:
        runtime.policy.check_times(claims, runtime.clock.time())
    except ClaimsError as error:
        if error.reason is not Reason.NOT_YET_VALID:
            raise
        start = claims.not_before
        raise _LaterError(error.reason, claims, data, at=start, mark=f"not before {start}") from None


def _check_standing(runtime: Runtime, claim: Claim | Lease, claims: Claims, data: bytes) -> Lease | None:
    """Refuse what is done or under way; give back the lease, if it is one."""
    match claim:
        case Finished():
            # Whoever executed it may have been stopped before it removed the stored body.
            discard_overflow(runtime, claims)
            raise AlreadyExecutedError(Reason.ALREADY_EXECUTED)
        case Busy():
            # A little later than the lease ends, so that no clock finds it still held.
            at = claim.lease_until + CLOCK_SKEW.total_seconds()
            raise _LaterError(Reason.LEASE_HELD, claims, data, at=at, mark=f"lease {claim.fence}")
        case Lease():
            return claim
        case Claimed():
            return None


def _reissue(runtime: Runtime, dispatch: Dispatch, later: _LaterError) -> tuple[Reason, str]:
    try:
        reissue(runtime, later.claims, later.envelope, at=later.at, mark=later.mark, present=dispatch.task_name)
    except ReissueError as error:
        return Reason.REISSUE_FAILED, type(error.__cause__).__name__
    except TooEarlyError:
        return later.reason, _TOO_EARLY
    return later.reason, ""


def _finish(runtime: Runtime, lease: Lease | None, claims: Claims) -> None:
    if lease is not None:
        runtime.ledger.finish(lease)
        discard_overflow(runtime, claims)


def _give_back(runtime: Runtime, lease: Lease | None) -> None:
    if lease is None:
        return
    try:
        runtime.ledger.release(lease)
    except UnavailableError as error:
        # The lease ends by itself, or is another worker's already: the next dispatch waits for its end.
        _log_failure("a lease could not be given back", error)


def _unavailable(error: UnavailableError) -> Reason:
    match error:
        case TokenKeysUnavailableError():
            return Reason.TOKEN_KEYS_UNAVAILABLE
        case LeaseLostError():
            return Reason.LEASE_LOST
        case StoreUnavailableError():
            return Reason.STORE_UNAVAILABLE
        case _:
            return Reason.REFERENCES_UNAVAILABLE


def _check_form(runtime: Runtime, dispatch: Dispatch) -> int:
    if dispatch.method != "POST":
        raise RequestRefusedError(Reason.METHOD_NOT_ALLOWED)
    if dispatch.content_type != CONTENT_TYPE:
        raise RequestRefusedError(Reason.CONTENT_TYPE_WRONG)
    text = dispatch.content_length
    if not text:
        raise RequestRefusedError(Reason.LENGTH_MISSING)
    if not (text.isascii() and text.isdigit()):
        raise RequestRefusedError(Reason.LENGTH_WRONG)
    if len(text) > _MAX_LENGTH_DIGITS or int(text) > runtime.request_cap_bytes:
        raise RequestRefusedError(Reason.BODY_TOO_LARGE)
    return int(text)


def _read_exactly(dispatch: Dispatch, length: int) -> bytes:
    parts: list[bytes] = []
    missing = length
    while missing > 0:
        try:
            part = dispatch.read(missing)
        except OSError:  # The connection broke off in the middle.
            part = b""
        if not part:
            raise RequestRefusedError(Reason.LENGTH_WRONG)
        parts.append(part)
        missing -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _fetch_body(runtime: Runtime, envelope: VerifiedEnvelope) -> VerifiedBody:
    claims = envelope.claims
    if claims.body.codec != CODEC_ID:
        raise ClaimsError(Reason.TYPE_UNSUPPORTED, "a body in another encoding")
    if claims.body.storage is Storage.INLINE:
        return verify_body(envelope)
    if claims.body.size_bytes > runtime.body_cap_bytes:
        raise ArgumentsRefusedError(Reason.BODY_LIMITS, "the body is larger than this service's cap")
    return verify_body(envelope, read_overflow(runtime.records, claims))


def _load(runtime: Runtime, function: RegisteredFunction, decoded: DecodedArguments) -> Arguments:
    if not decoded.references:
        return decoded.build({})
    rows = runtime.resolver.resolve(decoded.references)
    if any(reference not in rows for reference in decoded.references):
        raise ReferenceMissingError(Reason.REFERENCE_MISSING, function.missing)
    return decoded.build(rows)


def _note(function: RegisteredFunction, envelope: VerifiedEnvelope) -> Reason:
    """An accepted call whose function has changed since is told apart in the audit."""
    changed = function.ref.fingerprint != envelope.claims.function.fingerprint
    return Reason.SCHEMA_CHANGED if changed else Reason.ACCEPTED


def _run(runtime: Runtime, function: RegisteredFunction, body: VerifiedBody, arguments: Arguments) -> None:
    """Call the function. It takes a VerifiedBody as proof that the checks above were made.

    Raises:
        FunctionFailedError: The function raised; its exception is the cause.
    """
    token = executing.set(body.claims)
    try:
        runtime.invoker.call(function.function, arguments.args, arguments.kwargs)
    except (KeyboardInterrupt, GeneratorExit):  # The process is ending.
        raise
    except BaseException as error:  # The function may raise anything, such as CancelledError; each means a retry.
        failure = FunctionFailedError(f"{function.name} failed in task {body.claims.task_id.hex()}")
        failure.__cause__ = error
        _report(runtime, function, body, failure)
        raise failure from error
    finally:
        executing.reset(token)


def _report(runtime: Runtime, function: RegisteredFunction, body: VerifiedBody, failure: FunctionFailedError) -> None:
    if failure.__cause__ is not None:
        _log_failure(str(failure), failure.__cause__)
    try:
        runtime.failures.failed(function.name, body.claims.task_id.hex(), failure)
    except Exception as error:  # noqa: BLE001  # An error reporter must not change what becomes of the task.
        _log_failure("reporting a failed task failed", error)


def _record(runtime: Runtime, event: AuditEvent, outcome: Outcome) -> Outcome:
    try:
        runtime.audit.emit(event)
    except Exception as error:  # noqa: BLE001  # See below.
        _log_failure("an audit event could not be recorded", error)
        # What has run must not run again for want of a record; what has not run waits until there can be one.
        if outcome.verdict not in _RAN:
            return Outcome(Verdict.UNAVAILABLE, Reason.INTERNAL_ERROR)
    return outcome


def _attempt(retry_count: str | None) -> int | None:
    if retry_count and retry_count.isascii() and retry_count.isdigit() and len(retry_count) <= _MAX_ATTEMPT_DIGITS:
        return int(retry_count) + 1
    return None


def _log_failure(what: str, error: BaseException) -> None:
    """Log where an error came from. Its message and its locals may hold arguments, and stay out."""
    logger.error("%s: %s\n%s", what, type(error).__qualname__, _places(error.__traceback__))


def _places(trace: TracebackType | None) -> str:
    frames = traceback.extract_tb(trace)
    return "\n".join(f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)
