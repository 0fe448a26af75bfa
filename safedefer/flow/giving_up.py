"""When a call is given up, and that it is kept then: no task ends without having run, or having been kept."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, final

from safedefer.core.claims import Claims, Storage
from safedefer.core.ledger import Busy, Claimed, Finished
from safedefer.core.limits import MAX_SKEW_AGE, MAX_SKEW_ATTEMPTS
from safedefer.core.signing import VerifiedEnvelope, verify_body
from safedefer.errors import AlreadyExecutedError, BodyDigestError, LeaseLostError, Reason
from safedefer.flow.deadletters import bury_call, bury_envelope
from safedefer.flow.dispatch import Dispatch
from safedefer.flow.ledger import Lease, Standing
from safedefer.flow.outcome import Outcome, Verdict
from safedefer.flow.runtime import Runtime

_SKEW: Final = frozenset(
    {
        Reason.KEY_UNKNOWN,
        Reason.ISSUED_IN_FUTURE,
        Reason.TYPE_UNSUPPORTED,
        Reason.OVERFLOW_MISSING,
        Reason.FUNCTION_UNKNOWN,
        Reason.FUNCTION_VERSION_UNKNOWN,
        Reason.ARGUMENTS_MISMATCH,
    }
)
"""What another revision may know: tried again for a while, not for ever."""


@final
@dataclass(slots=True)
class Attempted:
    """How far one dispatch has come.

    Attributes:
        envelope: The request body, once the token was accepted and it was read.
        verified: The same, once its signature and its audience were accepted.
        lease: The lease that is held.
        number: Which attempt this is: by the queue, then by the ledger.
        executed: Whether the function was called, or what it is called with is gone.
    """

    envelope: bytes | None = field(default=None, repr=False)  # It holds the arguments.
    verified: VerifiedEnvelope | None = None
    lease: Lease | None = None
    number: int = 1
    executed: bool = False

    def take(self, lease: Lease) -> None:
        """Hold a lease; the ledger counts the attempts from here on."""
        self.lease = lease
        self.number = lease.entry.attempts

    def is_last(self, now: float) -> bool:
        """Whether the call may not be tried once more."""
        claims = None if self.verified is None else self.verified.claims
        if claims is None or claims.retry is None:
            return False
        age = timedelta(seconds=max(0.0, now - claims.not_before))
        return claims.retry.is_spent(attempts=self.number, age=age)


def give_up(runtime: Runtime, dispatch: Dispatch, attempted: Attempted, outcome: Outcome, detail: str) -> bool:
    """Keep a call as a dead letter if this was its end.

    Returns:
        Whether it was given up, and is kept.
    Raises:
        AlreadyExecutedError: Another worker has executed it, or given it up.
        LeaseLostError: Another worker has it.
        StoreUnavailableError: It should have been kept, and could not.
    """
    if attempted.envelope is None or not _is_end(runtime, attempted, outcome):
        return False
    claims = _vouched(attempted.verified)
    if claims is None:
        bury_envelope(runtime, attempted.envelope, reason=outcome.reason, detail=detail, queue=dispatch.queue)
        return True
    held = attempted.lease or _standing(runtime, claims)
    bury_call(
        runtime,
        claims,
        attempted.envelope,
        held,
        reason=outcome.reason,
        detail=detail,
        attempts=attempted.number if attempted.lease is not None else _attempts(held),
    )
    attempted.lease = None
    return True


def _vouched(envelope: VerifiedEnvelope | None) -> Claims | None:
    """The claims, if the whole envelope is the one that was signed.

    Who can write to the queue may put another body behind genuine claims: that must not end the genuine call.
    """
    if envelope is None:
        return None
    if envelope.claims.body.storage is Storage.INLINE:
        try:
            verify_body(envelope)
        except BodyDigestError:
            return None
    return envelope.claims


def _is_end(runtime: Runtime, attempted: Attempted, outcome: Outcome) -> bool:
    match outcome.verdict:
        case Verdict.REFUSED:
            return True
        case Verdict.FAILED:
            return attempted.is_last(runtime.clock.time())
        case Verdict.RETRY if outcome.reason is Reason.REFERENCE_MISSING:
            return attempted.is_last(runtime.clock.time())
        case Verdict.RETRY if outcome.reason in _SKEW:
            return attempted.number > MAX_SKEW_ATTEMPTS and _is_old(runtime, attempted.verified)
        case _:
            return False


def _is_old(runtime: Runtime, envelope: VerifiedEnvelope | None) -> bool:
    """Whether a call has waited long enough for another revision; of one that nobody can read, only attempts count."""
    return envelope is None or runtime.clock.time() - envelope.claims.not_before > MAX_SKEW_AGE.total_seconds()


def _standing(runtime: Runtime, claims: Claims) -> Standing:
    """What the ledger says of a call that this dispatch did not claim: it may have been executed before."""
    standing = runtime.ledger.look(claims)
    match standing.claim:
        case Finished(dead=dead):
            raise AlreadyExecutedError(Reason.ALREADY_DEAD if dead else Reason.ALREADY_EXECUTED)
        case Busy():
            raise LeaseLostError("another worker has the task")
        case Claimed():
            return standing


def _attempts(held: Lease | Standing) -> int:
    return 0 if held.entry is None else held.entry.attempts
