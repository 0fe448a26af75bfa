"""What any getter returns is held against the database's order before a row is visited."""

from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from django.db import connections, models
from django.test.utils import isolate_apps

from safedefer.django.key_ranges.ranges import (
    MAX_KEY_RANGES,
    build_key_ranges,
    call_getter,
    check_walk,
    plan_key_ranges,
    split_points,
)
from safedefer.django.order_field import resolve_order_field
from safedefer.django.positions import Cursor, KeyRange
from safedefer.errors import InvalidKeyRangesError
from tests.site.shop.models import Badge, Customer, Parcel, Reading
from tests.support.walks import walk

pytestmark = pytest.mark.django_db(databases=["default", "postgres"])
BOTH = pytest.mark.parametrize("alias", ["default", "postgres"])


def splits_of(returned: Any, queryset: Any = None, order_by: str = "pk") -> list[object]:
    queryset = Customer.objects.all() if queryset is None else queryset
    return split_points(queryset, resolve_order_field(queryset, order_by), returned)


@pytest.mark.parametrize(
    ("returned", "splits"),
    [
        ([], []),
        ([(None, None)], []),
        ([(5, 90)], []),
        ([(-10, 0), (0, 11)], [0]),
        ([(None, 0), (0, 3), (3, None)], [0, 3]),
        ([[1, 4], [4, 8]], [4]),
        ([0, 3], [0, 3]),
        ((7,), [7]),
        (iter([1, 2]), [1, 2]),
        ([3, 3, 5, 5, 5], [3, 5]),
        ([(None, 3), (3, 3), (3, None)], [3]),
        (["4", "5"], [4, 5]),
    ],
)
def test_pairs_and_split_keys_become_split_points(returned: Any, splits: list[object]) -> None:
    assert splits_of(returned) == splits


@pytest.mark.parametrize(
    ("returned", "problem"),
    [
        ([(1, 5), (6, 9)], "range 2 does not begin where range 1 ends"),
        ([(1, 5), (4, 9)], "range 2 does not begin where range 1 ends"),
        ([(1, 5), (5, 9), (10, 12)], "range 3 does not begin where range 2 ends"),
        ([(1, None), (None, 9)], "range 2 does not begin"),
        ([(1, 5), 7], "item 1 is no"),
        ([(1, 2, 3)], "item 0 is no"),
        ([5, 3], "split key 1 comes before the one in front of it"),
        ([(None, 9), (9, 2), (2, None)], "split key 1 comes before"),
        ([1, None, 3], "bound 1 is None"),
        (["x"], "type str is no value of shop.Customer.id"),
        ([object()], "type object is no value"),
        (range(MAX_KEY_RANGES), "1,001 key ranges"),
    ],
)
def test_anything_else_is_refused(returned: Any, problem: str) -> None:
    with pytest.raises(InvalidKeyRangesError, match=problem):
        splits_of(returned)


def test_refusal_does_not_show_keys() -> None:
    with pytest.raises(InvalidKeyRangesError) as caught:
        splits_of(["zz-secret", "aa-secret"], Badge.objects.all())
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("order_by", "keys"),
    [
        ("price", [Decimal(-1), Decimal(0), Decimal("9.50"), Decimal(10)]),
        ("taken", [datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, microsecond=1, tzinfo=UTC)]),
        ("label", ["", "a", "b"]),
        ("ratio", [-0.5, 0.0, 2.0]),
        ("serial", [UUID(int=0), UUID(int=10)]),
    ],
)
@BOTH
def test_falsy_keys_are_bounds_like_others(alias: str, order_by: str, keys: list[object]) -> None:
    rows = Reading.objects.using(alias)
    assert splits_of(keys, rows, order_by) == keys
    with pytest.raises(InvalidKeyRangesError, match="split key 1 comes before"):
        splits_of(keys[::-1], rows, order_by)


@pytest.mark.parametrize("bad", [float("nan"), Decimal("NaN")])
def test_values_without_order_are_no_keys(bad: object) -> None:
    with pytest.raises(InvalidKeyRangesError):
        splits_of([bad], Reading.objects.all(), "ratio" if isinstance(bad, float) else "price")


FOLDED = {
    "default": ["CREATE TABLE shop_folded (code varchar(20) COLLATE NOCASE PRIMARY KEY)"],
    # An order that is not Python's, in a PostgreSQL that knows no collation but that of code points.
    "postgres": [
        "CREATE TYPE folded AS ENUM ('a', 'B', 'c', 'D')",
        "CREATE TABLE shop_folded (code folded PRIMARY KEY)",
    ],
}


@isolate_apps("tests.site.shop")
@BOTH
def test_texts_are_compared_as_their_column_is(alias: str) -> None:
    class Folded(models.Model):
        code = models.CharField(primary_key=True, max_length=20)

        class Meta:
            app_label = "shop"

    with connections[alias].cursor() as cursor:
        for statement in FOLDED[alias]:
            cursor.execute(statement)
        cursor.execute("INSERT INTO shop_folded (code) VALUES ('a'), ('B'), ('c'), ('D')")
    rows = Folded._default_manager.using(alias)
    keys = ["a", "B", "c", "D"]
    assert splits_of(keys, rows) == keys
    with pytest.raises(InvalidKeyRangesError, match="split key 2 comes before"):
        splits_of(sorted(keys), rows)
    assert walk(rows, lambda *_: ["B", "c"], limit=1) == [["a"], ["B"], ["c", "D"]]
    if alias == "default":
        assert splits_of(["a", "A", "b", "B"], rows) == ["a", "b"], "equal in that collation"


@BOTH
def test_many_text_keys_are_compared_in_several_queries(alias: str) -> None:
    rows = Badge.objects.using(alias)
    keys = [f"{number:04d}" for number in range(350)]
    assert splits_of(keys, rows) == keys
    keys[101], keys[100] = keys[100], keys[101]
    with pytest.raises(InvalidKeyRangesError, match="split key 101 comes before"):
        splits_of(keys, rows)


@BOTH
@pytest.mark.parametrize("text", ["\ud800", "a\x00"])
def test_text_that_no_row_can_have_is_refused(alias: str, text: str) -> None:
    rows = Badge.objects.using(alias)
    if (alias, text) == ("default", "a\x00"):
        assert splits_of(["a", text], rows) == ["a", text]
        return
    with pytest.raises(InvalidKeyRangesError, match="cannot hold"):
        splits_of(["a", text], rows)
    assert not rows.exists(), "the transaction can be used"


def test_more_ranges_than_shards_are_taken() -> None:
    Customer.objects.bulk_create(Customer(pk=key, name="") for key in range(1, 31))
    assert [len(visited) for visited in walk(Customer.objects.all(), lambda *_: [10, 20], shards=1)] == [9, 10, 11]


def test_ranges_are_open_outside_whatever_the_getter_says() -> None:
    Customer.objects.bulk_create(Customer(pk=key, name="") for key in range(1, 31))
    assert [len(visited) for visited in walk(Customer.objects.all(), lambda *_: [(10, 15), (15, 16)])] == [14, 16]


def test_no_ranges_from_a_getter_are_one_while_there_are_rows() -> None:
    Customer.objects.create(pk=3, name="")
    assert walk(Customer.objects.all(), lambda *_: []) == [[3]]


def test_getter_is_told_the_order_field_if_it_asks() -> None:
    order = resolve_order_field(Reading.objects.all(), "level")
    seen: list[object] = []

    def djangaes(queryset: Any, shard_count: int) -> list[object]:
        seen.append(shard_count)
        return []

    def ours(queryset: Any, shards: int, *, order_by: str = "pk", note: str = "") -> list[object]:
        seen.append((shards, order_by, note))
        return []

    call_getter(djangaes, Reading.objects.all(), 3, order)
    call_getter(partial(ours, note="x"), Reading.objects.all(), 3, order)
    assert seen == [3, (3, "level", "x")]


@pytest.mark.parametrize("shards", [0, -1, MAX_KEY_RANGES + 1])
def test_number_of_shards_is_bounded(shards: int) -> None:
    with pytest.raises(InvalidKeyRangesError, match="shards"):
        call_getter(lambda *_: [], Customer.objects.all(), shards, resolve_order_field(Customer.objects.all()))


@BOTH
def test_last_range_is_frozen_at_the_last_row(alias: str) -> None:
    rows = Reading.objects.using(alias)
    rows.bulk_create(Reading(pk=key, level=key % 3) for key in range(1, 10))
    order = resolve_order_field(rows, "level")
    assert build_key_ranges(rows, order, [1]) == [KeyRange(None, 1), KeyRange(1, None, Cursor(2, 8))]
    assert build_key_ranges(rows, order, [1], freeze=False) == [KeyRange(None, 1), KeyRange(1, None)]
    assert build_key_ranges(rows, resolve_order_field(rows), []) == [KeyRange(None, None, Cursor(9, 9))]


@BOTH
def test_rows_without_a_value_are_refused_before_the_walk(alias: str) -> None:
    rows = Reading.objects.using(alias)
    rows.create(taken=datetime(2024, 1, 1, tzinfo=UTC))
    order = resolve_order_field(rows, "taken")
    check_walk(rows, order)
    rows.create(taken=None)
    with pytest.raises(InvalidKeyRangesError, match="whose taken is NULL"):
        plan_key_ranges(rows, order, 2, lambda *_: [])
    with_value = rows.filter(taken__isnull=False)
    assert [len(visited) for visited in walk(with_value, lambda *_: [], order_by="taken")] == [1]


def test_parcels_split_by_texts_of_their_keys() -> None:
    assert splits_of([str(UUID(int=5))], Parcel.objects.all()) == [UUID(int=5)]
