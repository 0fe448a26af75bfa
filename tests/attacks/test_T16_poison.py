"""T16: one poisonous task must not slow the whole queue: only outages are answered with 429 or 503."""

import pytest

from safedefer.django.handler import STATUS
from safedefer.errors import Reason
from safedefer.flow.outcome import Verdict, judge
from tests.site.shop import tasks
from tests.support.site import Site

OUTAGES = {
    Reason.TOKEN_KEYS_UNAVAILABLE,
    Reason.STORE_UNAVAILABLE,
    Reason.REISSUE_FAILED,
    Reason.REFERENCES_UNAVAILABLE,
    Reason.NOT_CONFIGURED,
    Reason.INTERNAL_ERROR,
}


def test_T16_every_verdict_has_a_status() -> None:
    assert STATUS.keys() == set(Verdict)


@pytest.mark.parametrize("reason", list(Reason))
def test_T16_only_outages_slow_the_queue(reason: Reason) -> None:
    assert (STATUS[judge(reason)[0]] in (429, 503)) == (reason in OUTAGES)


@pytest.mark.parametrize("reason", list(Reason))
def test_T16_success_is_only_for_what_ran_or_comes_again(reason: Reason) -> None:
    success = 200 <= STATUS[judge(reason)[0]] < 300
    ended = {Reason.EXECUTED, Reason.SWEPT, Reason.ALREADY_EXECUTED, Reason.DROPPED, Reason.ALREADY_DEAD}
    comes_again = {Reason.LEASE_HELD, Reason.NOT_YET_VALID, Reason.POSTPONED}
    assert success == (reason in ended | comes_again)


def test_T16_function_that_raises_or_exits_is_answered_500(site: Site) -> None:
    assert site.post(site.seal(tasks.fail, "x")).status == 500
    assert site.post(site.seal(tasks.leave)).status == 500
    assert [event.reason for event in site.dispatches()] == [Reason.FUNCTION_FAILED] * 2


def test_T16_task_that_always_fails_leaves_the_others_running(site: Site) -> None:
    from safedefer import defer

    defer(tasks.fail, "x")
    for number in range(5):
        defer(tasks.note, f"{number}")
    site.run_tasks()
    assert sorted(site.traces()) == [f"note {number}" for number in range(5)]
