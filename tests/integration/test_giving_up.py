"""Retries, dead letters and what a function knows of its task, on a running site behind the local cloud."""

import io
from zoneinfo import ZoneInfo

import pytest
from django.core.management import CommandError, call_command
from django.core.signals import request_started
from django.utils import timezone, translation

from safedefer import RetryOptions, current_task, defer, environment
from safedefer.core.deadletter import DeadLetter
from safedefer.errors import Reason
from safedefer.flow.deadletters import list_letters
from tests.site.shop import tasks
from tests.support.site import Site

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def letters(site: Site) -> list[DeadLetter]:
    return list(list_letters(site.runtime.records))


def command(*args: str) -> str:
    out = io.StringIO()
    call_command("safedefer_deadletters", *args, stdout=out, stderr=out)
    return out.getvalue()


def test_failing_task_is_tried_as_its_policy_says_and_then_kept(site: Site) -> None:
    handle = defer(tasks.fail_twice, "x")
    site.run_tasks_until(lambda: letters(site) != [])
    assert site.traces() == ["attempt x"] * 2
    assert site.tasks() == []
    (letter,) = letters(site)
    assert (letter.id, letter.attempts, letter.reason) == (handle.task_id, 2, Reason.FUNCTION_FAILED)


def test_policy_of_one_call_wins_over_the_functions(site: Site) -> None:
    defer(tasks.fail_twice, "x", _retry_options=RetryOptions(max_attempts=1))
    site.run_tasks()
    assert site.traces() == ["attempt x"]
    assert len(letters(site)) == 1


def test_policy_is_in_the_task_itself_and_leaves_giving_up_to_the_handler(site: Site) -> None:
    retry = RetryOptions(max_attempts=7)
    tasks.note.options(countdown=3_600, retry_options=retry).defer("x")
    (task,) = site.tasks()
    assert task.retry_config.max_attempts == -1
    assert task.retry_config.max_backoff.total_seconds() == 3_600


def test_command_lists_shows_drives_again_and_purges(site: Site) -> None:
    defer(tasks.fail_twice, "canary")
    defer(tasks.fail_twice, "canary")
    site.run_tasks_until(lambda: len(letters(site)) == 2)
    first, second = letters(site)
    listed = command("list")
    assert "2 dead letters" in listed
    assert f"{first.id}  shop.fail_twice v1  function_failed (RuntimeError)" in listed
    shown = command("show", first.id)
    assert "executions 2" in shown
    assert "canary" not in listed + shown
    assert "0 dead letters" in command("list", "--function", "shop.other")
    assert "removed" in command("purge", second.id)
    assert f"{first.id} runs again as" in command("redrive", "--function", "shop.fail_twice")
    site.run_tasks_until(lambda: letters(site) != [])
    assert site.traces() == ["attempt canary"] * 6
    (again,) = letters(site)
    assert again.id not in (first.id, second.id)


def test_command_says_what_it_could_not_do(site: Site) -> None:
    with pytest.raises(CommandError, match="--all"):
        command("purge")
    with pytest.raises(CommandError, match="no such dead letter"):
        command("show", "00")
    with pytest.raises(CommandError, match="1 of 1"):
        command("redrive", "00")
    site.post(b"garbage" * 30)
    (letter,) = letters(site)
    with pytest.raises(CommandError, match="1 of 1"):
        command("redrive", "--all")
    assert "(unsigned)" in command("list")
    assert command("purge", letter.id) == f"{letter.id} removed\n"


def test_function_that_asks_for_later_runs_again_as_a_new_task(site: Site) -> None:
    defer(tasks.again, "x")
    site.run_tasks()
    assert site.traces() == ["again x 1 0", "again x 2 0"]
    # The new task may have run before the old one's dispatch has told its end.
    assert {event.reason for event in site.dispatches()} == {Reason.POSTPONED, Reason.EXECUTED}
    assert len(site.dispatches()) == 2


def test_function_that_drops_its_task_leaves_no_letter(site: Site) -> None:
    defer(tasks.pass_by)
    site.run_tasks()
    (event,) = site.dispatches()
    assert (event.reason, event.detail, event.outcome) == (Reason.DROPPED, "nothing to do", "drop")
    assert letters(site) == []


def test_function_knows_its_task_and_its_callers_surroundings(site: Site) -> None:
    request_started.send(None, environ={"HTTP_TRACEPARENT": TRACE})
    try:
        with translation.override("de"), timezone.override(ZoneInfo("Asia/Tokyo")):
            handle = defer(tasks.look_around)
            tasks.alook_around.defer()
    finally:
        request_started.send(None, environ={})
    site.run_tasks()
    traces = site.traces()
    assert f"task shop.look_around 1 True 0 {handle.task_name} default 0" in traces
    assert f"around de Asia/Tokyo {TRACE}" in traces
    assert "around de Asia/Tokyo shop.alook_around" in traces


def test_surroundings_of_a_dispatch_are_the_defaults_unless_signed(site: Site) -> None:
    defer(tasks.look_around)
    site.run_tasks()
    assert site.traces()[1] == "around en-us Europe/Vienna None"


def test_outside_of_a_task_there_is_none() -> None:
    assert current_task() is None
    assert environment.is_in_task() is False
    assert environment.task_name() is None
    assert environment.task_queue_name() is None
    assert environment.task_retry_count() is None
    assert environment.task_execution_count() is None
