"""Whether a verified call may run now, and the error that has it come again later."""

from datetime import timedelta
from typing import final

from safedefer.core.claims import Claims
from safedefer.core.ledger import Busy, Claim, Claimed, Finished
from safedefer.core.limits import CLOCK_SKEW
from safedefer.errors import AlreadyExecutedError, ClaimsError, Reason
from safedefer.flow.defer import discard_overflow
from safedefer.flow.giving_up import Attempted
from safedefer.flow.ledger import Lease
from safedefer.flow.runtime import Runtime


@final
class LaterError(Exception):
    """Not now: the call is to come again at a given time."""

    def __init__(self, reason: Reason, claims: Claims, envelope: bytes, *, at: float, mark: str) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.claims = claims
        self.envelope = envelope
        self.at = at
        self.mark = mark


def check_times(runtime: Runtime, claims: Claims, data: bytes) -> None:
    """Refuse what has expired, or comes from the future.

    Raises:
        ClaimsError: It is such a call.
        LaterError: It has come before its time.
    """
    try:
        runtime.policy.check_times(claims, runtime.clock.time())
    except ClaimsError as error:
        if error.reason is not Reason.NOT_YET_VALID:
            raise
        start = claims.not_before
        raise LaterError(error.reason, claims, data, at=start, mark=f"not before {start}") from None


def check_standing(runtime: Runtime, claim: Claim | Lease, claims: Claims, data: bytes) -> Lease | None:
    """Refuse what is done, given up or under way; give back the lease, if it is one.

    Raises:
        AlreadyExecutedError: It is done, or given up.
        LaterError: It is under way.
    """
    match claim:
        case Finished(dead=True):
            raise AlreadyExecutedError(Reason.ALREADY_DEAD)
        case Finished():
            # Whoever executed it may have been stopped before it removed the stored body.
            discard_overflow(runtime, claims)
            raise AlreadyExecutedError(Reason.ALREADY_EXECUTED)
        case Busy():
            # A little later than the lease ends, so that no clock finds it still held.
            at = claim.lease_until + CLOCK_SKEW.total_seconds()
            raise LaterError(Reason.LEASE_HELD, claims, data, at=at, mark=f"lease {claim.fence}")
        case Lease():
            return claim
        case Claimed():
            return None


def postponed(runtime: Runtime, attempted: Attempted, claims: Claims, data: bytes, after: timedelta) -> LaterError:
    """The function asks to be called again later: until then nobody may claim the task.

    Raises:
        ClaimsError: `EXPIRED`: by then it may not run any more.
    """
    at = runtime.clock.time() + after.total_seconds()
    if at > claims.expires_at:
        raise ClaimsError(Reason.EXPIRED, "asked to run again after its expiry")
    if attempted.lease is None:
        mark = f"again at {at}"
    else:
        mark = f"after {attempted.lease.entry.fence}"
        runtime.ledger.release(attempted.lease, until=int(at))
        attempted.lease = None
    return LaterError(Reason.POSTPONED, claims, data, at=at, mark=mark)
