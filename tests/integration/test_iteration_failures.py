"""Rows of an iteration that fail: what came before them is kept, and what becomes of them is the caller's choice."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import DataError, IntegrityError, connections
from django.db.models.signals import post_init

from safedefer import Iteration, defer_iteration_with_finalize
from safedefer.core.iteration.state import RunState
from safedefer.core.records import RecordKind
from safedefer.errors import InvalidKeyRangesError, Reason
from tests.site.shop import tasks
from tests.site.shop.models import Customer, Order, Reading
from tests.support.builders import HurryingClock, ManualClock
from tests.support.site import Site
from tests.support.visits import begin, delete, finalized, populate, run_by_hand, run_in_time, run_next, visits

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other", "postgres"])


@pytest.fixture(autouse=True)
def _nothing_is_broken() -> Iterator[None]:
    yield
    tasks.broken.clear()


@contextmanager
def unmakeable(*names: str, error: type[BaseException] = RuntimeError) -> Iterator[None]:
    """Customers that cannot be made instances."""

    def refuse(sender: Any, instance: Customer, **_: object) -> None:
        if instance.name in names:
            raise error("not to be loaded")

    post_init.connect(refuse, sender=Customer)
    try:
        yield
    finally:
        post_init.disconnect(refuse, sender=Customer)


def walk(callback: Any, *, attempts: int | None = None, **options: Any) -> Iteration:
    """An iteration over all customers in one shard, whose records stay.

    Args:
        attempts: After so many a row is skipped.
    """
    if attempts is not None:
        options |= {"_on_error": "skip", "_max_item_attempts": attempts}
    return defer_iteration_with_finalize(
        Customer.objects.all(), callback, tasks.all_told, "x", _shards=1, _delete_marker=False, **options
    )


def counts(iteration: Iteration) -> tuple[int, int, RunState]:
    """How many rows were skipped and calls failed, and what became of the run."""
    progress = iteration.progress()
    assert progress is not None
    return progress.skipped, progress.failed, progress.state


def test_row_that_fails_is_skipped_after_its_attempts_and_counted(site: Site) -> None:
    names = populate(20)
    tasks.broken.add("c0007")
    iteration = begin(Customer.objects.all(), _on_error="skip", _max_item_attempts=1, _delete_marker=False, _shards=1)
    site.run_tasks()
    assert visits(site) == Counter(names) - Counter(["c0007"])
    progress = iteration.progress()
    assert progress is not None
    assert (progress.skipped, progress.failed, progress.state) == (1, 1, RunState.DONE)
    assert finalized(site) == 1


def test_row_that_halts_waits_for_a_person(site: Site) -> None:
    names = populate(20)
    tasks.broken.add("c0007")
    iteration = begin(Customer.objects.all(), _on_error="halt", _max_item_attempts=1, _shards=1)
    site.run_tasks()
    progress = iteration.progress()
    assert progress is not None
    assert progress.state is RunState.HALTED
    assert finalized(site) == 0
    tasks.broken.clear()
    iteration.resume()
    site.run_tasks()
    assert visits(site) == Counter(names)
    assert finalized(site) == 1


def test_failing_row_keeps_what_came_before_it_and_is_tried_later(site: Site) -> None:
    names = populate(20)
    tasks.broken.add("c0007")
    begin(Customer.objects.all(), _shards=1)
    site.run_tasks()
    assert visits(site) == Counter(names[:7])
    tasks.broken.clear()
    site.use(clock=ManualClock(site.runtime.clock.time() + 3_600))
    (task,) = site.tasks()
    assert site.post(task.http_request.body).status == 204
    site.run_tasks()
    assert visits(site) == Counter(names)
    assert finalized(site) == 1


@pytest.mark.parametrize(
    "callback", [tasks.visit_in_part, tasks.avisit_in_part, tasks.visit_many_in_part], ids=lambda fn: fn.registered.name
)
def test_atomic_batch_rolls_a_failed_call_back_and_keeps_the_others(site: Site, callback: Any) -> None:
    names = populate(60)
    tasks.broken.add("c0042")
    iteration = walk(callback, attempts=1, _atomic="batch")
    site.run_tasks()
    site.use(clock=ManualClock(site.runtime.clock.time() + 60))
    run_by_hand(site)
    # The trace that the failed call left is gone with it.
    assert visits(site) == Counter(names) - Counter(["c0042"])
    assert finalized(site) == 1
    progress = iteration.progress()
    assert progress is not None
    assert (progress.rows, progress.skipped) == (60, 1)


@pytest.mark.parametrize("callback", [tasks.visit_in_part, tasks.visit_many_in_part])
@pytest.mark.parametrize("checkpoint", [2, 3, 4])
@pytest.mark.parametrize("behind", [False, True])
def test_atomic_batch_loses_its_writes_with_its_checkpoint_and_repeats_nothing(
    site: Site, callback: Any, checkpoint: int, *, behind: bool
) -> None:
    names = populate(120)
    site.pause()
    walk(callback, _atomic="batch", _deadline=15)
    real, wrote = site.runtime.records, 0

    class Refusing:
        """Goes away once, before or behind a write of the shard."""

        get, scan = real.get, real.scan

        def commit(self, changes: Any) -> None:
            nonlocal wrote
            wrote += any(change.key.kind is RecordKind.SHARD for change in changes)
            goes = wrote == checkpoint
            wrote += goes
            if behind or not goes:
                real.commit(changes)
            if goes:
                raise RuntimeError("gone")

    site.use(records=Refusing())
    for _ in range(10):
        site.use(clock=ManualClock(site.runtime.clock.time() + 100))
        for task in site.tasks():
            if site.post(task.http_request.body).status == 204:
                delete(site, task.name)
    assert visits(site) == Counter(names)
    assert finalized(site) == 1


def test_coroutine_that_fails_keeps_what_came_before_it(site: Site) -> None:
    names = populate(20)
    tasks.broken.add("c0007")
    defer_iteration_with_finalize(
        Customer.objects.all(), tasks.avisit, tasks.aall_visited, _shards=1, _on_error="skip", _max_item_attempts=1
    )
    site.run_tasks()
    assert visits(site) == Counter(names) - Counter(["c0007"])
    assert finalized(site) == 1


def test_failed_batch_goes_on_row_by_row_and_one_row_is_skipped(site: Site) -> None:
    names = populate(60)
    tasks.broken.add("c0042")
    iteration = defer_iteration_with_finalize(
        Customer.objects.all(),
        tasks.visit_many,
        tasks.all_greeted,
        "hi",
        _shards=1,
        _on_error="skip",
        _max_item_attempts=1,
        _delete_marker=False,
    )
    site.run_tasks()
    # The pages before the failed one are kept; its own rows wait.
    assert visits(site) == Counter(names[:20])
    site.use(clock=ManualClock(site.runtime.clock.time() + 60))
    run_by_hand(site)
    assert visits(site) == Counter(names) - Counter(["c0042"])
    assert finalized(site) == 1
    progress = iteration.progress()
    assert progress is not None
    # One call for the page, one for the row.
    assert (progress.rows, progress.skipped, progress.failed) == (60, 1, 2)


CALLBACKS = {
    "row": (tasks.visit_in_part, {}),
    "coroutine": (tasks.avisit_in_part, {}),
    "rows at once": (tasks.visit_many_in_part, {}),
    "row in a transaction": (tasks.visit_in_part, {"_atomic": "batch"}),
    "rows at once in a transaction": (tasks.visit_many_in_part, {"_atomic": "batch"}),
}
each_callback = pytest.mark.parametrize(("callback", "options"), CALLBACKS.values(), ids=CALLBACKS)


@each_callback
@pytest.mark.parametrize("prefetch", [[], ["readings"]], ids=["", "prefetching"])
@pytest.mark.parametrize("order_field", ["pk", "name"])
def test_row_that_cannot_be_made_is_skipped_like_one_whose_call_fails(
    site: Site, callback: Any, options: dict[str, Any], prefetch: list[str], order_field: str
) -> None:
    names = populate(50)
    rows = Customer.objects.prefetch_related(*prefetch)
    site.pause()
    with unmakeable("c0027", "c0028", "c0049"):
        iteration = defer_iteration_with_finalize(
            rows,
            callback,
            tasks.all_told,
            "x",
            order_field=order_field,
            _shards=1,
            _on_error="skip",
            _max_item_attempts=2,
            _delete_marker=False,
            **options,
        )
        run_in_time(site)
    assert visits(site) == Counter(names) - Counter(["c0027", "c0028", "c0049"])
    assert finalized(site) == 1
    skipped, failed, state = counts(iteration)
    assert (skipped, state) == (3, RunState.DONE)
    # Two attempts each; where all rows of a page are made at once, its failure is counted as well.
    assert failed >= 6


@each_callback
@pytest.mark.parametrize("error", [OverflowError, DataError, IntegrityError])
def test_row_whose_making_ends_in_an_error_of_the_database_is_no_outage(
    site: Site, callback: Any, options: dict[str, Any], error: type[Exception]
) -> None:
    names = populate(20)
    with unmakeable("c0000", "c0007", error=error):
        iteration = walk(callback, attempts=2, **options)
        run_in_time(site)
    assert visits(site) == Counter(names) - Counter(["c0000", "c0007"])
    assert (counts(iteration)[0], finalized(site)) == (2, 1)


@pytest.mark.parametrize(
    ("using", "value"), [("postgres", "taken = 'infinity'"), ("default", "label = CAST(x'ff' AS TEXT)")]
)
def test_row_that_the_driver_cannot_read_is_skipped(site: Site, using: str, value: str) -> None:
    rows = Reading.objects.using(using)
    rows.bulk_create(Reading(label=str(number)) for number in range(10))
    spoil("4", value, using)
    iteration = walk_readings(rows)
    run_in_time(site)
    assert Counter(site.traces()) == Counter([f"read {number}" for number in range(10) if number != 4] + ["finalized "])
    assert counts(iteration)[0] == 1


def test_row_whose_place_the_driver_cannot_read_asks_for_a_person_and_repeats_nothing(site: Site) -> None:
    rows = Reading.objects.all()
    rows.bulk_create(Reading(label=str(day), taken=datetime(2026, 1, 1 + day, tzinfo=UTC)) for day in range(10))
    iteration = walk_readings(rows, order_field="taken")
    run_next(site)
    spoil("4", "taken = '2026-01-05 99:99'", "default")
    run_in_time(site)
    assert Counter(site.traces()) == Counter(f"read {day}" for day in range(4))
    assert counts(iteration)[2] is RunState.HALTED


def walk_readings(rows: Any, **options: Any) -> Iteration:
    """An iteration over readings, which leaves a row out when it has failed twice."""
    options |= {"_on_error": "skip", "_max_item_attempts": 2, "_shards": 1, "_delete_marker": False}
    return defer_iteration_with_finalize(rows, tasks.read, tasks.all_told, "", **options)


def spoil(label: str, assignment: str, using: str) -> None:
    """Write what Django would not."""
    with connections[using].cursor() as cursor:
        cursor.execute(f"UPDATE shop_reading SET {assignment} WHERE label = %s", [label])


def test_slice_of_rows_that_fail_ends_in_time_as_any_other(site: Site) -> None:
    names = populate(60)
    tasks.broken.update(names)
    site.pause()
    iteration = begin(Customer.objects.all(), _shards=1, _deadline=30, _on_error="skip", _max_item_attempts=1)
    run_next(site)
    clock = HurryingClock(site.runtime.clock.time(), 0.5)
    site.use(clock=clock)
    before = clock.time()
    (task,) = site.tasks()
    assert site.post(task.http_request.body).status == 204
    assert clock.time() - before < 30
    assert 0 < counts(iteration)[0] < len(names)


@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
def test_row_that_cannot_be_made_halts_and_goes_on_when_it_can(site: Site, error: type[BaseException]) -> None:
    names = populate(30)
    with unmakeable("c0007", error=error):
        iteration = begin(Customer.objects.all(), _on_error="halt", _max_item_attempts=1, _shards=1)
        site.run_tasks()
        assert counts(iteration)[2] is RunState.HALTED
        assert visits(site) == Counter(names[:7])
    iteration.resume()
    site.run_tasks()
    assert visits(site) == Counter(names)
    assert finalized(site) == 1


def test_row_that_cannot_be_made_is_named_by_nothing_of_its_own(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    populate(5)
    with unmakeable("c0003"):
        begin(Customer.objects.all(), _shards=1, _on_error="skip", _max_item_attempts=1)
        site.run_tasks()
    assert "shop.visit could not be given a row in task" in caplog.text
    assert "c0003" not in caplog.text
    assert "not to be loaded" not in caplog.text


class Stopped(KeyboardInterrupt):
    """The end of a worker in the middle: nothing is left for anybody to see."""


@pytest.fixture
def stops_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows may stop the thread that is a worker here; that is not to be reported."""
    usual = threading.excepthook
    monkeypatch.setattr(threading, "excepthook", lambda args: None if args.exc_type is Stopped else usual(args))


@pytest.mark.usefixtures("stops_workers")
@each_callback
def test_row_that_stops_workers_as_it_is_made_is_found_and_skipped(
    site: Site, callback: Any, options: dict[str, Any]
) -> None:
    names = populate(40)
    site.pause()
    with unmakeable("c0013", error=Stopped):
        iteration = walk(callback, attempts=2, **options)
        run_in_time(site)
    seen = visits(site)
    assert set(seen) == set(names) - {"c0013"}
    assert finalized(site) == 1
    # Rows before it come again, as behind every crash; those behind it do not.
    assert all(count == 1 for name, count in seen.items() if name > "c0013")
    skipped, _, state = counts(iteration)
    assert (skipped, state) == (1, RunState.DONE)


@pytest.mark.usefixtures("stops_workers")
def test_pages_that_take_no_time_share_a_checkpoint_until_a_worker_is_stopped(site: Site) -> None:
    names = populate(300)
    site.pause()
    with unmakeable("c0200", error=Stopped):
        begin(Customer.objects.all(), _shards=1, _on_error="skip", _max_item_attempts=1)
        run_in_time(site)
    seen = visits(site)
    assert set(seen) == set(names) - {"c0200"}
    # The first slice kept nothing before it was stopped; the second one each page, of 20 and 80 rows.
    assert {seen[name] for name in names[:100]} == {2}
    assert min(seen[name] for name in names[100:200]) > 2
    assert {seen[name] for name in names[201:]} == {1}


TOO_LONG = "c0020" + "x" * 4_000


@each_callback
def test_row_without_a_place_asks_for_a_person_and_repeats_nothing(
    site: Site, callback: Any, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    names = populate(50)
    Customer.objects.filter(name="c0020").update(name=TOO_LONG)
    site.pause()
    iteration = walk(callback, attempts=1, order_field="name", **options)
    run_in_time(site)
    assert visits(site) == Counter(names[:20])
    assert counts(iteration)[2] is RunState.HALTED
    assert "takes 4,0" in caplog.text
    assert "a key 3,072 at most" in caplog.text
    assert "xxx" not in caplog.text
    Customer.objects.filter(name=TOO_LONG).update(name="c0020")
    iteration.resume()
    run_in_time(site)
    assert visits(site) == Counter(names)
    assert finalized(site) == 1


def test_row_that_is_made_with_a_key_that_is_none_is_skipped_at_its_place(site: Site) -> None:
    Reading.objects.bulk_create(Reading(label=f"r{number:02d}", level=number) for number in range(20))

    def spoil(instance: Reading, **_: object) -> None:
        if instance.label == "r19":
            instance.level = "many"

    site.pause()
    iteration = defer_iteration_with_finalize(
        Reading.objects.all(),
        tasks.read,
        tasks.all_told,
        "x",
        order_field="level",
        _shards=1,
        _on_error="skip",
        _max_item_attempts=2,
        _delete_marker=False,
    )
    post_init.connect(spoil, sender=Reading)
    try:
        run_in_time(site)
    finally:
        post_init.disconnect(spoil, sender=Reading)
    seen = Counter(site.traces())
    # The rows of its page come once more, one by one; it is not called for again.
    assert seen == Counter({"finalized x": 1, **{f"read r{number:02d}x": 1 + (number < 19) for number in range(20)}})
    assert counts(iteration) == (1, 3, RunState.DONE)


@pytest.mark.usefixtures("stops_workers")
def test_rows_that_only_a_join_leaves_out_are_passed_in_careful_mode_as_well(site: Site) -> None:
    names = populate(30)
    owners = list(Customer.objects.order_by("pk"))
    Order.objects.bulk_create(Order(customer=owner) for owner in owners)
    orders = Order.objects.select_related("customer")
    site.pause()
    iteration = defer_iteration_with_finalize(
        orders,
        tasks.visit_owner,
        tasks.all_told,
        "x",
        _shards=1,
        _on_error="skip",
        _max_item_attempts=1,
        _delete_marker=False,
    )
    (task,) = site.tasks()
    assert site.post(task.http_request.body).status == 204
    delete(site, task.name)
    # As in a database without constraints: the customers of these orders are gone.
    gone = [names[number] for number in (3, 4, 28, 29)]
    with connections["default"].constraint_checks_disabled(), connections["default"].cursor() as cursor:
        cursor.execute("DELETE FROM shop_customer WHERE name IN (%s, %s, %s, %s)", gone)
    try:
        with unmakeable("c0025", error=Stopped):
            run_in_time(site)
    finally:
        Order.objects.all().delete()
    seen = visits(site)
    assert set(seen) == set(names) - {*gone, "c0025"}
    assert all(count == 1 for name, count in seen.items() if name > "c0025")
    assert counts(iteration)[2] is RunState.DONE
    assert finalized(site) == 1


def test_row_without_a_place_waits_to_be_mended(site: Site) -> None:
    names = populate(30)
    Customer.objects.filter(name="c0020").update(name=TOO_LONG)
    iteration = begin(Customer.objects.all(), order_field="name", _shards=1)
    site.run_tasks()
    assert counts(iteration) == (0, 1, RunState.RUNNING)
    assert visits(site) == Counter(names[:20])
    Customer.objects.filter(name=TOO_LONG).update(name="c0020")
    run_in_time(site)
    assert visits(site) == Counter(names)
    assert finalized(site) == 1


def test_rows_that_are_no_number_have_no_place(site: Site) -> None:
    readings = Reading.objects.using("postgres")
    readings.bulk_create(Reading(label=f"r{number}", ratio=number) for number in range(5))
    readings.create(label="nan", ratio=float("nan"))
    with pytest.raises(InvalidKeyRangesError, match="ratio is NaN"):
        defer_iteration_with_finalize(readings.all(), tasks.read, tasks.all_told, "x", order_field="ratio")
    readings.filter(label="nan").update(ratio=2.5)
    site.pause()
    iteration = defer_iteration_with_finalize(
        readings.all(), tasks.read, tasks.all_told, "x", order_field="ratio", _shards=1, _on_error="skip"
    )
    (plan,) = site.tasks()
    assert site.post(plan.http_request.body).status == 204
    delete(site, plan.name)
    # It becomes NaN, and so the last one, while the walk is under way: the walk was frozen at the row before.
    readings.filter(label="nan").update(ratio=float("nan"))
    run_in_time(site)
    assert Counter(site.traces()) == Counter([*(f"read r{number}x" for number in range(5)), "finalized x"])
    assert iteration.progress() is None


def test_callback_that_asks_to_be_called_later_has_not_failed(site: Site) -> None:
    names = populate(30)
    tasks.broken.add("c0011")
    site.pause()
    iteration = walk(tasks.visit_later, attempts=3)
    began = site.runtime.clock.time()

    def mend() -> None:
        if site.traces().count("asked c0011 x") == 2:
            tasks.broken.clear()

    run_in_time(site, between=mend)
    assert visits(site) == Counter(names)
    assert counts(iteration) == (0, 0, RunState.DONE)
    assert 7_200 <= site.runtime.clock.time() - began < 7_300
    assert finalized(site) == 1


def test_last_attempt_that_asks_for_another_is_a_failure(site: Site) -> None:
    names = populate(30)
    tasks.broken.add("c0011")
    site.pause()
    iteration = walk(tasks.visit_later, attempts=3)
    run_in_time(site)
    assert visits(site) == Counter(names) - Counter(["c0011"])
    assert site.traces().count("asked c0011 x") == 3
    assert counts(iteration) == (1, 1, RunState.DONE)


def test_rows_whose_call_asks_to_be_called_later_stay_together(site: Site) -> None:
    names = populate(20)
    tasks.broken.add("c0011")
    site.pause()
    iteration = walk(tasks.visit_many_later)

    def mend() -> None:
        if "asked c0011 x" in site.traces():
            tasks.broken.clear()

    run_in_time(site, between=mend)
    assert set(visits(site)) == set(names)
    assert site.traces().count("asked c0011 x") == 1
    assert counts(iteration) == (0, 0, RunState.DONE)
    assert [event.reason for event in site.dispatches()].count(Reason.FUNCTION_FAILED) == 0


def test_finalize_that_asks_to_be_called_later_has_not_failed(site: Site) -> None:
    names = populate(5)
    tasks.broken.add("x")
    site.pause()
    defer_iteration_with_finalize(
        Customer.objects.all(), tasks.visit_later, tasks.all_told_later, "x", _shards=1, _delete_marker=False
    )
    began = site.runtime.clock.time()

    def mend() -> None:
        if site.dispatches()[-1].reason is Reason.POSTPONED:
            tasks.broken.clear()

    run_in_time(site, between=mend)
    assert visits(site) == Counter(names)
    assert finalized(site) == 1
    assert 3_600 <= site.runtime.clock.time() - began < 3_700
    assert Reason.FUNCTION_FAILED not in {event.reason for event in site.dispatches()}


@pytest.mark.parametrize(
    "callback",
    [tasks.order_for_nobody, tasks.orders_for_nobody, tasks.order_and_forget],
    ids=lambda callback: callback.registered.name,
)
def test_row_whose_writes_cannot_be_committed_fails_alone(site: Site, callback: Any) -> None:
    names = populate(60)
    tasks.broken.add("c0042")
    site.pause()
    iteration = walk(callback, attempts=2, _atomic="batch")
    began = site.runtime.clock.time()
    run_in_time(site)
    # Its visit is gone with its order; those of the rows beside it were made again, once.
    assert visits(site) == Counter(names) - Counter(["c0042"])
    assert Order.objects.count() == 0
    skipped, _, state = counts(iteration)
    assert (skipped, state) == (1, RunState.DONE)
    assert finalized(site) == 1
    assert site.runtime.clock.time() - began < 120, "a lease was waited for"


@pytest.mark.parametrize("callback", [tasks.visit_and_hang_up, tasks.visit_many_and_hang_up])
def test_callback_that_loses_its_connection_in_a_transaction_fails_alone(site: Site, callback: Any) -> None:
    names = populate(30)
    tasks.broken.add("c0007")
    iteration = walk(callback, attempts=2, _atomic="batch")
    run_in_time(site)
    assert visits(site) == Counter(names) - Counter(["c0007"])
    assert (counts(iteration)[0], finalized(site)) == (1, 1)


def test_outage_in_a_transaction_releases_the_shard(site: Site) -> None:
    names = populate(30)
    site.pause()
    begin(Customer.objects.all(), _shards=1, _atomic="batch", _delete_marker=False)
    began = site.runtime.clock.time()
    real, wrote = site.runtime.records, 0

    class Failing:
        """Fails once in the middle of a transaction."""

        get, scan = real.get, real.scan

        def commit(self, changes: Any) -> None:
            nonlocal wrote
            wrote += any(change.key.kind is RecordKind.SHARD for change in changes)
            if wrote == 3:
                wrote += 1
                raise RuntimeError("gone")
            real.commit(changes)

    site.use(records=Failing())
    run_in_time(site)
    assert visits(site) == Counter(names)
    assert finalized(site) == 1
    assert site.runtime.clock.time() - began < 120, "a lease was waited for"
