"""Iterations over rows that are entities, with their records in Datastore too: every row once, then one finalize."""

import functools
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import pytest
from django.db import transaction
from django.db.models import QuerySet
from google.cloud import datastore

from safedefer import Iteration, defer_iteration_with_finalize
from safedefer.core.audit import AuditEvent
from safedefer.core.iteration.state import RunState
from safedefer.core.ports import Clock
from safedefer.django.signals import audit_event_recorded
from safedefer.emulator import LocalCloud
from safedefer.errors import InvalidKeyRangesError, Reason
from safedefer.flow.runtime import current_runtime, installed
from safedefer.key_ranges import datastore_key_ranges, default_key_ranges, sequential_int_key_ranges
from tests.gcloudc.shop import tasks
from tests.gcloudc.shop.models import Badge, Customer, Seat

WAIT_SECONDS = 20.0


@pytest.fixture(autouse=True)
def _nothing_is_remembered(cloud: LocalCloud) -> Iterator[None]:
    yield
    for remembered in (tasks.visited, tasks.finalized, tasks.during):
        remembered.clear()


@pytest.fixture
def executed() -> Iterator[list[AuditEvent]]:
    """The tasks that were executed."""
    found: list[AuditEvent] = []

    def record(event: AuditEvent, **_: Any) -> None:
        if event.reason is Reason.EXECUTED:
            found.append(event)

    audit_event_recorded.connect(record)
    yield found
    audit_event_recorded.disconnect(record)


def begin(queryset: Any, *args: Any, **options: Any) -> Iteration:
    return defer_iteration_with_finalize(queryset, tasks.visit, tasks.all_visited, *args, **options)


def walk(cloud: LocalCloud, queryset: object, **options: Any) -> Counter[Any]:
    """The keys that were visited, after the one finalize."""
    begin(queryset, "hi", **options)
    ends = monotonic() + WAIT_SECONDS
    # A slice may leave its end to one that comes a moment later.
    while not tasks.finalized and monotonic() < ends:
        assert cloud.tasks.wait_idle(WAIT_SECONDS)
    assert cloud.tasks.wait_idle(WAIT_SECONDS)
    assert tasks.finalized == ["hi"]
    return Counter(pk for _, pk in tasks.visited)


def sizes() -> list[int]:
    """Rows of each shard that had any."""
    return sorted(Counter(shard for shard, _ in tasks.visited).values())


def keys(queryset: QuerySet[Any]) -> Counter[Any]:
    return Counter(row.pk for row in queryset)


def populate(count: int) -> None:
    """Customers with the random keys that the connector makes, and values that repeat."""
    Customer.objects.bulk_create(
        Customer(
            name=f"c{number:04d}",
            city="Graz" if number % 3 else "Linz",
            age=number % 7,
            balance=number % 5 - 2,
            since=datetime(2024, 1, 1 + number % 2, tzinfo=UTC),
        )
        for number in range(count)
    )


def number_seats(numbers: "range | list[int]") -> None:
    Seat.objects.bulk_create(Seat(number=number) for number in numbers)


def test_rows_with_random_keys_are_visited_once(cloud: LocalCloud) -> None:
    populate(300)
    assert walk(cloud, Customer.objects.all(), _shards=4) == keys(Customer.objects.all())
    assert len(sizes()) == 4


def test_rows_with_sequential_keys_are_visited_once(cloud: LocalCloud) -> None:
    number_seats(range(1, 301))
    assert walk(cloud, Seat.objects.all(), _shards=4) == Counter(range(1, 301))
    assert len(sizes()) == 4


def test_rows_with_text_keys_are_visited_once(cloud: LocalCloud) -> None:
    codes = [*(f"b{number}" for number in range(150)), "a b", "A", "ä", "ß", "z", "\U0001f600", "\uffff", "e\u0301"]
    Badge.objects.bulk_create(Badge(code=code) for code in codes)
    assert walk(cloud, Badge.objects.all(), _shards=4) == Counter(codes)
    assert len(sizes()) == 4


@pytest.mark.parametrize("getter", [datastore_key_ranges, sequential_int_key_ranges, default_key_ranges])
def test_getter_that_is_named_cuts_into_as_many_shards(cloud: LocalCloud, getter: Any) -> None:
    number_seats(range(1, 101))
    assert walk(cloud, Seat.objects.all(), key_ranges_getter=getter, _shards=4) == Counter(range(1, 101))
    assert len(sizes()) == 4
    if getter is sequential_int_key_ranges:
        assert sizes() == [25] * 4


def test_sequential_ranges_hold_random_keys(cloud: LocalCloud) -> None:
    populate(100)
    rows = Customer.objects.all()
    assert walk(cloud, rows, key_ranges_getter=sequential_int_key_ranges, _shards=4) == keys(rows)


def random_keys(queryset: QuerySet[Any], shard_count: int) -> list[object]:
    found = [row.pk for row in queryset.filter(city="Linz")]
    random.Random(1).shuffle(found)
    return found[: shard_count * 8]


def test_random_keys_getter_of_the_callers_takes_the_place_of_scatter(cloud: LocalCloud) -> None:
    populate(200)
    getter = functools.partial(datastore_key_ranges, random_keys_getter=random_keys)
    assert walk(cloud, Customer.objects.all(), key_ranges_getter=getter, _shards=4) == keys(Customer.objects.all())
    assert len(sizes()) == 4


def test_random_keys_cut_another_order_field_as_well(cloud: LocalCloud) -> None:
    populate(200)
    getter = functools.partial(datastore_key_ranges, random_keys_getter=random_keys)
    rows = Customer.objects.all()
    assert walk(cloud, rows, key_ranges_getter=getter, order_field="name", _shards=4) == keys(rows)
    assert len(sizes()) == 4


def test_getter_of_the_applications_own_says_where_shards_begin(cloud: LocalCloud) -> None:
    number_seats(range(1, 31))
    assert walk(cloud, Seat.objects.all(), key_ranges_getter=lambda rows, shards: [(1, 11), (11, 21), (21, 31)]) == (
        Counter(range(1, 31))
    )
    assert sizes() == [10, 10, 10]


@pytest.mark.parametrize("order_field", ["name", "age", "city", "balance", "since"])
def test_walk_along_another_field_visits_each_row_once(cloud: LocalCloud, order_field: str) -> None:
    populate(150)
    assert walk(cloud, Customer.objects.all(), order_field=order_field, _shards=3) == keys(Customer.objects.all())
    assert len(sizes()) > 1


@dataclass
class Hurrying:
    """A clock by which each row takes a second: with a deadline of 15 s, five rows are a slice."""

    inner: Clock
    passed: int = 0

    def time(self) -> float:
        return self.inner.time() + self.passed

    def aware(self, moment: datetime) -> datetime:
        return self.inner.aware(moment)

    def tick(self, row: object) -> None:
        self.passed += 1


@pytest.mark.parametrize("order_field", ["pk", "age", "name"])
def test_slices_that_end_midway_hand_their_cursor_over(
    cloud: LocalCloud, executed: list[AuditEvent], order_field: str
) -> None:
    populate(60)
    runtime = current_runtime()
    clock = Hurrying(runtime.clock)
    tasks.during.append(clock.tick)
    with installed(replace(runtime, clock=clock)):
        seen = walk(cloud, Customer.objects.all(), order_field=order_field, _shards=2, _deadline=15)
    assert seen == keys(Customer.objects.all())
    assert len(executed) >= 2 + 60 // 5


def test_registered_queryset_with_a_filter_is_walked(cloud: LocalCloud) -> None:
    populate(120)
    linz = keys(Customer.objects.filter(city="Linz"))
    assert len(linz) == 40
    assert walk(cloud, tasks.customers_of.bind("Linz"), _shards=3) == linz


@pytest.mark.parametrize("order_field", ["pk", "age", "name"])
def test_queryset_with_filters_travels_as_it_is(cloud: LocalCloud, order_field: str) -> None:
    populate(120)
    rows = Customer.objects.filter(city="Linz", age__in=[1, 2, 3])
    assert 0 < rows.count() < 30
    assert walk(cloud, rows, order_field=order_field, _shards=3) == keys(rows)


def test_inequality_is_walked_along_its_field(cloud: LocalCloud) -> None:
    populate(120)
    rows = tasks.customers_older_than(3)
    assert 0 < rows.count() < 120
    assert walk(cloud, tasks.customers_older_than.bind(3), order_field="age", _shards=3) == keys(rows)


@pytest.mark.parametrize(
    "source",
    [lambda: tasks.customers_older_than.bind(3), lambda: Customer.objects.filter(age__gt=3)],
    ids=["registered", "described"],
)
@pytest.mark.parametrize("options", [{}, {"key_ranges_getter": sequential_int_key_ranges}], ids=["default", "getter"])
def test_other_inequality_is_refused_at_the_call(cloud: LocalCloud, source: Any, options: dict[str, Any]) -> None:
    populate(5)
    with pytest.raises(InvalidKeyRangesError, match="order_field='age'"):
        begin(source(), **options)
    assert cloud.tasks.wait_idle(WAIT_SECONDS)
    assert tasks.visited == []


def test_rows_that_the_callback_deletes_hide_no_others(cloud: LocalCloud) -> None:
    populate(150)
    before = keys(Customer.objects.all())
    tasks.during.append(lambda row: Customer.objects.filter(pk=row.pk).delete())
    assert walk(cloud, Customer.objects.all(), _shards=3) == before
    assert Customer.objects.count() == 0


def test_rows_that_leave_the_queryset_hide_no_others(cloud: LocalCloud) -> None:
    populate(150)
    tasks.during.append(lambda row: Customer.objects.filter(pk=row.pk).update(city="Wien"))
    assert walk(cloud, Customer.objects.filter(city="Linz"), _shards=3).total() == 50
    assert Customer.objects.filter(city="Wien").count() == 50


def test_rows_that_the_callback_creates_do_not_feed_it(cloud: LocalCloud) -> None:
    populate(60)
    before = keys(Customer.objects.all())
    tasks.during.append(lambda row: Customer.objects.create(name=f"z{row.name}"))
    assert walk(cloud, Customer.objects.all(), order_field="name", _shards=2) == before
    assert Customer.objects.count() == 120


@pytest.mark.parametrize("getter", [None, datastore_key_ranges, sequential_int_key_ranges, lambda *_: []])
def test_no_rows_are_finalized_at_once(cloud: LocalCloud, getter: Any) -> None:
    assert walk(cloud, Seat.objects.all(), key_ranges_getter=getter) == Counter()
    tasks.finalized.clear()
    number_seats(range(1, 20))
    assert walk(cloud, Seat.objects.filter(row="none"), key_ranges_getter=getter) == Counter()


def test_skewed_keys_do_not_starve_shards(cloud: LocalCloud) -> None:
    numbers = [*range(1, 201), *range(50_000_000, 50_000_200)]
    number_seats(numbers)
    assert walk(cloud, Seat.objects.all(), _shards=4) == Counter(numbers)
    assert len(sizes()) == 4
    assert max(sizes()) < 200


def test_more_shards_than_random_keys_are_as_many_as_keys(cloud: LocalCloud) -> None:
    number_seats(range(1, 11))
    assert walk(cloud, Seat.objects.all(), _shards=100) == Counter(range(1, 11))
    assert 1 < len(sizes()) <= 10


def test_many_shards_that_end_at_once_repeat_nothing(cloud: LocalCloud) -> None:
    number_seats(range(1, 201))
    assert walk(cloud, Seat.objects.all(), key_ranges_getter=sequential_int_key_ranges, _shards=40) == (
        Counter(range(1, 201))
    )
    assert len(sizes()) == 40


def test_iteration_of_a_transaction_waits_for_it(cloud: LocalCloud) -> None:
    populate(5)
    with transaction.atomic():
        Customer.objects.create(name="new")
        begin(Customer.objects.all(), "hi", _transactional=True)
        assert cloud.tasks.wait_idle(WAIT_SECONDS)
        assert tasks.visited == []
    assert cloud.tasks.wait_idle(WAIT_SECONDS)
    assert Counter(pk for _, pk in tasks.visited) == keys(Customer.objects.all())
    assert tasks.finalized == ["hi"]


def test_all_tasks_are_of_the_queue_that_is_named(cloud: LocalCloud, executed: list[AuditEvent]) -> None:
    number_seats(range(1, 31))
    walk(cloud, Seat.objects.all(), _queue="walks", _shards=2)
    assert [event.queue for event in executed] == ["walks"] * 4


@pytest.mark.parametrize("delete_marker", [True, False])
def test_records_are_entities(cloud: LocalCloud, delete_marker: bool) -> None:
    number_seats(range(1, 31))
    iteration = begin(Seat.objects.all(), "hi", _delete_marker=delete_marker, _shards=2)
    assert cloud.tasks.wait_idle(WAIT_SECONDS)
    progress = iteration.progress()
    assert (progress is None) is delete_marker
    if progress is not None:
        assert (progress.state, progress.rows, progress.percent) == (RunState.DONE, 30, 100.0)
    left = list(datastore.Client(project="local").query(kind="SafedeferShard").fetch())
    assert len(left) == (0 if delete_marker else 2)


def test_every_task_delivered_again_changes_nothing(cloud: LocalCloud) -> None:
    populate(60)
    cloud.tasks.faults.set("duplicate", 1.0)
    try:
        assert walk(cloud, Customer.objects.all(), _shards=3) == keys(Customer.objects.all())
    finally:
        cloud.tasks.faults.reset()
