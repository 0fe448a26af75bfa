"""Pages visit each row of a range exactly once and in order, whatever happens behind the cursor."""

import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.db import connections
from django.db.models import Count
from django.db.models.signals import post_init
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safedefer.django.key_ranges.ranges import build_key_ranges
from safedefer.django.order_field import resolve_order_field
from safedefer.django.pages import Page, find_place, place_of, read_page
from safedefer.django.positions import Cursor, KeyRange
from safedefer.errors import InvalidKeyRangesError
from tests.site.shop.models import Customer, Parcel, PremiumCustomer, Reading
from tests.support.walks import walk_range

pytestmark = pytest.mark.django_db(databases=["default", "postgres"])
BOTH = pytest.mark.parametrize("alias", ["default", "postgres"])
WHOLE = KeyRange()


@BOTH
def test_ten_thousand_rows_of_one_value_end_without_repeats(alias: str) -> None:
    rows = Reading.objects.using(alias)
    rows.bulk_create(Reading(pk=key, level=7) for key in range(1, 10_001))
    started = time.monotonic()
    assert walk_range(rows, WHOLE, "level", limit=250) == list(range(1, 10_001))
    assert time.monotonic() - started < 60


@BOTH
@pytest.mark.parametrize("order_by", ["pk", "level"])
def test_callback_that_deletes_its_rows_visits_all(alias: str, order_by: str) -> None:
    rows = Reading.objects.using(alias)
    rows.bulk_create(Reading(pk=key, level=key % 5) for key in range(1, 101))
    visited = walk_range(
        rows, WHOLE, order_by, limit=7, between=lambda page: rows.filter(pk__in=[row.pk for row in page]).delete()
    )
    assert sorted(visited) == list(range(1, 101))
    assert not rows.exists()


@BOTH
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    levels=st.lists(st.integers(-3, 3), min_size=1, max_size=30),
    changes=st.lists(st.tuples(st.booleans(), st.integers(-3, 3), st.integers(0, 29)), max_size=10),
    limit=st.integers(1, 5),
)
def test_rows_that_stay_are_visited_once_while_others_come_and_go(
    alias: str, levels: list[int], changes: list[tuple[bool, int, int]], limit: int
) -> None:
    rows = Reading.objects.using(alias)
    rows.all().delete()
    rows.bulk_create(Reading(pk=number, level=level) for number, level in enumerate(levels, start=1))
    before = set(rows.values_list("pk", flat=True))
    pending = list(changes)

    def change(page: list[Any]) -> None:
        if not pending:
            return
        insert, level, number = pending.pop()
        if insert:
            # PostgreSQL's own numbers begin among those that were given.
            rows.bulk_create([Reading(pk=100 + len(pending), level=level)])
        else:
            rows.filter(pk=number).delete()

    visited = walk_range(rows, WHOLE, "level", limit, between=change)
    assert len(visited) == len(set(visited))
    assert before & set(rows.values_list("pk", flat=True)) <= set(visited)


@BOTH
@pytest.mark.parametrize("order_by", ["pk", "level", "taken"])
def test_callback_that_creates_rows_does_not_feed_itself(alias: str, order_by: str) -> None:
    rows = Reading.objects.using(alias)
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    rows.bulk_create(Reading(pk=key, level=3, taken=moment) for key in range(1, 11))
    (frozen,) = build_key_ranges(rows, resolve_order_field(rows, order_by), [])
    created: list[int] = []

    def create(page: list[Any]) -> None:
        created.extend(rows.create(pk=100 + len(created) + n, level=3, taken=moment).pk for n, _ in enumerate(page))

    assert walk_range(rows, frozen, order_by, between=create) == list(range(1, 11))
    assert len(created) == 10


@BOTH
def test_ranges_share_no_row_at_their_bounds(alias: str) -> None:
    rows = Reading.objects.using(alias)
    rows.bulk_create(Reading(pk=key, level=key // 2) for key in range(1, 21))
    below, between, above = (
        walk_range(rows, key_range, "level") for key_range in (KeyRange(None, 0), KeyRange(0, 5), KeyRange(5, None))
    )
    assert (below, between, above) == ([], list(range(1, 10)), list(range(10, 21)))


@BOTH
def test_rows_that_lost_their_value_are_left_out(alias: str) -> None:
    rows = Reading.objects.using(alias)
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    rows.bulk_create(Reading(pk=key, taken=moment if key % 2 else None) for key in range(1, 11))
    assert walk_range(rows, WHOLE, "taken") == [1, 3, 5, 7, 9]


@BOTH
def test_microseconds_are_part_of_the_cursor(alias: str) -> None:
    rows = Reading.objects.using(alias)
    moments = [datetime(2024, 1, 1, 0, 0, 0, part, tzinfo=UTC) for part in (0, 1, 2, 999_999)]
    rows.bulk_create(Reading(pk=9 - number, taken=moment) for number, moment in enumerate(moments))
    assert walk_range(rows, WHOLE, "taken", limit=1) == [9, 8, 7, 6]


@BOTH
def test_child_rows_are_walked_along_both_tables(alias: str) -> None:
    for number in range(7):
        PremiumCustomer.objects.using(alias).create(name=f"{9 - number}", discount=number)
    rows = PremiumCustomer.objects.using(alias)
    by_name = list(rows.order_by("name").values_list("pk", flat=True))
    assert walk_range(rows, WHOLE, "name") == by_name
    assert walk_range(rows, WHOLE, "pk") == by_name[::-1]


@BOTH
def test_page_says_where_it_ended(alias: str) -> None:
    rows = Customer.objects.using(alias)
    rows.bulk_create(Customer(pk=key, name="") for key in (2, 4, 6))
    order = resolve_order_field(rows)
    page = read_page(rows, WHOLE, None, order, 2)
    assert [page.key_of(row) for row in page.rows] == [2, 4]
    assert not page.ends(2)
    page = read_page(rows, WHOLE, place_of(order, 4), order, 2)
    assert [page.key_of(row) for row in page.rows] == [6]
    assert page.ends(1)
    page = read_page(rows, WHOLE, Cursor(6, 6), order, 2)
    assert list(page.rows) == []
    assert page.ends(0)


@BOTH
def test_copies_that_a_join_makes_are_left_out_and_end_no_page(alias: str) -> None:
    customers = Customer.objects.using(alias)
    customers.bulk_create(Customer(pk=key, name="") for key in (1, 2))
    readings = Reading.objects.using(alias)
    readings.bulk_create(Reading(customer_id=customer, level=1) for customer in (1, 1, 1, 2))
    rows = customers.filter(readings__level=1)
    order = resolve_order_field(rows)
    page = read_page(rows, WHOLE, None, order, 2)
    assert [row.pk for row in page.rows] == [1]
    assert not page.ends(1)
    assert walk_range(rows, WHOLE, limit=2) == [1, 2]


@BOTH
@pytest.mark.parametrize("order_by", ["level", "customer", "customer_id"])
@pytest.mark.parametrize(
    "load",
    [
        lambda rows, name: rows.only("label"),
        lambda rows, name: rows.only("label", name),
        lambda rows, name: rows.defer(name),
        lambda rows, name: rows.defer("label", name),
        lambda rows, name: rows.defer("label"),
    ],
)
def test_order_field_is_loaded_with_the_rows_whatever_else_is_not(
    alias: str, order_by: str, load: Any, django_assert_num_queries: Any
) -> None:
    customer = Customer.objects.using(alias).create(name="x")
    Reading.objects.using(alias).bulk_create(Reading(level=key, customer=customer) for key in range(5))
    rows = load(Reading.objects.using(alias), order_by)
    order = resolve_order_field(rows, order_by)
    with django_assert_num_queries(1, using=alias):
        page = read_page(rows, WHOLE, None, order, 10)
        keys = [page.key_of(row) for row in page.rows]
    assert len(keys) == 5
    # What else was left out still is.
    row = next(read_page(rows, WHOLE, None, order, 1).rows)
    left_out = rows.query.deferred_loading[0] if rows.query.deferred_loading[1] else {"price", "ratio"}
    assert {
        name for name in left_out if not name.startswith(order.name.removesuffix("_id"))
    } <= row.get_deferred_fields()


@BOTH
@pytest.mark.parametrize("order_by", ["pk", "name"])
def test_place_of_the_next_row_is_found_without_making_it(alias: str, order_by: str) -> None:
    rows = Customer.objects.using(alias).prefetch_related("readings").defer("name")
    rows.bulk_create(Customer(name=f"c{number}") for number in range(4))
    order = resolve_order_field(rows, order_by)
    page = read_page(rows, WHOLE, None, order, 4)
    places = [place_of(order, page.key_of(row)) for row in page.rows]

    def refuse(**_: object) -> None:
        raise RuntimeError

    post_init.connect(refuse, sender=Customer)
    try:
        found = [find_place(rows, WHOLE, cursor, order) for cursor in [None, *places]]
        ranges = build_key_ranges(rows, order, [])
    finally:
        post_init.disconnect(refuse, sender=Customer)
    assert found == [*places, None]
    assert ranges == [KeyRange(last=places[-1])], "the last row is not made for the plan either"


def test_place_is_found_among_rows_of_every_kind() -> None:
    child = PremiumCustomer.objects.create(name="child")
    seen = find_place(
        PremiumCustomer.objects.distinct(), WHOLE, None, resolve_order_field(PremiumCustomer.objects.all())
    )
    assert seen == Cursor(child.pk, child.pk)
    reading = Reading.objects.create(customer=child)
    rows = Reading.objects.annotate(tagged=Count("tags")).filter(tagged=0, customer__name="child")
    assert find_place(rows, WHOLE, None, resolve_order_field(rows, "customer")) == Cursor(child.pk, reading.pk)


@BOTH
@pytest.mark.parametrize(("order_by", "value"), [("label", "x" * 4_000), ("raw", b"x" * 4_000)])
def test_row_whose_key_is_no_cursor_ends_its_page(alias: str, order_by: str, value: Any) -> None:
    if alias == "postgres" and order_by == "label":
        value = "é" * 100  # The database bounds this one.
    rows = Reading.objects.using(alias)
    rows.bulk_create(Reading(**{order_by: part}) for part in (value[:1], value[:100], value))
    order = resolve_order_field(rows, order_by)
    page = read_page(rows, WHOLE, None, order, 10)
    if len(value) == 100:
        assert len(list(page.rows)) == 3
        return
    assert [getattr(next(page.rows), order_by) for _ in range(2)] == [value[:1], value[:100]]
    with pytest.raises(InvalidKeyRangesError, match="a key 3,072 at most"):
        next(page.rows)


def test_number_of_too_many_digits_ends_its_page() -> None:
    order = resolve_order_field(Reading.objects.using("postgres"), "exact")
    numbers = [Decimal(1), Decimal(10**600 - 1), Decimal(10**4_000)]
    rows = [Reading(pk=pk, exact=number) for pk, number in enumerate(numbers)]
    page = Page(iter(rows), order, 10, repeats=False)
    assert [next(page.rows), next(page.rows)] == rows[:2]
    with pytest.raises(InvalidKeyRangesError, match="a key 3,072 at most"):
        next(page.rows)


@BOTH
def test_rows_are_read_before_the_first_is_handed_out(alias: str, django_assert_num_queries: Any) -> None:
    rows = Customer.objects.using(alias)
    rows.bulk_create(Customer(pk=key, name="before") for key in (1, 2, 3))
    page = read_page(rows, WHOLE, None, resolve_order_field(rows), 3)
    rows.all().delete()
    with django_assert_num_queries(0, using=alias):
        assert [getattr(row, "name", None) for row in page.rows] == ["before"] * 3


@BOTH
def test_related_rows_are_prefetched_for_a_page_together(alias: str, django_assert_num_queries: Any) -> None:
    customers = Customer.objects.using(alias)
    customers.bulk_create(Customer(pk=key, name="") for key in (1, 2, 3))
    Reading.objects.using(alias).bulk_create(Reading(customer_id=key) for key in (1, 2, 3))
    rows = customers.prefetch_related("readings")
    with django_assert_num_queries(2, using=alias):
        found: list[Any] = list(read_page(rows, WHOLE, None, resolve_order_field(rows), 3).rows)
        assert [len(row.readings.all()) for row in found] == [1, 1, 1]


@BOTH
def test_each_page_is_one_query_that_begins_in_the_index(alias: str, django_assert_num_queries: Any) -> None:
    rows = Parcel.objects.using(alias).order_by("-pk")
    rows.bulk_create(Parcel() for _ in range(5))
    order = resolve_order_field(rows)
    with django_assert_num_queries(1, using=alias):
        *_, last = read_page(rows, WHOLE, None, order, 3).rows
    with django_assert_num_queries(1, using=alias):
        read_page(rows, WHOLE, place_of(order, last.pk), order, 3)


def test_page_behind_a_cursor_does_not_begin_at_the_lower_bound() -> None:
    rows = Reading.objects.all()
    with CaptureQueriesContext(connections["default"]) as captured:
        read_page(rows, KeyRange(5, 50), Cursor(20, 20), resolve_order_field(rows), 3)
    assert '"id" > 20' in captured.captured_queries[0]["sql"]
    assert ">= 5" not in captured.captured_queries[0]["sql"]


def test_composite_cursor_begins_at_its_place_in_the_index() -> None:
    rows = Reading.objects.all()
    rows.bulk_create(Reading(pk=key, level=key) for key in range(1, 50))
    from safedefer.django.pages import in_order, is_behind

    order = resolve_order_field(rows, "level")
    plan = in_order(rows, order).filter(is_behind(order, Cursor(20, 20))).explain()
    assert "SEARCH" in plan
    assert "level>?" in plan
