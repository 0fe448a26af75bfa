"""A dead letter becomes a task again: a new one, signed anew, if its envelope verifies under a live key."""

from dataclasses import replace
from hashlib import sha256
from typing import Final

from safedefer.core.audit import Action, AuditEvent, Severity
from safedefer.core.claims import Claims, Delivery, Lineage, Storage, TaskType
from safedefer.core.deadletter import DeadLetter
from safedefer.core.envelope import parse_envelope
from safedefer.core.ledger import Busy, Claimed, Finished
from safedefer.core.names import TASK_ID_BYTES, TaskId
from safedefer.core.pae import encode_pieces
from safedefer.core.routing import Route
from safedefer.core.signing import VerifiedBody, VerifiedEnvelope, sign_envelope, verify_body, verify_envelope
from safedefer.errors import DeadLetterError, Reason, RecordConflictError, RejectedError
from safedefer.flow.deadletters import find_letter, read_envelope, remove_letter
from safedefer.flow.iteration_walk import end_of_plan, read_run
from safedefer.flow.ledger import record_expiry
from safedefer.flow.overflow import read_overflow, remove_overflow, write_overflow
from safedefer.flow.runtime import Runtime
from safedefer.flow.tasks import make_task

_LEAST_LIFETIME: Final = 3_600


def redrive_letter(runtime: Runtime, letter_id: str, *, force: bool = False) -> str:
    """Have the call of a dead letter run again, as a task of its own, and remove the letter.

    The new task id follows from the letter, so that doing it twice makes one task; what it may do comes from the
    verified envelope alone. That the old one has expired does not matter: a person asks for it. From then on the ledger
    has the old call as given up, whatever still brings it.

    Args:
        force: Also where the ledger may have forgotten that the call was executed.
    Returns:
        The new task id, in hex.
    Raises:
        DeadLetterError: There is no such letter, no live key vouches for it, it is meant for another handler, or its
            call has been executed, may have been, or is being executed.
        ConfigurationError: No such queue, or Cloud Tasks refuses the task.
        UnavailableError: The store or Cloud Tasks did not answer; the letter stays.
    """
    letter = find_letter(runtime.records, letter_id)
    envelope = _verify(runtime, letter)
    old = envelope.claims
    body = _fetch_body(runtime, envelope)
    _end_old_call(runtime, old, letter, force=force)
    claims = _renew(runtime, old, letter)
    outside = claims.body.storage is Storage.OVERFLOW
    if outside:
        remove_overflow(runtime.records, claims)  # Of an earlier try that was cut off.
        write_overflow(runtime.records, claims, body.data)
    sealed = sign_envelope(claims, b"" if outside else body.data, runtime.ring.primary, runtime.deployment)
    runtime.sender.send(runtime.sender.prepare(make_task(claims, sealed, schedule_time=None)))
    runtime.audit.emit(
        AuditEvent(
            action=Action.REDRIVE,
            accepted=True,
            reason=Reason.REDRIVEN,
            severity=Severity.NOTICE,
            detail=f"of {old.task_id.hex()}",
            function=claims.function.name,
            function_version=claims.function.version,
            task_id=claims.task_id.hex(),
            queue=claims.audience.queue,
            key=runtime.ring.primary.name,
            body_size_bytes=claims.body.size_bytes,
        )
    )
    remove_letter(runtime.records, letter.id)
    remove_overflow(runtime.records, old)
    return claims.task_id.hex()


def purge_letter(runtime: Runtime, letter_id: str) -> None:
    """Remove a dead letter for good, with the body that was kept for it.

    Raises:
        DeadLetterError: There is none.
        StoreUnavailableError: The store did not answer.
    """
    letter = find_letter(runtime.records, letter_id)
    try:
        data = read_envelope(runtime.records, letter)
        claims = verify_envelope(parse_envelope(data), runtime.ring, runtime.deployment).claims
    except (RejectedError, DeadLetterError):
        claims = None  # Nobody vouches for it, so that nothing was kept for it.
    remove_letter(runtime.records, letter.id)
    if claims is not None and claims.task_id.hex() == letter.id:
        remove_overflow(runtime.records, claims)


def _end_old_call(runtime: Runtime, old: Claims, letter: DeadLetter, *, force: bool) -> None:
    """Have the ledger say that the old call is given up, so that it cannot run beside the new one."""
    if letter.buried_at > record_expiry(old) and not force:
        raise DeadLetterError(
            "this call came so long after its expiry that the ledger may have forgotten its execution; make sure that "
            "it was not executed, and use --force"
        )
    if old.type is TaskType.PLAN and (read_run(runtime, old.task_id) or end_of_plan(runtime, old)):
        # Its own acknowledgement may have been lost.
        raise DeadLetterError(
            "this iteration has begun, as safedefer_iterations shows, or is over; its plan can only be purged"
        )
    standing = runtime.ledger.look(old)
    match standing.claim:
        case Finished(dead=True):
            return
        case Finished():
            raise DeadLetterError("the ledger says that this call has been executed; it can only be purged")
        case Busy():
            raise DeadLetterError("this call is being executed, or waits to be; look again later")
        case Claimed():
            pass
    try:
        runtime.records.commit([runtime.ledger.burial(old, standing)])
    except RecordConflictError:
        raise DeadLetterError("this call has just been claimed; look again later") from None


def _verify(runtime: Runtime, letter: DeadLetter) -> VerifiedEnvelope:
    try:
        data = read_envelope(runtime.records, letter)
        envelope = verify_envelope(parse_envelope(data), runtime.ring, runtime.deployment)
        claims = envelope.claims
        runtime.policy.check_audience(claims, claims.audience.queue)
        if claims.type is TaskType.CALL:
            runtime.registry.find(claims.function.name, claims.function.version)
    except RejectedError as error:
        raise DeadLetterError(f"this dead letter cannot be driven again ({error.reason}); it can be purged") from None
    if letter.is_signed and letter.id != claims.task_id.hex():
        raise DeadLetterError("this dead letter holds the envelope of another call; it can only be purged")
    return envelope


def _fetch_body(runtime: Runtime, envelope: VerifiedEnvelope) -> VerifiedBody:
    claims = envelope.claims
    try:
        if claims.body.storage is Storage.INLINE:
            return verify_body(envelope)
        return verify_body(envelope, read_overflow(runtime.records, claims))
    except RejectedError as error:
        raise DeadLetterError(f"the arguments of this dead letter are not what was signed ({error.reason})") from None


def _route(runtime: Runtime, old: Claims) -> Route:
    """The same service, but not its old version: another one may be what it waited for."""
    usual = runtime.default_route
    return usual if old.delivery.route.service == usual.service else Route(service=old.delivery.route.service)


def _renew(runtime: Runtime, old: Claims, letter: DeadLetter) -> Claims:
    now = int(runtime.clock.time())
    seed = encode_pieces(b"safedefer.redrive", old.task_id, str(letter.buried_at).encode())
    lifetime = max(old.expires_at - old.not_before, _LEAST_LIFETIME)
    return replace(
        old,
        task_id=TaskId(sha256(seed).digest()[:TASK_ID_BYTES]),
        lineage=Lineage(root=old.lineage.root, parent=old.task_id, generation=old.lineage.generation + 1),
        issued_at=now,
        not_before=now,
        expires_at=now + min(lifetime, int(runtime.policy.max_age.total_seconds())),
        delivery=Delivery(route=_route(runtime, old)),
    )
