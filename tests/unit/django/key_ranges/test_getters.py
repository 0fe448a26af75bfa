"""Every getter cuts every set of keys into ranges that visit each row exactly once, in the database's order."""

import random
import uuid
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import pytest
from django.db import connections
from django.db.models import Count, Model
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from safedefer.django.estimates import estimate_rows
from safedefer.django.key_ranges import samples
from safedefer.django.key_ranges.samples import every_nth
from safedefer.errors import InvalidKeyRangesError
from safedefer.key_ranges import (
    datastore_key_ranges,
    default_key_ranges,
    random_uuid_key_ranges,
    sampled_key_ranges,
    sequential_int_key_ranges,
)
from tests.site.shop.models import Badge, Customer, Parcel, Reading
from tests.support.walks import walk

pytestmark = pytest.mark.django_db(databases=["default", "postgres"])
BOTH = pytest.mark.parametrize("alias", ["default", "postgres"])
EXAMPLES = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])

INT64 = st.integers(-(2**63), 2**63 - 1)
GAPS = st.lists(st.one_of(st.integers(-10, 10), st.integers(50_000_000, 50_000_040), INT64), unique=True, max_size=40)
TEXTS = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00"), min_size=0, max_size=12
) | st.sampled_from(
    ["a", "A", "ä", "Ä", "z", "ß", "ss", "a b", "a-b", "ab", "_", "é", "e\u0301", "\U0001f600", "%", "'"]
)
MOMENTS = st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


def expected(queryset: Any, order_by: str) -> list[Any]:
    names = ["pk"] if order_by == "pk" else [order_by, "pk"]
    return list(queryset.order_by(*names).values_list("pk", flat=True))


def visits(shards: list[list[Any]]) -> list[Any]:
    return list(chain.from_iterable(shards))


def check(queryset: Any, getter: Any, order_by: str = "pk", shards: int = 4) -> None:
    shards_visited = walk(queryset, getter, shards=shards, order_by=order_by)
    assert visits(shards_visited) == expected(queryset, order_by)
    assert len(shards_visited) <= shards


def fill(rows: list[Model], alias: str) -> Any:
    """These rows alone."""
    manager = type(rows[0])._base_manager.using(alias)
    manager.all().delete()
    manager.bulk_create(rows)
    return manager.all()


@BOTH
@EXAMPLES
@example(keys=list(range(-10, 11)))
@example(keys=list(range(1, 12)))
@example(keys=[0])
@example(keys=[-(2**63), 2**63 - 1])
@given(keys=GAPS)
def test_ranges_of_integers_visit_each_row_once(alias: str, keys: list[int]) -> None:
    Customer.objects.using(alias).all().delete()
    Customer.objects.using(alias).bulk_create(Customer(pk=key, name="") for key in keys)
    for getter in (sequential_int_key_ranges, sampled_key_ranges, default_key_ranges):
        for shards in (1, 3, 7):
            check(Customer.objects.using(alias), getter, shards=shards)


@BOTH
@EXAMPLES
@example(keys=["", "a", "B", "b", "A"])
@given(keys=st.lists(TEXTS, unique=True, min_size=1, max_size=30))
def test_ranges_of_texts_follow_the_collation(alias: str, keys: list[str]) -> None:
    rows = fill([Badge(code=key) for key in keys], alias)
    for getter in (sampled_key_ranges, default_key_ranges):
        check(rows, getter)


@BOTH
@EXAMPLES
@given(keys=st.lists(st.uuids(), unique=True, min_size=1, max_size=30))
def test_ranges_of_uuids_visit_each_row_once(alias: str, keys: list[uuid.UUID]) -> None:
    rows = fill([Parcel(id=key) for key in keys], alias)
    for getter in (random_uuid_key_ranges, sampled_key_ranges, default_key_ranges):
        check(rows, getter)


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "level": st.integers(-3, 3) | INT64,
    "label": TEXTS,
    "price": st.decimals(-(10**9), 10**9, places=2),
    "taken": MOMENTS | st.sampled_from([datetime(2024, 1, 1, microsecond=part, tzinfo=UTC) for part in (0, 1, 2)]),
    "serial": st.uuids(),
    "raw": st.binary(max_size=6),
    "ratio": st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -0.0, 0.1, 5e-324]),
    "lasted": st.timedeltas(timedelta(-(10**4)), timedelta(10**4)),
}


@BOTH
@pytest.mark.parametrize("name", VALUES)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_ranges_of_values_that_repeat_visit_each_row_once(alias: str, name: str, data: st.DataObject) -> None:
    some = data.draw(st.lists(VALUES[name], min_size=1, max_size=6))
    values = data.draw(st.lists(st.sampled_from(some), min_size=1, max_size=30))
    rows = fill([Reading(**{name: value}) for value in values], alias)
    for getter in (sampled_key_ranges, default_key_ranges):
        check(rows, getter, name)


@BOTH
def test_ranges_along_a_relation_use_its_column(alias: str) -> None:
    owners = Customer.objects.using(alias).bulk_create(Customer(name=str(number)) for number in range(5))
    rows = fill([Reading(customer=owners[number % 5]) for number in range(20)], alias)
    check(rows, default_key_ranges, "customer_id")
    assert visits(walk(rows, default_key_ranges, order_by="customer")) == expected(rows, "customer_id")


@BOTH
@pytest.mark.parametrize(
    "getter", [sequential_int_key_ranges, sampled_key_ranges, default_key_ranges], ids=lambda getter: getter.__name__
)
def test_no_rows_make_no_ranges(alias: str, getter: Any) -> None:
    assert walk(Customer.objects.using(alias), getter) == []
    assert walk(Customer.objects.using(alias).filter(pk=7), getter, freeze=False) == []


@BOTH
def test_default_does_not_starve_shards_where_keys_have_a_gap(alias: str) -> None:
    keys = [*range(1, 201), *range(50_000_000, 50_000_200)]
    rows = fill([Customer(pk=key, name="") for key in keys], alias)
    assert [len(visited) for visited in walk(rows, default_key_ranges, limit=100)] == [100] * 4
    # What the default is better than.
    assert [len(visited) for visited in walk(rows, sequential_int_key_ranges, limit=100)] == [200, 0, 0, 200]


@BOTH
@pytest.mark.parametrize(
    "rows",
    [
        [Parcel(id=uuid.UUID(int=(0x018F << 112) + number)) for number in range(400)],
        [Badge(code=f"user-{number:08d}") for number in [*range(390), *range(10**7, 10**7 + 10)]],
        [Badge(code="a" * (number % 9) + f"{number:03d}") for number in range(400)],
    ],
    ids=["uuids that begin with a time", "texts of one prefix", "texts of many lengths"],
)
def test_default_does_not_starve_shards_whatever_the_keys_are(alias: str, rows: list[Model]) -> None:
    assert [len(visited) for visited in walk(fill(rows, alias), default_key_ranges, limit=100)] == [100] * 4


@BOTH
def test_default_takes_equal_steps_where_integers_are_dense(alias: str) -> None:
    rows = fill([Customer(pk=key, name="") for key in range(1, 401)], alias)
    assert default_key_ranges(rows, 4) == [(None, 101), (101, 201), (201, 301), (301, None)]


@BOTH
def test_values_that_repeat_are_not_taken_for_dense(alias: str) -> None:
    rows = fill([Reading(level=800 if number == 0 else number % 8) for number in range(801)], alias)
    sizes = [len(visited) for visited in walk(rows, default_key_ranges, order_by="level", limit=500)]
    assert sum(sizes) == 801
    assert max(sizes) <= 300


@BOTH
def test_ranges_have_nearly_the_same_number_of_filtered_rows(alias: str) -> None:
    rows = fill([Customer(pk=key, name="new" if key > 300 else "old") for key in range(1, 401)], alias)
    sizes = [len(visited) for visited in walk(rows.filter(name="new"), sampled_key_ranges, limit=100)]
    assert sizes == [25] * 4


def test_large_table_of_postgresql_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "_SAMPLED_FROM_ROWS", 1_000)
    monkeypatch.setattr(samples, "_SAMPLED_PAGES", 60)
    rows = Customer.objects.using("postgres")
    rows.bulk_create(Customer(pk=key**2, name="x" * (key % 3)) for key in range(1, 20_001))
    with connections["postgres"].cursor() as cursor:
        cursor.execute("ANALYZE shop_customer")
    with CaptureQueriesContext(connections["postgres"]) as queries:
        ranges = sampled_key_ranges(rows.filter(name="x"), 4)
    assert any("TABLESAMPLE SYSTEM" in query["sql"] for query in queries)
    assert not any("OFFSET" in query["sql"] for query in queries)
    assert 2 <= len(ranges) <= 4
    sizes = [len(visited) for visited in walk(rows.filter(name="x"), lambda *_: ranges, limit=1_000)]
    assert sum(sizes) == rows.filter(name="x").count()
    assert max(sizes) < 2 * sum(sizes) / 4
    # A filter that leaves too few of the sample: counted instead.
    assert len(sampled_key_ranges(rows.filter(pk__lte=100), 4)) == 4


def test_sampling_leaves_the_queryset_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "_SAMPLED_FROM_ROWS", 0)
    rows = Customer.objects.using("postgres").filter(name="")
    before = str(rows.query)
    sampled_key_ranges(rows, 4)
    assert str(rows.query) == before


@BOTH
def test_too_many_rows_to_count_are_one_range_without_a_sample(alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "_WALKED_ROWS", 5)
    badges = fill([Badge(code=str(number)) for number in range(6)], alias)
    assert sampled_key_ranges(badges, 3) == [(None, None)]
    parcels = fill([Parcel() for _ in range(6)], alias)
    assert len(default_key_ranges(parcels, 3)) == 3, "random UUIDs need no sample"


def test_getter_refuses_fields_that_it_is_not_for() -> None:
    for getter, rows in (
        (sequential_int_key_ranges, Parcel.objects.all()),
        (random_uuid_key_ranges, Badge.objects.all()),
    ):
        with pytest.raises(InvalidKeyRangesError, match="is for"):
            getter(rows, 2)


def test_datastore_ranges_on_another_database_say_what_to_use() -> None:
    with pytest.raises(InvalidKeyRangesError, match=r"'default' is sqlite; use sampled_key_ranges"):
        datastore_key_ranges(Customer.objects.all(), 3)


@BOTH
def test_datastore_ranges_take_random_keys_of_the_callers(alias: str) -> None:
    rows = fill([Customer(pk=key, name="") for key in range(1, 41)], alias)

    def random_keys(queryset: Any, shards: int) -> list[int]:
        keys = list(queryset.values_list("pk", flat=True))
        random.Random(1).shuffle(keys)
        return keys[: 4 * shards]

    def partial(queryset: Any, shards: int) -> Any:
        return datastore_key_ranges(queryset, shards, random_keys_getter=random_keys)

    check(rows, partial)
    assert datastore_key_ranges(rows, 3, random_keys_getter=lambda *_: []) == [(None, None)]
    assert datastore_key_ranges(rows, 3, random_keys_getter=lambda *_: [9, 5, 9]) == [(None, 5), (5, 9), (9, None)]
    assert datastore_key_ranges(rows, 3, random_keys_getter=lambda *_: [9, 5, 900]) == [(None, 5), (5, 9), (9, None)]


def test_random_keys_give_the_values_of_another_order_field() -> None:
    rows = fill([Reading(pk=key, level=-key) for key in range(1, 10)], "default")
    ranges = datastore_key_ranges(rows, 3, order_by="level", random_keys_getter=lambda *_: [1, 5, 9])
    assert ranges == [(None, -5), (-5, -1), (-1, None)]


@given(keys=st.lists(st.integers(), max_size=50), shards=st.integers(1, 20))
def test_every_nth_of_a_sample_splits_it_evenly(keys: list[int], shards: int) -> None:
    splits = every_nth(keys, shards)
    assert splits == keys if len(keys) < shards else len(splits) == shards - 1


@BOTH
def test_join_that_repeats_rows_visits_each_once(alias: str) -> None:
    badges = Badge.objects.using(alias).bulk_create(Badge(code=f"badge {number}") for number in range(5))
    for reading in fill([Reading(level=number % 2) for number in range(9)], alias):
        reading.tags.add(*badges)
    rows = Reading.objects.using(alias).filter(tags__code__startswith="badge")
    assert rows.count() == 45
    for order_by in ("pk", "level"):
        for limit in (1, 3, 7):
            visited = visits(walk(rows, default_key_ranges, order_by=order_by, limit=limit))
            assert visited == expected(Reading.objects.using(alias), order_by)


@BOTH
def test_annotated_and_reversed_querysets_are_walked_in_order(alias: str) -> None:
    rows = fill([Reading(level=number) for number in range(9)], alias)
    for queryset in (
        rows.annotate(many=Count("tags")).filter(many=0),
        rows.order_by("-level").reverse(),
        rows.distinct(),
    ):
        assert visits(walk(queryset, default_key_ranges, order_by="level")) == expected(rows, "level")


@BOTH
def test_estimate_is_exact_for_few_rows_and_never_fails(alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = fill([Customer(pk=key, name="") for key in range(1, 21)], alias)
    assert estimate_rows(rows.filter(pk__gt=5)) == 15
    monkeypatch.setattr("safedefer.django.estimates.MAX_COUNTED", 10)
    assert estimate_rows(rows) is None if alias == "default" else isinstance(estimate_rows(rows), int)


ENDLESS = {
    "default": "(WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n) > 0",
    "postgres": "pg_sleep(600) IS NOT NULL",
}


@BOTH
def test_estimate_gives_up_in_time_and_leaves_the_transaction_usable(alias: str) -> None:
    rows = fill([Customer(pk=key, name="") for key in range(1, 21)], alias)
    endless = rows.extra(where=[ENDLESS[alias]])
    estimated = estimate_rows(endless, within=timedelta(milliseconds=30))
    assert estimated is None if alias == "default" else isinstance(estimated, int)
    assert estimate_rows(rows) == 20
    if alias == "postgres":
        with connections[alias].cursor() as cursor:
            cursor.execute("SHOW statement_timeout")
            assert cursor.fetchone() == ("0",)
