"""Sends what was committed: at once by whoever committed it, later by a relay if that process died before it could.

The relay verifies each envelope and takes everything from its claims. It signs no call. The one thing that is signed
here is the sweep: a task that runs the relay, named by a bucket of time, so that any number of processes make one.
"""

import logging
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Final, final

from safedefer.core.audit import Action, AuditEvent, Severity
from safedefer.core.claims import Claims, Delivery, FunctionRef, Lineage, Storage, TaskType
from safedefer.core.envelope import parse_envelope
from safedefer.core.ledger import Claimed
from safedefer.core.limits import (
    DEFAULT_DISPATCH_DEADLINE,
    MAX_REQUEST_BYTES,
    OUTBOX_AGE,
    OUTBOX_DELAY,
    SWEEP_BUCKET,
    SWEEP_LONG_BUCKET,
)
from safedefer.core.names import TASK_ID_BYTES, FunctionName, TaskId, TaskName
from safedefer.core.outbox import WaitingCall
from safedefer.core.pae import encode_pieces
from safedefer.core.parameters import FINGERPRINT_BYTES
from safedefer.core.signing import claim_body, sign_envelope, verify_envelope
from safedefer.errors import (
    ConfigurationError,
    Reason,
    RejectedError,
    SafeDeferError,
    UnavailableError,
    UsageError,
)
from safedefer.flow.calling import log_failure
from safedefer.flow.deadletters import bury_call, bury_envelope
from safedefer.flow.runtime import Runtime
from safedefer.flow.tasks import make_task

logger: Final = logging.getLogger("safedefer.outbox")

SWEEP: Final = FunctionRef(name=FunctionName("safedefer.sweep"), version=0, fingerprint=bytes(FINGERPRINT_BYTES))
"""What the claims of a sweep call its function. Nothing is registered under it."""
_NO_BODY: Final = b""
_OF_ANOTHER: Final = frozenset({Reason.KEY_UNKNOWN, Reason.TYPE_UNSUPPORTED, Reason.AUDIENCE_MISMATCH})
_PAGE: Final = 20
_LEASE: Final = timedelta(minutes=1)
_NAME_DIGITS: Final = 40


@final
@dataclass(slots=True)
class RelayReport:
    """What one run of the relay has done.

    Attributes:
        sent: Calls that Cloud Tasks has now.
        buried: Calls that became dead letters.
        left: Calls that wait on.
    """

    sent: int = 0
    buried: int = 0
    left: int = 0


def relay_waiting(runtime: Runtime, *, older_than: timedelta = OUTBOX_DELAY) -> RelayReport:
    """Send what waits in the outboxes of all databases, under the same task names, so that nothing is doubled.

    Args:
        older_than: Leave what is younger to the process that has just committed it.
    """
    report = RelayReport()
    now = runtime.clock.time()
    while page := runtime.outbox.claim(
        older_than=int(now - older_than.total_seconds()), now=int(now), lease=_LEASE, limit=_PAGE
    ):
        for call in page:
            try:
                _relay(runtime, call, report)
            except UnavailableError as error:
                # The lease on the row ends by itself; the next sweep tries again.
                logger.warning("call %s waits on in the outbox: %s", call.task_id, error)
                report.left += 1
            except Exception as error:  # noqa: BLE001  # One row must not keep those behind it waiting.
                log_failure(f"call {call.task_id} waits on in the outbox", error)
                report.left += 1
    return report


def _relay(runtime: Runtime, call: WaitingCall, report: RelayReport) -> None:
    try:
        envelope = verify_envelope(parse_envelope(call.envelope), runtime.ring, runtime.deployment)
        claims = envelope.claims
        runtime.policy.check_audience(claims, claims.audience.queue)
    except RejectedError as error:
        if error.reason in _OF_ANOTHER and runtime.clock.time() - call.created_at < OUTBOX_AGE.total_seconds():
            # Another revision, or another service on this database, knows what to do with it.
            report.left += 1
            return
        sealed = call.envelope[:MAX_REQUEST_BYTES]  # Nothing that this library seals is longer.
        bury_envelope(runtime, sealed, reason=error.reason, detail="in the outbox", queue=None)
        _settle(runtime, call, None, error.reason, Severity.CRITICAL)
        report.buried += 1
        return
    now = runtime.clock.time()
    try:
        if now > claims.expires_at:
            raise ConfigurationError("expired")  # It can never be sent.
        start = float(claims.not_before)
        runtime.sender.send(
            runtime.sender.prepare(make_task(claims, call.envelope, schedule_time=start if start > now else None))
        )
    except (ConfigurationError, UsageError) as error:
        expired = now > claims.expires_at
        if not expired and now - call.created_at < OUTBOX_AGE.total_seconds():
            logger.warning("call %s waits on in the outbox: %s", call.task_id, error)
            report.left += 1
            return
        reason = Reason.EXPIRED if expired else Reason.NEVER_SENT
        standing = runtime.ledger.look(claims)
        if isinstance(standing.claim, Claimed):
            detail = type(error).__name__
            bury_call(runtime, claims, call.envelope, standing, reason=reason, detail=detail, attempts=0)
            report.buried += 1
        _settle(runtime, call, claims, reason, Severity.WARNING)
    else:
        _settle(runtime, call, claims, Reason.DEFERRED, Severity.INFO)
        report.sent += 1


def _settle(runtime: Runtime, call: WaitingCall, claims: Claims | None, reason: Reason, severity: Severity) -> None:
    """Record what became of a call, and take it out of the outbox."""
    runtime.audit.emit(
        AuditEvent(
            action=Action.DEFER,
            accepted=reason is Reason.DEFERRED,
            reason=reason,
            severity=severity,
            detail="from the outbox",
            function=None if claims is None else claims.function.name,
            task_id=None if claims is None else claims.task_id.hex(),
            queue=None if claims is None else claims.audience.queue,
        )
    )
    runtime.outbox.remove(call.using, call.task_id)


def ensure_sweeps(runtime: Runtime) -> None:
    """Have a sweep come after this moment's calls: soon, and once more for transactions that take long to commit.

    It never fails: what is lost then is a sweep, which any later call makes again.
    """
    now = runtime.clock.time()
    if now < runtime.sweeps.not_before:
        return
    for length in (SWEEP_BUCKET, SWEEP_LONG_BUCKET):
        bucket = int(now // length.total_seconds())
        if runtime.sweeps.is_new(length, bucket):
            try:
                _create_sweep(runtime, length, bucket)
            except SafeDeferError as error:
                runtime.sweeps.forget(length)
                # This is the caller's open transaction: a service that is down must not hold up every one of them.
                runtime.sweeps.not_before = now + SWEEP_BUCKET.total_seconds()
                logger.warning("a sweep of the outbox could not be created: %s", error)
                return


def tend_outbox(runtime: Runtime) -> None:
    """Make the sweep that a crash, or a purged queue, left missing: at most one look in each process and bucket."""
    bucket = int(runtime.clock.time() // SWEEP_BUCKET.total_seconds())
    if runtime.sweeps.looked == bucket:
        return
    runtime.sweeps.looked = bucket
    try:
        if runtime.outbox.is_waiting(older_than=int(runtime.clock.time() - OUTBOX_DELAY.total_seconds())):
            ensure_sweeps(runtime)
    except Exception as error:  # noqa: BLE001  # No dispatch may fail for it, and the next bucket looks again.
        logger.warning("the outbox could not be looked at: %s", type(error).__name__)


def run_sweep(runtime: Runtime) -> RelayReport:
    """What a sweep does when it is dispatched: send what waits, and come again if something still does."""
    report = relay_waiting(runtime)
    if report.left or runtime.outbox.is_waiting(older_than=int(runtime.clock.time())):
        runtime.sweeps.forget(SWEEP_BUCKET)
        ensure_sweeps(runtime)
    return report


def _create_sweep(runtime: Runtime, length: timedelta, bucket: int) -> None:
    end = int((bucket + 1) * length.total_seconds() + OUTBOX_DELAY.total_seconds())
    queue = runtime.default_queue
    parts = (queue, str(int(length.total_seconds())), str(bucket))
    digest = sha256(encode_pieces(b"safedefer.sweep", runtime.deployment.assertion, *(part.encode() for part in parts)))
    task_id = TaskId(digest.digest()[:TASK_ID_BYTES])
    claims = Claims(
        type=TaskType.SWEEP,
        audience=runtime.policy.audience(queue),
        function=SWEEP,
        producer=runtime.producer,
        deadline_seconds=int(DEFAULT_DISPATCH_DEADLINE.total_seconds()),
        body=claim_body(_NO_BODY, Storage.INLINE),
        task_id=task_id,
        lineage=Lineage(root=task_id, parent=None, generation=0),
        issued_at=int(runtime.clock.time()),
        not_before=end,
        expires_at=end + int(OUTBOX_AGE.total_seconds()),
        delivery=Delivery(name=TaskName(digest.hexdigest()[:_NAME_DIGITS]), route=runtime.default_route),
    )
    envelope = sign_envelope(claims, _NO_BODY, runtime.ring.primary, runtime.deployment)
    # A sweep of that name exists where another process was first.
    runtime.sender.send(runtime.sender.prepare(make_task(claims, envelope, schedule_time=end)))
