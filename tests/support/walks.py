"""Walking a queryset to its end in tests, as the slices of an iteration do."""

from collections.abc import Callable
from typing import Any

from django.db.models import Model, QuerySet

from safedefer.django.key_ranges.ranges import KeyRangesGetter, plan_key_ranges
from safedefer.django.order_field import resolve_order_field
from safedefer.django.pages import find_place, place_of, read_page
from safedefer.django.positions import KeyRange, decode_cursor, decode_key_range, encode_cursor, encode_key_range


def walk_range(
    queryset: QuerySet[Any],
    key_range: KeyRange,
    order_by: str = "pk",
    limit: int = 3,
    between: Callable[[list[Model]], object] = lambda rows: None,
) -> list[Any]:
    """Primary keys in the order of their visits; the cursor is stored as bytes between two pages."""
    order = resolve_order_field(queryset, order_by)
    key_range = decode_key_range(order, encode_key_range(order, key_range))
    visited: list[Any] = []
    cursor = None
    while True:
        place = find_place(queryset, key_range, cursor, order)
        page = read_page(queryset, key_range, cursor, order, limit)
        rows, keys = [], []
        for row in page.rows:
            rows.append(row)
            keys.append(page.key_of(row))
        assert len(rows) <= limit
        assert place == (place_of(order, keys[0]) if keys else None)
        visited += [row.pk for row in rows]
        assert len(visited) < 30_000, "a walk without end"
        between(rows)
        if page.ends(len(rows)):
            return visited
        cursor = decode_cursor(order, encode_cursor(order, place_of(order, keys[-1])))


def walk(
    queryset: QuerySet[Any],
    getter: KeyRangesGetter,
    *,
    shards: int = 4,
    order_by: str = "pk",
    limit: int = 3,
    freeze: bool = True,
) -> list[list[Any]]:
    """The primary keys that each shard visits."""
    ranges = plan_key_ranges(queryset, resolve_order_field(queryset, order_by), shards, getter, freeze=freeze)
    return [walk_range(queryset, key_range, order_by, limit) for key_range in ranges]
