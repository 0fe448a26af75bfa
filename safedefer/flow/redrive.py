"""A dead letter becomes a task again: a new one, signed anew, if its envelope verifies under a live key."""

from dataclasses import replace
from hashlib import sha256
from typing import Final

from safedefer.core.audit import Action, AuditEvent, Severity
from safedefer.core.claims import Claims, Delivery, Lineage, Storage, TaskType
from safedefer.core.deadletter import DeadLetter
from safedefer.core.envelope import parse_envelope
from safedefer.core.ledger import Finished
from safedefer.core.names import TASK_ID_BYTES, TaskId
from safedefer.core.pae import encode_pieces
from safedefer.core.signing import VerifiedBody, VerifiedEnvelope, sign_envelope, verify_body, verify_envelope
from safedefer.errors import DeadLetterError, Reason, RejectedError
from safedefer.flow.deadletters import find_letter, read_envelope, remove_letter
from safedefer.flow.overflow import read_overflow, remove_overflow, write_overflow
from safedefer.flow.runtime import Runtime
from safedefer.flow.tasks import make_task

_LEAST_LIFETIME: Final = 3_600


def redrive_letter(runtime: Runtime, letter_id: str) -> str:
    """Have the call of a dead letter run again, as a task of its own, and remove the letter.

    The new task id follows from the letter, so that doing it twice makes one task; what it may do comes from the
    verified envelope alone. That the old one has expired does not matter: a person asks for it.

    Returns:
        The new task id, in hex.
    Raises:
        DeadLetterError: There is no such letter, no live key vouches for it, it is meant for another handler, or its
            call has been executed.
        ConfigurationError: No such queue, or Cloud Tasks refuses the task.
        UnavailableError: The store or Cloud Tasks did not answer; the letter stays.
    """
    letter = find_letter(runtime.records, letter_id)
    envelope = _verify(runtime, letter)
    old = envelope.claims
    if runtime.ledger.look(old).claim == Finished():
        raise DeadLetterError("the ledger says that this call has been executed; it can only be purged")
    body = _fetch_body(runtime, envelope)
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
    remove_letter(runtime.records, letter)
    remove_overflow(runtime.records, old)
    return claims.task_id.hex()


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
        delivery=Delivery(route=old.delivery.route),
    )
