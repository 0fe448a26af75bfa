"""Large bodies and the ledger, through the running handler."""

import pytest

from safedefer import defer
from safedefer.django.models import StoredRecord
from safedefer.errors import Reason
from tests.site.shop import tasks
from tests.support.site import Site


@pytest.mark.parametrize("size", [1_000, 999_000, 1_000_000, 2_500_000, 8_300_000])
def test_body_of_any_size_up_to_the_cap_arrives_intact(site: Site, size: int) -> None:
    text = "".join(chr(97 + index % 26) for index in range(size))
    defer(tasks.note, text)
    site.run_tasks()
    assert site.traces() == [f"note {text}"]
    assert StoredRecord.objects.filter(kind="overflow").count() == 0


def test_duplicate_of_a_finished_task_succeeds_without_running(site: Site) -> None:
    wire = site.seal(tasks.note, "once")
    assert site.post(wire).status == 204
    assert site.post(wire).status == 204
    assert site.traces() == ["note once"]
    assert [event.reason for event in site.dispatches()] == [Reason.EXECUTED, Reason.ALREADY_EXECUTED]


def test_failed_task_may_be_claimed_again_at_once(site: Site) -> None:
    wire = site.seal(tasks.fail, "x")
    assert site.post(wire).status == 500
    assert site.post(wire).status == 500
    assert [event.attempt for event in site.dispatches()] == [1, 2]


def test_function_without_ledger_runs_again(site: Site) -> None:
    wire = site.seal(tasks.forgetful, "twice")
    assert site.post(wire).status == 204
    assert site.post(wire).status == 204
    assert site.traces() == ["forgetful twice", "forgetful twice"]
