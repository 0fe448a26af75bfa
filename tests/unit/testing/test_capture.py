"""Deferred calls in a test: captured with their arguments, and run through the real checks."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction

from safedefer import RetryOptions, adefer, defer, defer_many
from safedefer.core.audit import AuditEvent
from safedefer.core.envelope import parse_envelope
from safedefer.core.signing import sign_envelope, verify_envelope
from safedefer.errors import ConfigurationError, InvalidOptionError, Reason, ReferenceMissingError, TaskExistsError
from safedefer.flow.runtime import current_runtime, install_problem
from safedefer.testing import (
    CapturedTasks,
    EndlessTasksError,
    ManualClock,
    TaskFailedBehaviour,
    TaskFailedError,
    capture_tasks,
)
from safedefer.testing.processing import backoff
from tests.site.shop.models import Customer, Parcel, Trace
from tests.site.shop.tasks import (
    Color,
    Money,
    add,
    again,
    alook_around,
    anote,
    chain,
    fail,
    fail_twice,
    greet,
    greet_or_fail,
    greet_or_wait,
    keep,
    look_around,
    note,
    pass_by,
    ship,
    third_time,
)
from tests.support.builders import KEY

DO_NOTHING, RETRY = TaskFailedBehaviour.DO_NOTHING, TaskFailedBehaviour.RETRY_TASK


def traces() -> list[str]:
    return list(Trace.objects.order_by("pk").values_list("text", flat=True))


def test_call_is_captured_and_not_run(db: None, deferred_tasks: CapturedTasks) -> None:
    handle = defer(add, 1, right=2, label="x", _queue="billing", _countdown=60, _name="sum")
    (call,) = deferred_tasks.calls
    assert (call.function, call.queue, call.name, call.task_name) == ("shop.add", "billing", "sum", "sum")
    assert (call.args, call.kwargs) == ((1,), {"right": 2, "label": "x"})
    assert call.schedule_time == datetime.fromtimestamp(deferred_tasks.clock.time() + 60, UTC)
    assert call.task_id == handle.task_id
    assert handle.created is True
    assert traces() == []


def test_call_without_options_has_neither_name_nor_time(deferred_tasks: CapturedTasks) -> None:
    handle = note.defer("x")
    (call,) = deferred_tasks.calls
    assert (call.name, call.schedule_time, call.queue) == (None, None, "default")
    assert call.task_name == handle.task_name == handle.task_id


def test_arguments_come_decoded_by_the_real_codec(db: None, deferred_tasks: CapturedTasks) -> None:
    customer = Customer.objects.create(name="Ada")
    keep.defer((1, {2}, Decimal("9.50")))
    greet.defer(customer, greeting="Hi")
    kept, greeted = deferred_tasks.calls
    assert kept.args == ((1, {2}, Decimal("9.50")),)
    assert greeted.args == (customer,)
    assert greeted.args[0] is not customer
    Customer.objects.all().delete()
    with pytest.raises(ReferenceMissingError):
        _ = greeted.args


def test_arguments_too_large_for_a_task_are_captured_too_and_stay_readable_when_it_has_run(
    db: None, deferred_tasks: CapturedTasks
) -> None:
    text = "x" * 1_200_000
    note.defer(text)
    deferred_tasks.process_task_queues()
    assert traces() == [f"note {text}"]
    (call,) = deferred_tasks.calls_of(note)
    assert call.args == (text,)


def test_calls_of_finds_those_of_one_function_whatever_their_options(deferred_tasks: CapturedTasks) -> None:
    note.defer("1")
    add.defer(1)
    note.options(queue="billing").defer("2")
    assert [call.args for call in deferred_tasks.calls_of(note)] == [("1",), ("2",)]
    assert [call.args for call in deferred_tasks.calls_of(note.options(queue="other"))] == [("1",), ("2",)]


def test_repr_of_a_call_holds_no_argument(deferred_tasks: CapturedTasks) -> None:
    note.defer("canary")
    assert repr(deferred_tasks.calls) == "(<CapturedCall of shop.note in queue default>,)"


def test_assert_num_tasks_counts_what_waits_and_names_it(db: None, deferred_tasks: CapturedTasks) -> None:
    note.defer("1")
    note.options(queue="billing").defer("2")
    deferred_tasks.assert_num_tasks(2)
    deferred_tasks.assert_num_tasks(1, queue="billing")
    deferred_tasks.assert_num_tasks(0, queue="other")
    with pytest.raises(AssertionError, match=r"expected 0 tasks in queue default, found 1: shop\.note"):
        deferred_tasks.assert_num_tasks(0, "default")
    deferred_tasks.process_task_queues("billing")
    deferred_tasks.assert_num_tasks(1)
    assert len(deferred_tasks.calls) == 2


def test_clear_forgets_calls_tasks_and_names(deferred_tasks: CapturedTasks) -> None:
    note.options(name="once").defer("1")
    deferred_tasks.clear()
    deferred_tasks.assert_num_tasks(0)
    assert deferred_tasks.calls == ()
    assert note.options(name="once").defer("2").created is True


def test_tasks_run_with_those_that_they_defer(db: None, deferred_tasks: CapturedTasks) -> None:
    chain.defer(7)
    runs = deferred_tasks.process_task_queues()
    assert traces() == ["chain 7", "note after 7"]
    assert [(run.function, run.outcome, run.reason) for run in runs] == [
        ("shop.chain", "done", Reason.EXECUTED),
        ("shop.note", "done", Reason.EXECUTED),
    ]
    assert [call.function for call in deferred_tasks.calls] == ["shop.chain", "shop.note"]
    deferred_tasks.assert_num_tasks(0)


def test_many_calls_are_captured_one_by_one(db: None, deferred_tasks: CapturedTasks) -> None:
    defer_many(note.bind(str(number)) for number in range(3))
    deferred_tasks.assert_num_tasks(3)
    deferred_tasks.process_task_queues()
    assert traces() == ["note 0", "note 1", "note 2"]


def test_tasks_run_in_the_order_in_which_they_are_due_and_the_clock_follows(
    db: None, deferred_tasks: CapturedTasks, safedefer_clock: ManualClock
) -> None:
    start = safedefer_clock.time()
    note.options(countdown=3600).defer("later")
    note.defer("now")
    note.options(countdown=60).defer("soon")
    deferred_tasks.process_task_queues()
    assert traces() == ["note now", "note soon", "note later"]
    assert safedefer_clock.time() == start + 3600


def test_only_due_tasks_run_if_that_is_asked_and_the_clock_stays(
    db: None, deferred_tasks: CapturedTasks, safedefer_clock: ManualClock
) -> None:
    start = safedefer_clock.time()
    note.options(countdown=timedelta(minutes=5)).defer("later")
    note.defer("now")
    deferred_tasks.process_task_queues(only_due=True)
    assert (traces(), safedefer_clock.time()) == (["note now"], start)
    safedefer_clock.advance(299)
    assert deferred_tasks.process_task_queues(only_due=True) == []
    safedefer_clock.advance(timedelta(seconds=1))
    deferred_tasks.process_task_queues(only_due=True)
    assert traces() == ["note now", "note later"]


def test_clock_moves_to_a_moment_of_the_project(safedefer_clock: ManualClock) -> None:
    safedefer_clock.move_to(datetime(2030, 1, 1, 12))  # noqa: DTZ001  # Naive: the project's zone is Vienna.
    assert datetime.fromtimestamp(safedefer_clock.time(), UTC) == datetime(2030, 1, 1, 11, tzinfo=UTC)
    assert ManualClock(datetime(2030, 1, 1, 11, tzinfo=UTC)).time() == safedefer_clock.time()


def test_named_task_is_created_once_and_its_name_stays_taken_for_a_day(
    db: None, deferred_tasks: CapturedTasks, safedefer_clock: ManualClock
) -> None:
    once = note.options(name="once")
    assert [once.defer("1").created, once.defer("2").created] == [True, False]
    deferred_tasks.process_task_queues()
    assert once.defer("3").created is False
    with pytest.raises(TaskExistsError):
        once.options(raise_if_exists=True).defer("4")
    assert traces() == ["note 1"]
    safedefer_clock.advance(timedelta(hours=24))
    assert once.defer("5").created is True
    assert note.options(name="once", queue="billing").defer("6").created is True


def test_failure_is_raised_with_the_cause_and_the_task_stays(db: None, deferred_tasks: CapturedTasks) -> None:
    fail.defer("canary")
    note.defer("behind")
    with pytest.raises(TaskFailedError) as caught:
        deferred_tasks.process_task_queues()
    assert str(caught.value) == "shop.fail in queue default ended as failed: function_failed (RuntimeError)"
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert caught.value.run.error is caught.value.__cause__
    assert caught.value.run.failed
    deferred_tasks.assert_num_tasks(2)


def test_failure_can_be_left_alone_and_comes_again_the_next_time(db: None, deferred_tasks: CapturedTasks) -> None:
    fail.defer("x")
    chain.defer(1)
    for attempt in (1, 2):
        runs = deferred_tasks.process_task_queues(failure_behaviour=DO_NOTHING)
        assert [run.attempt for run in runs if run.function == "shop.fail"] == [attempt]
    assert traces() == ["chain 1", "note after 1"]
    deferred_tasks.assert_num_tasks(1)


def test_failure_is_tried_again_until_it_is_given_up(
    db: None, deferred_tasks: CapturedTasks, safedefer_clock: ManualClock
) -> None:
    start = safedefer_clock.time()
    policy = RetryOptions(max_attempts=4, min_backoff=timedelta(seconds=10), max_doublings=1)
    fail.options(retry_options=policy).defer("x")
    runs = deferred_tasks.process_task_queues(None, RETRY)
    assert [(run.outcome, run.attempt) for run in runs] == [("failed", 1), ("failed", 2), ("failed", 3), ("dead", 4)]
    assert safedefer_clock.time() == pytest.approx(start + 10 + 20 + 40)
    deferred_tasks.assert_num_tasks(0)


def test_what_the_queue_counts_comes_with_the_dispatch(db: None, deferred_tasks: CapturedTasks) -> None:
    third_time.defer()
    deferred_tasks.process_task_queues(failure_behaviour=RETRY)
    # Cloud Tasks counts no server error as an execution.
    assert traces() == ["counted 0 0", "counted 1 0", "counted 2 0"]


def test_refusal_counts_as_an_execution(db: None, deferred_tasks: CapturedTasks) -> None:
    customer = Customer.objects.create(name="Ada")
    greet_or_wait.defer(customer)
    Customer.objects.all().delete()
    (run,) = deferred_tasks.process_task_queues(failure_behaviour=DO_NOTHING)
    assert (run.outcome, run.reason) == ("retry", Reason.REFERENCE_MISSING)
    assert (queued(deferred_tasks).failures, queued(deferred_tasks).executions) == (1, 1)
    customer.save()
    (run,) = deferred_tasks.process_task_queues()
    assert (run.outcome, run.attempt) == ("done", 2)


def test_error_of_one_function_is_not_told_of_the_next(db: None, deferred_tasks: CapturedTasks) -> None:
    fail.defer("x")
    note.defer("y")
    failed, done = deferred_tasks.process_task_queues(failure_behaviour=DO_NOTHING)
    assert isinstance(failed.error, RuntimeError)
    assert (done.function, done.error) == ("shop.note", None)


def test_backoff_is_that_of_cloud_tasks() -> None:
    # The example in the service's own reference.
    policy = RetryOptions(min_backoff=timedelta(seconds=10), max_backoff=timedelta(seconds=300), max_doublings=3)
    delays = [backoff(policy, failures).total_seconds() for failures in range(1, 10)]
    assert delays == [10, 20, 40, 80, 160, 240, 300, 300, 300]
    assert backoff(RetryOptions(max_doublings=1_000), 10_000) == timedelta(hours=1)


def test_last_attempt_is_a_failure_too(db: None, deferred_tasks: CapturedTasks) -> None:
    fail_twice.options(retry_options=RetryOptions(max_attempts=1)).defer("x")
    with pytest.raises(TaskFailedError, match="ended as dead: function_failed"):
        deferred_tasks.process_task_queues()


def test_function_that_fails_for_ever_comes_to_an_end_with_its_name(db: None, deferred_tasks: CapturedTasks) -> None:
    fail.defer("x")
    note.defer("y")
    with pytest.raises(EndlessTasksError, match=r"after 20 dispatches .* shop\.fail 19 times, shop\.note 1 times"):
        deferred_tasks.process_task_queues(failure_behaviour=RETRY, max_dispatches=20)


def test_as_many_dispatches_as_allowed_are_no_endless_loop(db: None, deferred_tasks: CapturedTasks) -> None:
    defer_many(note.bind("x") for _ in range(5))
    assert len(deferred_tasks.process_task_queues(max_dispatches=5)) == 5


def test_function_that_asks_to_come_again_does_and_is_one_call(
    db: None, deferred_tasks: CapturedTasks, safedefer_clock: ManualClock
) -> None:
    again.defer("x")
    runs = deferred_tasks.process_task_queues()
    assert [run.outcome for run in runs] == ["reissue", "done"]
    assert traces() == ["again x 1 0", "again x 2 0"]
    (call,) = deferred_tasks.calls
    assert call.schedule_time is None


def test_dropped_call_is_no_failure(db: None, deferred_tasks: CapturedTasks) -> None:
    pass_by.defer()
    (run,) = deferred_tasks.process_task_queues()
    assert (run.outcome, run.reason, run.detail, run.failed) == ("drop", Reason.DROPPED, "nothing to do", False)


def test_function_knows_its_task(db: None, deferred_tasks: CapturedTasks) -> None:
    look_around.options(name="a-name").defer()
    deferred_tasks.process_task_queues()
    assert traces()[0] == "task shop.look_around 1 True 0 a-name default 0"


def test_expired_call_is_refused_and_the_test_is_told(
    db: None, deferred_tasks: CapturedTasks, safedefer_clock: ManualClock
) -> None:
    note.options(expires=timedelta(minutes=1)).defer("x")
    safedefer_clock.advance(timedelta(minutes=2))
    with pytest.raises(TaskFailedError, match="ended as dead: expired") as caught:
        deferred_tasks.process_task_queues()
    assert caught.value.__cause__ is None
    assert traces() == []


def test_missing_row_is_told(db: None, deferred_tasks: CapturedTasks) -> None:
    customer = Customer.objects.create(name="Ada")
    greet.defer(customer)
    greet_or_fail.defer(customer)
    customer.delete()
    with pytest.raises(TaskFailedError, match=r"shop\.greet_or_fail .* reference_missing"):
        deferred_tasks.process_task_queues()


def queued(tasks: CapturedTasks) -> Any:
    (task,) = tasks._ports.sender.waiting()
    return task


def test_task_that_comes_twice_runs_once(db: None, deferred_tasks: CapturedTasks) -> None:
    note.defer("x")
    first = queued(deferred_tasks).task
    deferred_tasks.process_task_queues()
    deferred_tasks._ports.sender.clear()
    sender = deferred_tasks._ports.sender
    sender.send(sender.prepare(first))
    (run,) = deferred_tasks.process_task_queues()
    assert run.reason is Reason.ALREADY_EXECUTED
    assert traces() == ["note x"]


@pytest.mark.parametrize(("place", "reason"), [(60, "tag_invalid"), (-1, "body_digest")])
def test_envelope_that_was_changed_on_the_way_is_refused(
    db: None, deferred_tasks: CapturedTasks, place: int, reason: str
) -> None:
    note.defer("x")
    task = queued(deferred_tasks)
    changed = bytearray(task.task.envelope)
    changed[place] ^= 1
    task.task = replace(task.task, envelope=bytes(changed))
    with pytest.raises(TaskFailedError, match=f"ended as dead: {reason}"):
        deferred_tasks.process_task_queues()
    assert traces() == []


def test_claims_signed_with_another_key_are_refused(db: None, deferred_tasks: CapturedTasks) -> None:
    note.defer("x")
    task = queued(deferred_tasks)
    runtime = deferred_tasks.runtime
    envelope = parse_envelope(task.task.envelope)
    claims = verify_envelope(envelope, runtime.ring, runtime.deployment).claims
    task.task = replace(task.task, envelope=sign_envelope(claims, envelope.body, KEY, runtime.deployment))
    with pytest.raises(TaskFailedError, match="a task in queue default ended as retry: key_unknown"):
        deferred_tasks.process_task_queues()
    assert traces() == []


def test_wrong_call_is_told_where_it_is_deferred(deferred_tasks: CapturedTasks) -> None:
    with pytest.raises(InvalidOptionError, match="30 days"):
        note.options(countdown=timedelta(days=31)).defer("x")
    assert deferred_tasks.calls == ()


def test_audit_events_are_sent_as_ever(db: None, deferred_tasks: CapturedTasks, events: list[AuditEvent]) -> None:
    note.defer("x")
    deferred_tasks.process_task_queues()
    assert [event.reason for event in events] == [Reason.DEFERRED, Reason.ACCEPTED, Reason.EXECUTED]
    assert events[-1].actor == "safedefer@tests.iam.gserviceaccount.com"


def test_runtime_of_before_is_there_again_afterwards() -> None:
    install_problem("there was none")
    with capture_tasks() as outer:
        with capture_tasks() as inner:
            note.defer("inner")
            assert current_runtime() is inner.runtime
        note.defer("outer")
        assert [call.args for call in outer.calls] == [("outer",)]
        assert [call.args for call in inner.calls] == [("inner",)]
    with pytest.raises(ConfigurationError, match="there was none"):
        note.defer("afterwards")


def test_tasks_run_with_their_own_runtime_wherever_they_are_run(db: None) -> None:
    with capture_tasks() as tasks:
        chain.defer(1)
    tasks.process_task_queues()
    assert traces() == ["chain 1", "note after 1"]


def test_threads_defer_into_one_queue(deferred_tasks: CapturedTasks) -> None:
    together = threading.Barrier(8)

    def work(number: int) -> None:
        together.wait(20)
        for _ in range(20):
            note.defer(str(number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    deferred_tasks.assert_num_tasks(160)
    assert len(deferred_tasks.calls) == 160


def test_coroutine_functions_run(db: None, deferred_tasks: CapturedTasks) -> None:
    anote.defer("x")
    alook_around.defer()
    deferred_tasks.process_task_queues()
    assert traces() == ["anote x", "around en-us Europe/Vienna shop.alook_around"]


def test_calls_of_coroutines_are_captured_and_run(db: None, deferred_tasks: CapturedTasks) -> None:
    async def test() -> None:
        handle = await adefer(anote, "x", _queue="billing")
        assert handle.created
        deferred_tasks.assert_num_tasks(1, "billing")
        assert deferred_tasks.calls[0].args == ("x",)
        (run,) = await deferred_tasks.aprocess_task_queues()
        assert run.outcome == "done"

    async_to_sync(test)()
    assert traces() == ["anote x"]


def test_dataclasses_and_enums_arrive_as_such(db: None, deferred_tasks: CapturedTasks) -> None:
    when = datetime(2030, 1, 1, tzinfo=UTC)
    parcel = Parcel.objects.create()
    ship.defer(parcel, [], Money(Decimal("1.20")), Color.GREEN, when)
    (call,) = deferred_tasks.calls
    assert call.args == (parcel, [], Money(Decimal("1.20")), Color.GREEN, when)


@pytest.mark.django_db(transaction=True)
def test_real_transactions_are_waited_for(deferred_tasks: CapturedTasks) -> None:
    with transaction.atomic():
        handle = note.defer("x")
        assert handle.created is None
        deferred_tasks.assert_num_tasks(0)
        deferred_tasks.process_task_queues()
    deferred_tasks.assert_num_tasks(1)
    deferred_tasks.process_task_queues()
    assert traces() == ["note x"]
