"""Claims that are well signed, and not for this handler, this queue or this time."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedefer.core.claims import Claims
from safedefer.core.names import QueueName
from safedefer.errors import ClaimsError, Reason
from tests.support.builders import NOW, POLICY, make_audience, make_claims

DAY = 86_400


def check(claims: Claims, queue: str | None = "default", now: float = NOW) -> None:
    POLICY.check_audience(claims, queue)
    POLICY.check_times(claims, now)


@pytest.mark.parametrize(
    "change",
    [
        {"environment": "staging"},
        {"environment": "Production"},
        {"project": "acme2"},
        {"location": "europe-west2"},
        {"handler": "/_safedefer"},
        {"handler": "/other/"},
        {"environment": "productio"},
        {"environment": "production2"},
        {"environment": "acme", "project": "production"},
        {"project": "acm"},
        {"project": "ACME"},
        {"location": "europe-west"},
        {"handler": "/_safedefer//"},
        {"handler": "/_Safedefer/"},
        {"handler": "https://acme.example/_safedefer/"},
        {"handler": "*"},
    ],
)
def test_policy_refuses_another_audience(change: dict[str, str]) -> None:
    with pytest.raises(ClaimsError) as caught:
        check(make_claims(audience=make_audience(**change)))
    assert caught.value.reason is Reason.AUDIENCE_MISMATCH


@pytest.mark.parametrize(
    "queue",
    [
        "billing",
        "Default",
        "",
        None,
        "default ",
        "default2",
        "defaul",
        "projects/acme/locations/europe-west1/queues/default",
    ],
)
def test_policy_refuses_another_queue(queue: str | None) -> None:
    with pytest.raises(ClaimsError) as caught:
        check(make_claims(), queue)
    assert caught.value.reason is Reason.QUEUE_MISMATCH


@pytest.mark.parametrize(
    ("times", "now", "reason"),
    [
        ((0, 0, 3_600), 3_631, Reason.EXPIRED),
        ((0, 0, 0), 31, Reason.EXPIRED),
        ((0, 600, 3_600), 0, Reason.NOT_YET_VALID),
        ((0, 600, 3_600), 569, Reason.NOT_YET_VALID),
        ((100, 100, 3_600), 0, Reason.ISSUED_IN_FUTURE),
        ((31, 31, 3_600), 0, Reason.ISSUED_IN_FUTURE),
        ((0, 0, 31 * DAY + 1), 0, Reason.LIFETIME_TOO_LONG),
        ((0, 30 * DAY + 31, 31 * DAY), 0, Reason.LIFETIME_TOO_LONG),
        ((0, -1, 3_600), 0, Reason.CLAIMS_MALFORMED),
        ((0, 10, 9), 0, Reason.CLAIMS_MALFORMED),
        ((10, 0, 3_600), 20, Reason.CLAIMS_MALFORMED),
        ((0, 0, -1), 0, Reason.CLAIMS_MALFORMED),
        ((0, 0, 3_600), 3_630.5, Reason.EXPIRED),
        ((0, 0, 3_600), 10 * 365 * DAY, Reason.EXPIRED),
        ((0, 600, 3_600), 569.9, Reason.NOT_YET_VALID),
        ((0, 30 * DAY, 31 * DAY), 0, Reason.NOT_YET_VALID),
        ((0, 0, 365 * DAY), 0, Reason.LIFETIME_TOO_LONG),
        ((0, 60 * DAY, 61 * DAY), 60 * DAY, Reason.LIFETIME_TOO_LONG),
        ((-90 * DAY, 0, 3_600), 0, Reason.LIFETIME_TOO_LONG),
        ((31 * DAY, 31 * DAY, 32 * DAY), 0, Reason.ISSUED_IN_FUTURE),
        ((0, 0, 3_600), float("inf"), Reason.EXPIRED),
        ((0, 0, 3_600), float("-inf"), Reason.ISSUED_IN_FUTURE),
    ],
)
def test_policy_refuses_another_time(times: tuple[int, int, int], now: float, reason: Reason) -> None:
    issued_at, not_before, expires_at = (NOW + time for time in times)
    claims = make_claims(issued_at=issued_at, not_before=not_before, expires_at=expires_at)
    with pytest.raises(ClaimsError) as caught:
        check(claims, now=NOW + now)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("times", "now"),
    [((0, 0, 3_600), 0), ((0, 0, 3_600), 3_630), ((30, 30, 3_600), 0), ((0, 600, 3_600), 570), ((0, 0, 31 * DAY), 5)],
)
def test_policy_accepts_within_thirty_seconds_of_skew(times: tuple[int, int, int], now: float) -> None:
    issued_at, not_before, expires_at = (NOW + time for time in times)
    check(make_claims(issued_at=issued_at, not_before=not_before, expires_at=expires_at), now=NOW + now)


def test_policy_with_a_shorter_age_refuses_what_lives_longer() -> None:
    policy = replace(POLICY, max_age=timedelta(hours=1))
    with pytest.raises(ClaimsError):
        policy.check_times(make_claims(expires_at=NOW + 3_601), NOW)


@given(
    times=st.lists(st.integers(-40 * DAY, 40 * DAY), min_size=3, max_size=3).map(sorted),
    now=st.integers(-45 * DAY, 45 * DAY),
)
def test_policy_accepts_exactly_what_the_rules_say(times: list[int], now: int) -> None:
    issued_at, not_before, expires_at = times
    rules = (
        expires_at - not_before <= 31 * DAY
        and not_before - issued_at <= 30 * DAY + 30
        and issued_at - 30 <= now
        and not_before - 30 <= now <= expires_at + 30
    )
    claims = make_claims(issued_at=NOW + issued_at, not_before=NOW + not_before, expires_at=NOW + expires_at)
    try:
        check(claims, now=NOW + now)
    except ClaimsError:
        assert not rules
    else:
        assert rules


@given(st.permutations([0, 600, 3_600]).filter(lambda times: times != sorted(times)), st.integers(-DAY, DAY))
def test_policy_refuses_times_out_of_order_at_any_time(times: list[int], now: int) -> None:
    issued_at, not_before, expires_at = (NOW + time for time in times)
    with pytest.raises(ClaimsError) as caught:
        check(make_claims(issued_at=issued_at, not_before=not_before, expires_at=expires_at), now=NOW + now)
    assert caught.value.reason is Reason.CLAIMS_MALFORMED


def test_audience_comes_before_the_queue() -> None:
    with pytest.raises(ClaimsError) as caught:
        POLICY.check_audience(make_claims(audience=make_audience(environment="staging")), "billing")
    assert caught.value.reason is Reason.AUDIENCE_MISMATCH


def test_policy_accepts_the_audience_that_it_gives_out() -> None:
    for queue in ("default", "billing"):
        POLICY.check_audience(make_claims(audience=POLICY.audience(QueueName(queue))), queue)


def test_refusal_shows_nothing_of_the_claims() -> None:
    for claims, queue in ((make_claims(audience=make_audience(handler="CANARY")), None), (make_claims(), "CANARY")):
        with pytest.raises(ClaimsError) as caught:
            POLICY.check_audience(claims, queue)
        assert "CANARY" not in f"{caught.value!r} {caught.value} {vars(caught.value)}"
