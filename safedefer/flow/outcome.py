"""What becomes of a dispatch, and which reason leads to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, final

from safedefer.core.audit import Severity
from safedefer.errors import Reason


@final
class Verdict(StrEnum):
    """The kinds of answer. `safedefer.django.handler` gives each its HTTP status."""

    DONE = "done"
    """The function ran to its end: the task is finished."""
    DROP = "drop"
    """Not to be run, and nothing is lost: the task is finished."""
    DEAD = "dead"
    """Given up, and kept as a dead letter: the task is finished."""
    REISSUE = "reissue"
    """Not now: the same sealed call waits as a new task, and this one is finished."""
    METHOD_NOT_ALLOWED = "method_not_allowed"
    UNSUPPORTED_TYPE = "unsupported_type"
    LENGTH_REQUIRED = "length_required"
    TOO_LARGE = "too_large"
    BAD_REQUEST = "bad_request"
    UNAUTHENTICATED = "unauthenticated"
    """No proof that our queue called."""
    REFUSED = "refused"
    """Refused for good, where no dead letter could be kept: the queue keeps it instead."""
    RETRY = "retry"
    """Not now: another revision, or another moment, may accept it."""
    FAILED = "failed"
    """The function raised: the queue tries again."""
    UNAVAILABLE = "unavailable"
    """Something we depend on is down: the queue should slow down."""


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """One verdict and its reason."""

    verdict: Verdict
    reason: Reason


_VERDICTS: Final[Mapping[Reason, tuple[Verdict, Severity]]] = {
    Reason.METHOD_NOT_ALLOWED: (Verdict.METHOD_NOT_ALLOWED, Severity.NOTICE),
    Reason.CONTENT_TYPE_WRONG: (Verdict.UNSUPPORTED_TYPE, Severity.NOTICE),
    Reason.LENGTH_MISSING: (Verdict.LENGTH_REQUIRED, Severity.NOTICE),
    Reason.LENGTH_WRONG: (Verdict.BAD_REQUEST, Severity.NOTICE),
    Reason.BODY_TOO_LARGE: (Verdict.TOO_LARGE, Severity.NOTICE),
    Reason.TOKEN_KEYS_UNAVAILABLE: (Verdict.UNAVAILABLE, Severity.WARNING),
    # Only who may write to the queue gets here, so that each of these wants a person.
    Reason.FRAME_LENGTH: (Verdict.REFUSED, Severity.CRITICAL),
    Reason.FRAME_MAGIC: (Verdict.REFUSED, Severity.CRITICAL),
    Reason.FRAME_VERSION: (Verdict.REFUSED, Severity.CRITICAL),
    Reason.FRAME_FLAGS: (Verdict.REFUSED, Severity.CRITICAL),
    Reason.KEY_DISABLED: (Verdict.REFUSED, Severity.CRITICAL),
    Reason.KEY_DESTROYED: (Verdict.REFUSED, Severity.CRITICAL),
    Reason.SUITE_MISMATCH: (Verdict.REFUSED, Severity.CRITICAL),
    Reason.TAG_INVALID: (Verdict.REFUSED, Severity.CRITICAL),
    Reason.CLAIMS_MALFORMED: (Verdict.REFUSED, Severity.CRITICAL),
    Reason.AUDIENCE_MISMATCH: (Verdict.REFUSED, Severity.CRITICAL),
    Reason.QUEUE_MISMATCH: (Verdict.REFUSED, Severity.CRITICAL),
    Reason.LIFETIME_TOO_LONG: (Verdict.REFUSED, Severity.CRITICAL),
    Reason.BODY_LENGTH: (Verdict.REFUSED, Severity.CRITICAL),
    Reason.BODY_DIGEST: (Verdict.REFUSED, Severity.CRITICAL),
    Reason.BODY_MALFORMED: (Verdict.REFUSED, Severity.CRITICAL),
    Reason.BODY_LIMITS: (Verdict.REFUSED, Severity.CRITICAL),
    Reason.EXPIRED: (Verdict.REFUSED, Severity.WARNING),
    # A clock that is wrong is put right; another revision may know what this one does not.
    Reason.ISSUED_IN_FUTURE: (Verdict.RETRY, Severity.WARNING),
    Reason.KEY_UNKNOWN: (Verdict.RETRY, Severity.WARNING),
    Reason.TYPE_UNSUPPORTED: (Verdict.RETRY, Severity.WARNING),
    # A record that is not there may have been removed by the execution that another worker is about to record.
    Reason.OVERFLOW_MISSING: (Verdict.RETRY, Severity.WARNING),
    Reason.FUNCTION_UNKNOWN: (Verdict.RETRY, Severity.WARNING),
    Reason.FUNCTION_VERSION_UNKNOWN: (Verdict.RETRY, Severity.WARNING),
    Reason.ARGUMENTS_MISMATCH: (Verdict.RETRY, Severity.WARNING),
    Reason.NOT_YET_VALID: (Verdict.REISSUE, Severity.NOTICE),
    Reason.REFERENCES_UNAVAILABLE: (Verdict.UNAVAILABLE, Severity.WARNING),
    Reason.FUNCTION_FAILED: (Verdict.FAILED, Severity.WARNING),
    Reason.EXECUTED: (Verdict.DONE, Severity.INFO),
    Reason.SWEPT: (Verdict.DONE, Severity.INFO),
    Reason.ALREADY_EXECUTED: (Verdict.DONE, Severity.NOTICE),
    Reason.ALREADY_DEAD: (Verdict.DROP, Severity.NOTICE),
    Reason.POSTPONED: (Verdict.REISSUE, Severity.INFO),
    Reason.DROPPED: (Verdict.DROP, Severity.NOTICE),
    Reason.LEASE_HELD: (Verdict.REISSUE, Severity.NOTICE),
    Reason.LEASE_LOST: (Verdict.RETRY, Severity.WARNING),
    Reason.STORE_UNAVAILABLE: (Verdict.UNAVAILABLE, Severity.WARNING),
    Reason.REISSUE_FAILED: (Verdict.UNAVAILABLE, Severity.WARNING),
    Reason.NOT_CONFIGURED: (Verdict.UNAVAILABLE, Severity.CRITICAL),
    Reason.INTERNAL_ERROR: (Verdict.UNAVAILABLE, Severity.CRITICAL),
}


def judge(reason: Reason) -> tuple[Verdict, Severity]:
    """What follows from a reason; a reason that has no row of its own is refused and wants a person."""
    if reason.value.startswith("token_") and reason is not Reason.TOKEN_KEYS_UNAVAILABLE:
        return Verdict.UNAUTHENTICATED, Severity.NOTICE
    return _VERDICTS.get(reason, (Verdict.REFUSED, Severity.CRITICAL))
