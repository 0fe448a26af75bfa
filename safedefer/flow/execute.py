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
from safedefer.core.claims import Storage
from safedefer.core.codec import Arguments, DecodedArguments, decode_arguments
from safedefer.core.envelope import CONTENT_TYPE, parse_envelope
from safedefer.core.function import RegisteredFunction
from safedefer.core.signing import VerifiedBody, VerifiedEnvelope, verify_body, verify_envelope
from safedefer.errors import (
    ClaimsError,
    FunctionFailedError,
    Reason,
    ReferenceMissingError,
    RejectedError,
    RequestRefusedError,
    TokenKeysUnavailableError,
    UnavailableError,
)
from safedefer.flow.lineage import executing
from safedefer.flow.outcome import Outcome, Verdict, judge
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
        retry_count: X-CloudTasks-TaskRetryCount; likewise.
        read: Reads the given number of bytes of the body, or fewer where it ends.
    """

    method: str
    content_type: str | None
    content_length: str | None
    authorization: str | None
    queue: str | None
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
    try:
        reason, detail = _verify_and_execute(runtime, dispatch, progress)
    except RejectedError as error:
        reason, detail = error.reason, error.detail
    except TokenKeysUnavailableError:
        reason, detail = Reason.TOKEN_KEYS_UNAVAILABLE, ""
    except UnavailableError as error:
        reason, detail = Reason.REFERENCES_UNAVAILABLE, type(error).__name__
    except Exception as error:  # noqa: BLE001  # A fault of ours answers 503: the task stays, and is looked at.
        reason, detail = Reason.INTERNAL_ERROR, type(error).__name__
        _log_failure("dispatch failed inside safedefer", error)
    verdict, severity = judge(reason)
    if reason is Reason.REFERENCE_MISSING:
        verdict, severity = _MISSING[detail]  # The detail is the function's own policy.
    outcome = Outcome(verdict, reason)
    progress.learn(
        accepted=verdict in _RAN,
        reason=reason,
        severity=severity,
        detail=detail,
        outcome=verdict.value,
        duration_ms=round((runtime.clock.time() - progress.started) * 1000, 3),
    )
    return _record(runtime, progress.event, outcome)


_RAN: Final = frozenset({Verdict.DONE, Verdict.FAILED})
_MISSING: Final = {
    "drop": (Verdict.DROP, Severity.NOTICE),
    "retry": (Verdict.RETRY, Severity.NOTICE),
    "fail": (Verdict.REFUSED, Severity.WARNING),
}


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
    runtime.policy.check_times(claims, runtime.clock.time())

    # 7. The function is registered; its parameters may have changed since, which decoding decides.
    function = runtime.registry.find(claims.function.name, claims.function.version)

    # 8. The body is the one that was signed.
    body = _fetch_body(envelope)

    # 9. The arguments, decoded along the function's annotations, and the rows they refer to.
    decoded = decode_arguments(function.parameters, body, runtime.resolver)
    arguments = _load(runtime, function, decoded)

    # 10. The decision is recorded before it takes effect.
    runtime.audit.emit(replace(progress.event, accepted=True, reason=_note(function, envelope), severity=Severity.INFO))

    # 11. The function runs.
    return _run(runtime, function, body, arguments)


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
        part = dispatch.read(missing)
        if not part:
            raise RequestRefusedError(Reason.LENGTH_WRONG)
        parts.append(part)
        missing -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _fetch_body(envelope: VerifiedEnvelope) -> VerifiedBody:
    if envelope.claims.body.storage is not Storage.INLINE:
        raise ClaimsError(Reason.STORAGE_UNSUPPORTED)
    return verify_body(envelope)


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


def _run(
    runtime: Runtime, function: RegisteredFunction, body: VerifiedBody, arguments: Arguments
) -> tuple[Reason, str]:
    """Call the function. It takes a VerifiedBody as proof that the checks above were made."""
    token = executing.set(body.claims)
    try:
        runtime.invoker.call(function.function, arguments.args, arguments.kwargs)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # The function may raise anything; each means a retry.
        _report(runtime, function, body, error)
        return Reason.FUNCTION_FAILED, type(error).__name__
    finally:
        executing.reset(token)
    return Reason.EXECUTED, ""


def _report(runtime: Runtime, function: RegisteredFunction, body: VerifiedBody, error: BaseException) -> None:
    task_id = body.claims.task_id.hex()
    _log_failure(f"{function.name} failed in task {task_id}", error)
    failure = FunctionFailedError(f"{function.name} failed in task {task_id}")
    failure.__cause__ = error
    try:
        runtime.failures.failed(function.name, task_id, failure)
    except Exception as reporting:  # noqa: BLE001  # An error reporter must not change what becomes of the task.
        _log_failure("reporting a failed task failed", reporting)


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
