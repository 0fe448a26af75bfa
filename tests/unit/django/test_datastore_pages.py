"""The two queries of Datastore: they ask for no more than it allows, and find what one query finds elsewhere."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.db.models import Q
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safedefer.django.datastore_pages import (
    check_datastore_filters,
    is_datastore,
    place_in_datastore,
    read_datastore_rows,
)
from safedefer.django.order_field import resolve_order_field
from safedefer.django.pages import cursor_of, read_page
from safedefer.django.positions import KeyRange
from safedefer.errors import InvalidKeyRangesError
from tests.site.shop.models import Reading

MOMENT = datetime(2024, 1, 1, tzinfo=UTC)


def test_databases_of_django_are_no_datastore() -> None:
    assert not any(is_datastore(alias) for alias in ("default", "postgres"))


def test_decimals_are_ordered_as_their_texts() -> None:
    keys = [Decimal("-1.00"), Decimal("-20.00"), Decimal("0.00"), Decimal("3.00"), Decimal("11.00")]
    assert sorted(set(keys), key=place_in_datastore) == keys


@pytest.mark.django_db
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    levels=st.lists(st.integers(-2, 2), min_size=1, max_size=25),
    bounds=st.tuples(*[st.none() | st.integers(-2, 2)] * 2),
    limit=st.integers(1, 5),
    order_by=st.sampled_from(["pk", "level"]),
    condition=st.sampled_from([Q(level__gte=-1), Q(label__in=["a", "b"]), Q(label="a") | Q(level=1), Q(level=0)]),
)
def test_both_forms_find_the_same_rows(
    levels: list[int], bounds: tuple[Any, Any], limit: int, order_by: str, condition: Q
) -> None:
    Reading.objects.all().delete()
    Reading.objects.bulk_create(
        Reading(pk=pk, level=level, label="abc"[pk % 3]) for pk, level in enumerate(levels, start=1)
    )
    rows, key_range = Reading.objects.filter(condition), KeyRange(*bounds)
    order = resolve_order_field(rows, order_by)
    cursor = None
    while True:
        page = read_page(rows, key_range, cursor, order, limit)
        found = read_datastore_rows(rows, key_range, cursor, order, limit)
        assert [row.pk for row in found] == [row.pk for row in page.rows]
        if page.ends(len(found)):
            break
        cursor = cursor_of(order, found[-1])


@pytest.mark.django_db
def test_queries_have_one_field_with_inequalities(django_assert_num_queries: Any) -> None:
    Reading.objects.bulk_create(Reading(pk=pk, taken=MOMENT) for pk in range(1, 5))
    rows = Reading.objects.filter(taken__gte=MOMENT, taken__isnull=False, label="")
    order = resolve_order_field(rows, "taken")
    cursor = cursor_of(order, Reading.objects.get(pk=2))
    with django_assert_num_queries(2) as captured:
        found = read_datastore_rows(rows, KeyRange(), cursor, order, 3)
    assert [row.pk for row in found] == [3, 4]
    same, larger = (query["sql"].partition("WHERE")[2] for query in captured.captured_queries)
    assert '"id" > 2' in same
    assert '"taken" >' not in same
    assert "NOT NULL" not in same + larger
    assert '"taken" > ' in larger
    assert '"id" >' not in larger


@pytest.mark.django_db
def test_first_page_leaves_out_rows_without_a_value() -> None:
    Reading.objects.bulk_create(Reading(pk=pk, taken=MOMENT if pk > 2 else None) for pk in range(1, 5))
    rows = Reading.objects.all()
    order = resolve_order_field(rows, "taken")
    assert [row.pk for row in read_datastore_rows(rows, KeyRange(), None, order, 9)] == [3, 4]


@pytest.mark.parametrize(
    ("condition", "order_by"),
    [
        (Q(), "pk"),
        (Q(level=3, label__in=["a", "b"]), "pk"),
        (Q(level=3) | Q(label="a"), "pk"),
        (Q(pk__gt=5), "pk"),
        (~Q(pk=5), "level"),
        (Q(taken__isnull=True), "pk"),
        (Q(level__gt=3, level__lte=9), "level"),
        (Q(taken__isnull=False), "taken"),
    ],
)
def test_filters_that_datastore_can_combine_are_accepted(condition: Q, order_by: str) -> None:
    rows = Reading.objects.filter(condition)
    check_datastore_filters(rows, resolve_order_field(rows, order_by))


@pytest.mark.parametrize(
    ("condition", "order_by", "problem"),
    [
        (Q(level__gt=3), "pk", "walked along pk.*order_field='level'"),
        (Q(level__range=(3, 9)), "pk", "order_field='level'"),
        (~Q(label="a"), "pk", "order_field='label'"),
        (~Q(label__in=["a"]), "pk", "order_field='label'"),
        (Q(taken__isnull=False), "pk", "order_field='taken'"),
        (~Q(taken__isnull=True), "level", "order_field='taken'"),
        (Q(level__gt=3, taken__lt=MOMENT), "level", "order_field='taken'"),
        (Q(pk__gt=5), "level", "order_field='id'"),
        (Q(level__gt=3) | Q(label="a"), "level", r"part of an OR or an exclude\(\)"),
        (~Q(level__gt=3), "level", r"part of an OR or an exclude\(\)"),
    ],
)
def test_filters_that_it_cannot_combine_are_refused(condition: Q, order_by: str, problem: str) -> None:
    rows = Reading.objects.filter(condition)
    with pytest.raises(InvalidKeyRangesError, match=problem):
        check_datastore_filters(rows, resolve_order_field(rows, order_by))
