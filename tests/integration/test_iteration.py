"""Iterations on real databases, through the local cloud: every row, once, and one finalize."""

import io
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction
from django.utils import timezone

from safedefer import Iteration, defer, defer_iteration_with_finalize, get_deferred_shard_index
from safedefer.core.iteration.rows import parse_run, parse_shard
from safedefer.core.iteration.state import RunState
from safedefer.core.limits import ITERATION_SILENCE
from safedefer.core.ports import RecordStore
from safedefer.core.records import Change, Delete, Put, Record, RecordKey, RecordKind
from safedefer.django.modelrefs import RowsUnavailableError
from safedefer.django.models import StoredRecord
from safedefer.errors import (
    InvalidCallError,
    InvalidKeyRangesError,
    InvalidOptionError,
    IterationError,
    LeaseLostError,
    Reason,
    RecordConflictError,
    UnregisteredFunctionError,
    UnsupportedQuerySetError,
)
from safedefer.flow.iterations import sweep_iterations
from safedefer.flow.ledger import Ledger
from safedefer.key_ranges import sequential_int_key_ranges
from safedefer.testing.fakes import MemoryRecords
from tests.site.shop import tasks
from tests.site.shop.models import Customer, Draft, Order, Reading
from tests.support.builders import HurryingClock, ManualClock
from tests.support.site import Site
from tests.support.visits import begin, delete, finalized, populate, run_by_hand, run_in_time, run_next, visits

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other", "postgres"])


@pytest.fixture(autouse=True)
def _nothing_is_broken() -> Any:
    yield
    tasks.broken.clear()


@pytest.mark.parametrize("using", ["default", "postgres"])
@pytest.mark.parametrize("store", ["orm", "datastore"])
def test_every_row_is_visited_once_and_then_finalize_runs_once(site: Site, using: str, store: str) -> None:
    if store == "datastore":
        use_datastore(site)
    names = populate(230, using)
    iteration = begin(Customer.objects.using(using).all(), "hello", loud=True, _shards=4)
    site.run_tasks()
    assert visits(site) == Counter(names)
    assert site.traces()[-1] == "finalized hello True"
    assert {text.split(maxsplit=2)[2] for text in site.traces()[:-1]} == {"hello True True"}
    assert finalized(site) == 1
    # Its records are gone with it.
    assert iteration.progress() is None


def use_datastore(site: Site) -> None:
    from safedefer.gcp.datastore import DatastoreRecords, DatastoreTarget

    host = site.cloud.environment()["DATASTORE_EMULATOR_HOST"]
    records = DatastoreRecords(DatastoreTarget(project="local", namespace="iteration", emulator_host=host))
    site.use(records=records, records_using=None, ledger=Ledger(records, site.runtime.clock))


def test_registered_queryset_is_made_where_it_is_walked(site: Site) -> None:
    populate(30)
    begin(tasks.customers_named.bind("c000"))
    site.run_tasks()
    assert sorted(visits(site)) == [f"c000{number}" for number in range(10)]
    assert finalized(site) == 1


def test_queryset_function_that_raises_is_tried_again_until_it_is_mended(site: Site) -> None:
    populate(20)
    site.pause()
    begin(tasks.customers_named.bind("c000"))
    tasks.broken.add("c000")
    (plan,) = site.tasks()
    assert site.post(plan.http_request.body).status == 500
    assert site.dispatches()[-1].reason is Reason.FUNCTION_FAILED
    tasks.broken.clear()
    run_by_hand(site)
    assert len(visits(site)) == 10
    assert finalized(site) == 1


def test_value_that_the_database_does_not_take_is_no_outage(site: Site) -> None:
    site.pause()
    begin(Customer.objects.using("postgres").filter(name="a\x00b"))
    (plan,) = site.tasks()
    assert site.post(plan.http_request.body).status != 204
    assert site.dispatches()[-1].reason is Reason.ARGUMENTS_MISMATCH


def test_finalize_may_be_dropped(site: Site) -> None:
    populate(3)
    iteration = defer_iteration_with_finalize(
        Customer.objects.all(), tasks.visit, tasks.dropped_end, "hi", _delete_marker=False
    )
    site.run_tasks()
    progress = iteration.progress()
    assert progress is not None
    assert progress.state is RunState.DONE


def test_finalize_needs_no_queryset(site: Site) -> None:
    populate(3)
    site.pause()
    begin(tasks.customers_named.bind("c000"), _shards=1)
    for _ in range(2):
        task = site.tasks()[0]
        assert site.post(task.http_request.body).status == 204
        delete(site, task.name)
    tasks.broken.add("c000")
    run_by_hand(site)
    assert finalized(site) == 1


@pytest.mark.parametrize("using", ["default", "postgres"])
def test_queryset_with_filters_travels_as_its_description(site: Site, using: str) -> None:
    populate(40, using)
    orders = Customer.objects.using(using).filter(name__in=["c0003", "c0031"])
    for customer in orders:
        Order.objects.using(using).bulk_create(Order(customer=customer) for _ in range(3))
    # A join that repeats rows does not repeat their visits.
    begin(Customer.objects.using(using).filter(order__isnull=False).exclude(name__startswith="c003"), _shards=2)
    site.run_tasks()
    assert visits(site) == Counter(["c0003"])
    assert finalized(site) == 1


def test_day_of_a_condition_is_that_of_the_callers_zone(site: Site) -> None:
    Reading.objects.create(label="late", taken=datetime(2026, 3, 1, 20, tzinfo=UTC))
    with timezone.override("Asia/Tokyo"):
        defer_iteration_with_finalize(Reading.objects.filter(taken__day=2), tasks.read, tasks.all_told, "")
    site.run_tasks()
    assert site.traces()[0] == "read late"


@pytest.mark.parametrize("using", ["default", "postgres"])
def test_zone_that_a_callback_leaves_behind_changes_no_condition(site: Site, using: str) -> None:
    rows, first = Reading.objects.using(using), datetime(2026, 3, 1, tzinfo=UTC)
    rows.bulk_create(Reading(label=str(hour), taken=first + timedelta(hours=hour % 48)) for hour in range(960))
    wanted = Counter(f"read {label}" for label in rows.filter(taken__day=1).values_list("label", flat=True))
    defer_iteration_with_finalize(rows.filter(taken__day=1), tasks.read_far_away, tasks.all_told, "", _shards=1)
    site.run_tasks()
    assert Counter(site.traces()[:-1]) == wanted


def test_rows_that_cannot_be_cut_any_more_are_a_failure_that_can_be_mended(site: Site) -> None:
    moment = datetime(2026, 3, 1, tzinfo=UTC)
    Reading.objects.create(label="early", taken=moment)
    with transaction.atomic():
        defer_iteration_with_finalize(Reading.objects.all(), tasks.read, tasks.all_told, "", order_field="taken")
        Reading.objects.create(label="late", taken=None)
    site.run_tasks()
    assert {event.reason for event in site.dispatches()} == {Reason.FUNCTION_FAILED}
    assert site.traces() == []
    Reading.objects.filter(label="late").update(taken=moment)
    site.run_tasks_until(lambda: len(site.traces()) == 3)
    assert sorted(site.traces()) == ["finalized ", "read early", "read late"]


@pytest.mark.parametrize("none", [Customer.objects.none, lambda: Customer.objects.filter(pk__in=[])])
def test_no_rows_are_finalized_at_once(site: Site, none: Callable[[], object]) -> None:
    populate(3)
    begin(none())
    site.run_tasks()
    assert site.traces() == ["finalized hi False"]


def test_records_can_be_kept_as_a_log(site: Site) -> None:
    populate(10)
    iteration = begin(Customer.objects.all(), _delete_marker=False, _shards=2)
    site.run_tasks()
    progress = iteration.progress()
    assert progress is not None
    assert (progress.state, progress.rows, progress.percent) == (RunState.DONE, 10, 100.0)


def test_getter_runs_with_the_caller(site: Site) -> None:
    names = populate(50)
    begin(Customer.objects.all(), key_ranges_getter=sequential_int_key_ranges, _shards=3)
    site.run_tasks()
    assert visits(site) == Counter(names)


class Ticking(ManualClock):
    """Each look at it takes a moment."""

    def __init__(self, now: float, seconds: float) -> None:
        super().__init__(now)
        self.seconds = seconds

    def time(self) -> float:
        self.now += self.seconds
        return self.now


@pytest.mark.parametrize("using", ["default", "postgres"])
@pytest.mark.parametrize(("seconds", "slices"), [(0.0, 1), (0.01, 5)], ids=["in one slice", "in many"])
def test_ten_thousand_equal_values_end_and_repeat_nothing(site: Site, using: str, seconds: float, slices: int) -> None:
    Customer.objects.using(using).bulk_create((Customer(name="same") for _ in range(10_000)), batch_size=1_000)
    clock = Ticking(site.runtime.clock.time(), seconds)
    site.use(clock=clock, ledger=Ledger(site.runtime.records, clock))
    rows = Customer.objects.using(using).all()
    defer_iteration_with_finalize(rows, tasks.tally, tasks.pass_end, order_field="name", _shards=3, _deadline=30)
    site.run_tasks()
    counted, tasks.tallied = tasks.tallied, Counter()
    assert counted == Counter(rows.values_list("pk", flat=True))
    assert site.traces() == ["finalized"]
    assert sum(event.function == "shop.tally" for event in site.dispatches()) >= 1 + slices


def test_iteration_of_a_transaction_waits_for_it(site: Site) -> None:
    with transaction.atomic():
        populate(5)
        begin(Customer.objects.all())
        site.run_tasks()
        assert site.traces() == []
    site.run_tasks()
    assert len(visits(site)) == 5


class Crowded:
    """A store where others are first at the row of a run, so many times."""

    def __init__(self, records: RecordStore, times: int) -> None:
        self.records = records
        self.get, self.scan = records.get, records.scan
        self.times = times

    def commit(self, changes: Sequence[Change]) -> None:
        if self.times and any(change.key.kind is RecordKind.RUN and change.expected for change in changes):
            self.times -= 1
            raise RecordConflictError("a record has another version than its change expects")
        self.records.commit(changes)


def test_shard_that_does_not_get_at_its_run_is_finished_by_the_next_slice(site: Site) -> None:
    names = populate(20)
    crowded = Crowded(site.runtime.records, times=10)
    site.use(records=crowded)
    site.pause()
    begin(Customer.objects.all(), _shards=1)
    run_in_time(site)
    assert visits(site) == Counter(names)
    assert (finalized(site), crowded.times) == (1, 0)
    # The plan, three slices and finalize: none of them waited for the end of a lease.
    assert [event.reason for event in site.dispatches()] == [Reason.EXECUTED] * 5


def test_every_task_delivered_again_changes_nothing(site: Site) -> None:
    names = populate(40)
    site.cloud.tasks.faults.set("duplicate", 1.0)
    try:
        begin(Customer.objects.all(), _shards=3)
        site.run_tasks()
    finally:
        site.cloud.tasks.faults.reset()
    site.run_tasks()
    assert visits(site) == Counter(names)
    assert finalized(site) == 1


class FewPages:
    """Real querysets, and an error after some pages."""

    def __init__(self, real: Any, pages: int, error: Exception) -> None:
        self.real = real
        self.left = pages
        self.error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def read_page(self, *args: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise self.error
        return self.real.read_page(*args)


def test_slice_that_comes_again_before_its_lease_has_ended_waits_and_loses_nothing(site: Site) -> None:
    names = populate(60)
    real = site.runtime.querysets
    # As of a worker that was stopped: nothing is released.
    site.use(querysets=FewPages(real, 1, LeaseLostError("gone")), clock=HurryingClock(site.runtime.clock.time(), 0.02))
    begin(Customer.objects.all(), _shards=1)
    site.run_tasks()
    done = visits(site)
    assert 0 < len(done) < len(names)
    site.use(querysets=real)
    (task,) = site.tasks()
    assert site.post(task.http_request.body).status == 204
    assert site.dispatches()[-1].reason is Reason.LEASE_HELD
    later = ManualClock(site.runtime.clock.time() + 3_600)
    site.use(clock=later, ledger=Ledger(site.runtime.records, later))
    assert site.post(task.http_request.body).status == 204
    site.run_tasks()
    assert visits(site) == Counter(names)
    assert finalized(site) == 1


def test_slice_whose_database_is_away_for_a_moment_holds_no_lease_and_repeats_nothing(site: Site) -> None:
    names = populate(60)
    real = site.runtime.querysets
    site.pause()
    begin(Customer.objects.all(), _shards=1)
    (plan,) = site.tasks()
    assert site.post(plan.http_request.body).status == 204
    delete(site, plan.name)
    (task,) = site.tasks()
    site.use(querysets=FewPages(real, 1, RowsUnavailableError("down")))
    assert site.post(task.http_request.body).status == 503
    done = visits(site)
    assert 0 < len(done) < len(names)
    site.use(querysets=real)
    # The slice that follows is created at once, for a moment later.
    assert site.post(task.http_request.body).status == 204
    later = ManualClock(site.runtime.clock.time() + 60)
    site.use(clock=later, ledger=Ledger(site.runtime.records, later))
    delete(site, task.name)
    run_by_hand(site)
    assert visits(site) == Counter(names)
    assert finalized(site) == 1


def test_slice_whose_reading_of_the_run_is_older_than_that_of_its_shard_does_not_revive_it(site: Site) -> None:
    names = populate(30)
    site.pause()
    begin(Customer.objects.all(), _shards=2, _delete_marker=False, key_ranges_getter=sequential_int_key_ranges)
    (plan,) = site.tasks()
    assert site.post(plan.http_request.body).status == 204
    delete(site, plan.name)
    slices = site.tasks()
    real = site.runtime.records
    (before,) = real.scan(RecordKind.RUN, limit=9)
    assert site.post(slices[0].http_request.body).status == 204
    (done,) = (record for record in real.scan(RecordKind.SHARD, limit=9) if parse_shard(record).state == "done")
    stale = 0

    class Behind:
        """Reads the run as it was before its shard was done, whenever both are read for the first time."""

        scan, commit = real.scan, real.commit

        def get(self, keys: Sequence[RecordKey]) -> Mapping[RecordKey, Record]:
            nonlocal stale
            found = dict(real.get(keys))
            if before.key in keys and stale < 2:
                stale += 1
                found[before.key] = before
            return found

    # Another ledger, to which the task is new.
    site.use(records=Behind(), ledger=Ledger(MemoryRecords(), site.runtime.clock))
    assert site.post(slices[0].http_request.body).status == 204
    assert stale == 2
    site.use(records=real, ledger=Ledger(real, site.runtime.clock))
    assert real.get([done.key])[done.key].version == done.version
    run_by_hand(site)
    assert visits(site) == Counter(names)
    assert finalized(site) == 1


def test_plan_that_was_frozen_until_all_of_it_was_over_begins_nothing(site: Site) -> None:
    names = populate(30)
    site.pause()
    begin(Customer.objects.all(), _shards=2)
    (plan,) = site.tasks()
    real, ended = site.runtime.records, 0

    class Frozen:
        """Another worker does the whole of it between the reads of this one and its commit."""

        get, scan = real.get, real.scan

        def commit(self, changes: Sequence[Change]) -> None:
            nonlocal ended
            if not ended and any(change.key.kind is RecordKind.RUN for change in changes):
                ended += 1
                later = ManualClock(site.runtime.clock.time() + 3_600)
                site.use(records=real, clock=later, ledger=Ledger(real, later))
                run_by_hand(site)
                assert list(real.scan(RecordKind.RUN, limit=9)) == []
            real.commit(changes)

    site.use(records=Frozen())
    # Its lease was over, so that another had it meanwhile.
    assert site.post(plan.http_request.body).status == 409
    assert ended == 1
    assert visits(site) == Counter(names)
    assert finalized(site) == 1
    assert site.tasks() == []
    assert [list(real.scan(kind, limit=9)) for kind in (RecordKind.RUN, RecordKind.SHARD, RecordKind.PLAN)] == [[]] * 3


def test_paused_iteration_stands_still_and_goes_on_where_it_was(site: Site) -> None:
    names = populate(1_200)
    iteration = defer_iteration_with_finalize(
        Customer.objects.all(), tasks.visit_until_told, tasks.all_told, "c0005", _shards=1
    )
    site.run_tasks()
    progress = iteration.progress()
    assert progress is not None
    assert progress.state is RunState.PAUSED
    before = visits(site)
    assert 6 <= len(before) < len(names)
    assert finalized(site) == 0
    assert "paused" in command("list")
    head, shard, total = command("show", iteration.id).splitlines()[1:]
    assert head.startswith("paused, 0 of 1 shards done")
    assert re.match(rf"shard 0 \[#*\.+\] +\d+ %  {progress.rows:,} rows ready$", shard)
    assert total.endswith(f"%  {progress.rows:,} of about 1,200 rows")
    assert "resume was asked for" in command("resume", iteration.id)
    site.run_tasks()
    assert visits(site) == Counter(names)
    assert finalized(site) == 1
    assert command("list") == "0 iterations\n"


def test_watch_ends_with_what_it_watches(site: Site) -> None:
    populate(10)
    iteration = begin(Customer.objects.all(), _shards=2, _delete_marker=False)
    site.run_tasks()
    first, last = command("show", iteration.id, "--watch").splitlines()
    assert first == iteration.id
    assert re.match(r"done +\[#{30}\] 100 %  10 of about 10 rows, 2 of 2 shards", last)


def test_sweep_makes_the_tasks_anew_that_a_queue_has_lost(site: Site) -> None:
    site.pause()
    names = populate(20)
    begin(Customer.objects.all(), _shards=2)
    (plan,) = site.tasks()
    assert site.post(plan.http_request.body).status == 204
    assert len(site.tasks()) == 3
    purge(site)
    assert "0 tasks created anew" in command("sweep")
    site.use(clock=ManualClock(site.runtime.clock.time() + 2_800))
    assert "2 tasks created anew" in command("sweep")
    # The shards have been heard of again, so that the next sweep leaves them alone.
    assert "0 tasks created anew" in command("sweep")
    run_by_hand(site)
    assert visits(site) == Counter(names)
    assert finalized(site) == 1


def test_sweep_makes_a_lost_finalize_anew(site: Site) -> None:
    site.pause()
    names = populate(4)
    begin(Customer.objects.all(), _shards=1)
    for _ in range(2):
        task = site.tasks()[0]
        assert site.post(task.http_request.body).status == 204
        delete(site, task.name)
    assert visits(site) == Counter(names)
    purge(site)
    site.use(clock=ManualClock(site.runtime.clock.time() + 2_800))
    assert "1 tasks created anew" in command("sweep")
    run_by_hand(site)
    assert finalized(site) == 1


def test_sweep_tells_of_an_iteration_that_it_cannot_look_after(site: Site) -> None:
    site.pause()
    populate(4)
    begin(Customer.objects.all(), _shards=1)
    (task,) = site.tasks()
    assert site.post(task.http_request.body).status == 204
    (plan,) = site.runtime.records.scan(RecordKind.PLAN, limit=9)
    site.runtime.records.commit([Delete(key=plan.key, expected=plan.version)])
    site.use(clock=ManualClock(site.runtime.clock.time() + 2_800))
    with pytest.raises(CommandError, match="1 iterations could not be looked after"):
        command("sweep")


def purge(site: Site) -> None:
    for task in site.tasks():
        delete(site, task.name)


def test_cancelled_iteration_is_not_finalized(site: Site) -> None:
    names = populate(30)
    tasks.broken.update(names)
    iteration = begin(Customer.objects.all(), _on_error="halt", _max_item_attempts=1)
    site.run_tasks()
    command("cancel", iteration.id)
    progress = iteration.progress()
    assert progress is not None
    assert progress.state is RunState.CANCELLED
    with pytest.raises(IterationError):
        iteration.resume()
    with pytest.raises(CommandError, match="cannot be"):
        command("pause", iteration.id)
    assert finalized(site) == 0


def test_cancelled_iteration_ends_though_its_queryset_cannot_be_made(site: Site) -> None:
    populate(5)
    site.pause()
    iteration = begin(tasks.customers_named.bind("c000"), _shards=1)
    assert site.post(site.tasks()[0].http_request.body).status == 204
    tasks.broken.add("c000")
    iteration.cancel()
    for task in site.tasks():
        assert site.post(task.http_request.body).status == 204


def test_finalize_waits_where_the_store_was_set_back_before_its_end(site: Site) -> None:
    names = populate(5)
    clock = ManualClock(site.runtime.clock.time())
    site.use(clock=clock, ledger=Ledger(site.runtime.records, clock))
    site.pause()
    begin(Customer.objects.all(), _shards=1)
    run_next(site)
    before = list(StoredRecord.objects.filter(kind__in=[RecordKind.RUN, RecordKind.SHARD]))
    run_next(site)
    for record in before:
        record.save()
    (finalize,) = site.tasks()
    assert site.post(finalize.http_request.body).status == 409
    assert finalized(site) == 0
    clock.now += ITERATION_SILENCE.total_seconds()
    sweep_iterations(site.runtime)
    delete(site, finalize.name)
    run_in_time(site)
    assert finalized(site) == 0
    assert site.post(finalize.http_request.body).status == 204
    assert visits(site) == Counter(names * 2)
    assert finalized(site) == 1


def test_iteration_that_is_not_there_is_told(site: Site) -> None:
    with pytest.raises(IterationError, match="no such iteration"):
        Iteration("00" * 16).pause()
    with pytest.raises(IterationError, match="32 hex digits"):
        Iteration("x")
    with pytest.raises(CommandError, match="no such iteration"):
        command("show", "00" * 16)
    assert Iteration("00" * 16).progress() is None


def test_coroutine_functions_are_callbacks_as_well(site: Site) -> None:
    names = populate(20)
    defer_iteration_with_finalize(Customer.objects.all(), tasks.avisit, tasks.aall_visited, _shards=2)
    site.run_tasks()
    assert Counter(site.traces()) == Counter([*(f"visit {name} True" for name in names), "finalized"])


@pytest.mark.parametrize(
    ("changes", "using", "text"),
    [({"records_using": None}, "default", "no database of Django's"), ({}, "other", "'other'")],
)
def test_atomic_batch_needs_the_records_in_the_database_of_the_rows(
    site: Site, changes: dict[str, Any], using: str, text: str
) -> None:
    site.use(**changes)
    with pytest.raises(InvalidOptionError, match=text):
        begin(Customer.objects.using(using).all(), _atomic="batch")
    with pytest.raises(InvalidOptionError, match='"batch" or None'):
        begin(Customer.objects.all(), _atomic="row")
    assert site.tasks() == []


@pytest.mark.parametrize("order_field", ["pk", "name"])
@pytest.mark.parametrize("callback", [tasks.visit_many, tasks.avisit_many, tasks.greet_slowly])
def test_slow_callback_is_warned_about_once_by_its_primary_key_alone(
    site: Site, callback: Any, order_field: str, caplog: pytest.LogCaptureFixture
) -> None:
    populate(3)

    class Slow(ManualClock):
        """Each look at it takes 35 seconds."""

        def time(self) -> float:
            self.now += 35
            return self.now

    site.pause()
    site.use(clock=Slow(site.runtime.clock.time()))
    defer_iteration_with_finalize(
        Customer.objects.all(), callback, tasks.all_greeted, "a secret", order_field=order_field, _shards=1
    )
    run_by_hand(site)
    warnings = [record.getMessage() for record in caplog.records if record.name == "safedefer.iteration"]
    slices = sum(event.reason is Reason.EXECUTED for event in site.dispatches())
    pks = {str(pk) for pk in Customer.objects.values_list("pk", flat=True)}
    assert 1 <= len(warnings) < slices
    for warning in warnings:
        assert warning.partition("primary key ")[2].split()[0] in pks
        assert "shard 0" in warning
        assert "c000" not in warning
        assert "secret" not in warning


def test_quick_callback_is_not_warned_about(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    populate(30)
    begin(Customer.objects.all())
    site.run_tasks()
    assert not [record for record in caplog.records if record.name == "safedefer.iteration"]


def test_coroutines_of_a_page_share_an_event_loop(site: Site) -> None:
    populate(20)
    tasks.loops.clear()
    defer_iteration_with_finalize(Customer.objects.all(), tasks.avisit, tasks.aall_visited, _shards=1)
    site.run_tasks()
    assert finalized(site) == 1
    assert len(tasks.loops) == 1


@pytest.mark.parametrize("callback", [tasks.visit_many, tasks.avisit_many])
@pytest.mark.parametrize("count", [0, 1, 230])
def test_batch_callback_gets_the_rows_of_a_page(site: Site, callback: Any, count: int) -> None:
    names = populate(count)
    defer_iteration_with_finalize(Customer.objects.all(), callback, tasks.all_greeted, "hi", _shards=2)
    site.run_tasks()
    assert visits(site) == Counter(names)
    assert finalized(site) == 1


def test_batches_grow_to_no_more_rows_than_a_call_takes(site: Site) -> None:
    names = populate(1_500)
    defer_iteration_with_finalize(Customer.objects.all(), tasks.visit_many, tasks.all_greeted, "hi", _shards=1)
    site.run_tasks()
    assert visits(site) == Counter(names)
    calls = [text.split() for text in site.traces() if text.startswith("called")]
    assert max(int(call[1]) for call in calls) <= 500
    assert int(calls[0][1]) == 20
    assert len(calls) < 15
    assert {tuple(call[2:]) for call in calls} == {("hi", "True")}


def test_batch_function_is_deferred_like_any_other(site: Site) -> None:
    populate(3)
    defer(tasks.visit_many, list(Customer.objects.order_by("pk")), "hi")
    site.run_tasks()
    assert site.traces() == ["called 3 hi False", "visit c0000", "visit c0001", "visit c0002"]


@pytest.mark.parametrize("order_field", ["pk", "name"])
def test_callback_may_delete_and_change_its_row_and_the_cursor_is_where_it_was(site: Site, order_field: str) -> None:
    names = populate(100)
    tasks.broken.add("c0042")
    iteration = defer_iteration_with_finalize(
        Customer.objects.all(),
        tasks.devour,
        tasks.all_devoured,
        10,
        order_field=order_field,
        _shards=1,
        _on_error="skip",
        _max_item_attempts=1,
        _delete_marker=False,
    )
    site.run_tasks()
    dropped = names[::10]
    assert visits(site) == Counter(names) - Counter([*dropped, "c0042"])
    assert sorted(Customer.objects.values_list("name", flat=True)) == sorted([*dropped, "c0042"])
    progress = iteration.progress()
    assert progress is not None
    # Those that had nothing to be done are finished all the same.
    assert (progress.rows, progress.skipped, progress.failed) == (100, 1, 1)


def test_rows_of_many_pages_are_visited_once_across_checkpoints(site: Site) -> None:
    names = populate(700)

    # So that checkpoints fall into pages.
    site.use(clock=HurryingClock(site.runtime.clock.time(), 0.1))
    begin(Customer.objects.all(), _shards=1, _deadline=1_800)
    site.run_tasks()
    assert visits(site) == Counter(names)
    assert finalized(site) == 1


@pytest.mark.parametrize(("deadline", "limit"), [(30, None), (600, timedelta(seconds=30))])
def test_slice_ends_before_its_deadline_and_the_next_one_goes_on(
    site: Site, deadline: int, limit: timedelta | None
) -> None:
    names = populate(60)

    site.use(clock=HurryingClock(site.runtime.clock.time(), 0.5), slice_limit=limit)
    begin(Customer.objects.all(), _shards=1, _deadline=deadline)
    site.run_tasks()
    for _ in range(200):
        waiting = site.tasks()
        if not waiting:
            break
        assert site.post(waiting[0].http_request.body).status == 204
        delete(site, waiting[0].name)
        site.run_tasks()
    assert visits(site) == Counter(names)
    assert finalized(site) == 1
    assert sum(event.reason is Reason.EXECUTED for event in site.dispatches()) > 3


def command(*args: str) -> str:
    out = io.StringIO()
    call_command("safedefer_iterations", *args, stdout=out)
    return out.getvalue()


def test_state_rewritten_in_the_store_never_changes_what_runs(site: Site) -> None:
    populate(10)
    tasks.broken.add("c0000")
    begin(Customer.objects.all(), _on_error="halt", _max_item_attempts=1, _shards=1)
    other = begin(Customer.objects.all(), "other", _on_error="halt", _max_item_attempts=1, _shards=1)
    site.run_tasks()
    records = site.runtime.records
    first, second = sorted(records.scan(RecordKind.PLAN, limit=9), key=lambda record: record.key.id)
    # The plan of the one in place of the other's, as who can write the store could do.
    put = Put(key=first.key, data=second.data, expires_at=first.expires_at, expected=first.version)
    records.commit([put])
    runs = {parse_run(record).id.hex(): record for record in records.scan(RecordKind.RUN, limit=9)}
    victim = first.key.id.partition("-")[0]
    tasks.broken.clear()
    with pytest.raises(Exception, match="plan"):
        Iteration(victim).resume()
    assert set(runs) >= {victim, other.id}
    assert site.traces() == []


def test_plan_of_another_run_is_refused_by_its_slices(site: Site) -> None:
    populate(10)
    tasks.broken.add("c0000")
    begin(Customer.objects.all(), _shards=1)
    site.run_tasks()
    (task,) = site.tasks()
    records = site.runtime.records
    (plan,) = records.scan(RecordKind.PLAN, limit=9)
    records.commit([Put(key=plan.key, data=plan.data[:-1] + b"x", expires_at=plan.expires_at, expected=plan.version)])
    tasks.broken.clear()
    site.use(clock=ManualClock(site.runtime.clock.time() + 3_600))
    site.post(task.http_request.body)
    assert site.dispatches()[-1].reason is Reason.BODY_DIGEST
    assert site.traces() == []


def test_outside_of_an_iteration_there_is_no_shard() -> None:
    assert get_deferred_shard_index() is None


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (
            {"queryset": lambda: Customer.objects.filter(name__regex="x")},
            UnsupportedQuerySetError,
            "the lookup 'regex'",
        ),
        ({"queryset": lambda: Customer.objects.all()[:5]}, UnsupportedQuerySetError, "deferrable_queryset"),
        ({"queryset": lambda: Customer.objects.values("name")}, UnsupportedQuerySetError, "deferrable_queryset"),
        ({"queryset": lambda: [1, 2]}, UnsupportedQuerySetError, "walks a queryset"),
        ({"queryset": Draft.objects.all}, InvalidCallError, "shop.visit does not take rows of Draft"),
        ({"callback": tasks.note, "args": ()}, InvalidCallError, "shop.note does not take rows of Customer"),
        ({"callback": print}, UnregisteredFunctionError, "@deferrable"),
        ({"args": ()}, InvalidCallError, "greeting"),
        ({"args": ("a", "b")}, InvalidCallError, "positional"),
        ({"order_field": "nickname"}, InvalidKeyRangesError, "nickname does not exist"),
        (
            {
                "queryset": Reading.objects.distinct,
                "callback": tasks.read,
                "finalize": tasks.all_told,
                "order_field": "taken",
            },
            InvalidKeyRangesError,
            "whose taken is NULL",
        ),
        ({"_shards": 0}, InvalidOptionError, "_shards"),
        ({"_shrads": 3}, InvalidOptionError, "unknown option _shrads; did you mean _shards"),
        ({"_eta": 3}, InvalidOptionError, "unknown option _eta; "),
        ({"_delete_marker": 0}, InvalidOptionError, "_delete_marker: a bool"),
        ({"key_ranges_getter": "datastore"}, InvalidOptionError, "key_ranges_getter"),
        ({"order_field": "nothing"}, InvalidKeyRangesError, "does not exist"),
        ({"_on_error": "ignore"}, InvalidOptionError, "_on_error"),
        ({"_on_error": []}, InvalidOptionError, "_on_error"),
        ({"_max_item_attempts": 0}, InvalidOptionError, "_max_item_attempts"),
    ],
)
def test_iteration_that_cannot_work_is_an_error_before_anything_is_sent(
    site: Site, change: dict[str, Any], error: type[Exception], text: str
) -> None:
    given: dict[str, Any] = {"queryset": Customer.objects.all, "callback": tasks.visit, "args": ("hi",), **change}
    queryset, callback, args = given.pop("queryset"), given.pop("callback"), given.pop("args")
    Reading.objects.create(taken=None)
    with pytest.raises(error, match=text):
        defer_iteration_with_finalize(queryset(), callback, given.pop("finalize", tasks.all_visited), *args, **given)
    assert site.tasks() == []
    defer(tasks.note, "still works")
