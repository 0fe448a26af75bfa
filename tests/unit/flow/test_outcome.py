"""Every reason leads to one verdict, and every verdict to one status."""

import pytest

from safedefer.core.audit import Severity
from safedefer.django.handler import STATUS, answer
from safedefer.errors import Reason
from safedefer.flow.outcome import Outcome, Verdict, judge

EXPECTED: dict[Reason, tuple[int, Severity]] = {
    Reason.METHOD_NOT_ALLOWED: (405, Severity.NOTICE),
    Reason.CONTENT_TYPE_WRONG: (415, Severity.NOTICE),
    Reason.LENGTH_MISSING: (411, Severity.NOTICE),
    Reason.LENGTH_WRONG: (400, Severity.NOTICE),
    Reason.BODY_TOO_LARGE: (413, Severity.NOTICE),
    Reason.TOKEN_MISSING: (401, Severity.NOTICE),
    Reason.TOKEN_MALFORMED: (401, Severity.NOTICE),
    Reason.TOKEN_HEADER: (401, Severity.NOTICE),
    Reason.TOKEN_SIGNATURE_REMOVED: (401, Severity.NOTICE),
    Reason.TOKEN_KEY_UNKNOWN: (401, Severity.NOTICE),
    Reason.TOKEN_SIGNATURE: (401, Severity.NOTICE),
    Reason.TOKEN_ISSUER: (401, Severity.NOTICE),
    Reason.TOKEN_AUDIENCE: (401, Severity.NOTICE),
    Reason.TOKEN_EMAIL: (401, Severity.NOTICE),
    Reason.TOKEN_SUBJECT: (401, Severity.NOTICE),
    Reason.TOKEN_TIMES: (401, Severity.NOTICE),
    Reason.TOKEN_KEYS_UNAVAILABLE: (503, Severity.WARNING),
    Reason.FRAME_LENGTH: (422, Severity.CRITICAL),
    Reason.FRAME_MAGIC: (422, Severity.CRITICAL),
    Reason.FRAME_VERSION: (422, Severity.CRITICAL),
    Reason.FRAME_FLAGS: (422, Severity.CRITICAL),
    Reason.KEY_UNKNOWN: (409, Severity.WARNING),
    Reason.KEY_DISABLED: (422, Severity.CRITICAL),
    Reason.KEY_DESTROYED: (422, Severity.CRITICAL),
    Reason.SUITE_MISMATCH: (422, Severity.CRITICAL),
    Reason.TAG_INVALID: (422, Severity.CRITICAL),
    Reason.CLAIMS_MALFORMED: (422, Severity.CRITICAL),
    Reason.TYPE_UNSUPPORTED: (409, Severity.WARNING),
    Reason.AUDIENCE_MISMATCH: (422, Severity.CRITICAL),
    Reason.QUEUE_MISMATCH: (422, Severity.CRITICAL),
    Reason.ISSUED_IN_FUTURE: (409, Severity.WARNING),
    Reason.LIFETIME_TOO_LONG: (422, Severity.CRITICAL),
    Reason.NOT_YET_VALID: (204, Severity.NOTICE),
    Reason.EXPIRED: (422, Severity.WARNING),
    Reason.FUNCTION_UNKNOWN: (409, Severity.WARNING),
    Reason.FUNCTION_VERSION_UNKNOWN: (409, Severity.WARNING),
    Reason.OVERFLOW_MISSING: (409, Severity.WARNING),
    Reason.BODY_LENGTH: (422, Severity.CRITICAL),
    Reason.BODY_DIGEST: (422, Severity.CRITICAL),
    Reason.BODY_MALFORMED: (422, Severity.CRITICAL),
    Reason.BODY_LIMITS: (422, Severity.CRITICAL),
    Reason.ARGUMENTS_MISMATCH: (409, Severity.WARNING),
    Reason.REFERENCES_UNAVAILABLE: (503, Severity.WARNING),
    Reason.ALREADY_EXECUTED: (204, Severity.NOTICE),
    Reason.ALREADY_DEAD: (204, Severity.NOTICE),
    Reason.POSTPONED: (204, Severity.INFO),
    Reason.DROPPED: (204, Severity.NOTICE),
    Reason.LEASE_HELD: (204, Severity.NOTICE),
    Reason.LEASE_LOST: (409, Severity.WARNING),
    Reason.STORE_UNAVAILABLE: (503, Severity.WARNING),
    Reason.REISSUE_FAILED: (503, Severity.WARNING),
    Reason.FUNCTION_FAILED: (500, Severity.WARNING),
    Reason.EXECUTED: (204, Severity.INFO),
    Reason.SWEPT: (204, Severity.INFO),
    Reason.NOT_CONFIGURED: (503, Severity.CRITICAL),
    Reason.INTERNAL_ERROR: (503, Severity.CRITICAL),
}
"""Written down a second time, so that neither table changes by accident."""

END_NO_DISPATCH = {Reason.ACCEPTED, Reason.SCHEMA_CHANGED, Reason.DEFERRED, Reason.REDRIVEN, Reason.NEVER_SENT}
BY_THE_FUNCTIONS_OWN_POLICY = {Reason.REFERENCE_MISSING}


def test_every_reason_is_in_one_of_the_tables() -> None:
    known = EXPECTED.keys() | END_NO_DISPATCH | BY_THE_FUNCTIONS_OWN_POLICY
    # A reason of a later version belongs here as well: without a row it would be refused without anybody's decision.
    assert set(Reason) - known == set()
    assert not EXPECTED.keys() & (END_NO_DISPATCH | BY_THE_FUNCTIONS_OWN_POLICY)


@pytest.mark.parametrize("reason", EXPECTED, ids=lambda reason: reason.value)
def test_reason_has_its_status_and_its_severity(reason: Reason) -> None:
    verdict, severity = judge(reason)
    assert (STATUS[verdict], severity) == EXPECTED[reason]


@pytest.mark.parametrize("reason", sorted(END_NO_DISPATCH | BY_THE_FUNCTIONS_OWN_POLICY))
def test_reason_without_a_row_is_refused_and_wants_a_person(reason: Reason) -> None:
    assert judge(reason) == (Verdict.REFUSED, Severity.CRITICAL)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_answer_tells_nothing_but_its_status(verdict: Verdict) -> None:
    responses = [answer(Outcome(verdict, reason)) for reason in (Reason.TAG_INVALID, Reason.INTERNAL_ERROR)]
    assert {response.status_code for response in responses} == {STATUS[verdict]}
    assert {response.content for response in responses} == {b""}
    assert responses[0].headers == responses[1].headers
    assert set(responses[0].headers) <= {"Content-Type", "Allow", "WWW-Authenticate", "Retry-After"}
    assert responses[0].headers["Content-Type"] == "text/plain"


def test_answer_says_what_http_asks_for() -> None:
    assert answer(Outcome(Verdict.METHOD_NOT_ALLOWED, Reason.METHOD_NOT_ALLOWED)).headers["Allow"] == "POST"
    assert answer(Outcome(Verdict.UNAUTHENTICATED, Reason.TOKEN_MISSING)).headers["WWW-Authenticate"] == "Bearer"
    assert answer(Outcome(Verdict.UNAVAILABLE, Reason.STORE_UNAVAILABLE)).headers["Retry-After"] == "10"
