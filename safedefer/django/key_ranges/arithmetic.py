"""Key ranges by arithmetic: equal steps between the smallest and the largest key, or over all keys there can be."""

from typing import Any, Final
from uuid import UUID

from django.db.models import QuerySet

from safedefer.django.key_ranges.ranges import Pair, pairs_between, resolve
from safedefer.django.order_field import OrderField
from safedefer.django.pages import cursor_of, in_order, with_values
from safedefer.errors import InvalidKeyRangesError

_UUIDS: Final = 1 << 128


def sequential_int_key_ranges(queryset: QuerySet[Any], shards: int, *, order_by: str = "pk") -> list[Pair]:
    """Equal steps between the smallest and the largest integer: two index look-ups.

    Good for keys without large gaps; a gap makes shards without rows, and others with more.

    Returns:
        `(start, end)` pairs, the outer ones open; none if there is no row.
    """
    order = resolve(queryset, shards, order_by)
    if order.key_type is not int:
        raise InvalidKeyRangesError(f"{order.name} holds no integers, which sequential_int_key_ranges is for")
    found = first_and_last(queryset, order)
    return [] if found is None else equal_steps(*found, shards)


def random_uuid_key_ranges(queryset: QuerySet[Any], shards: int, *, order_by: str = "pk") -> list[Pair]:
    """Equal parts of all UUIDs there can be: no query.

    For random ones (version 4) alone: those that begin with a time would nearly all be in one shard.
    """
    order = resolve(queryset, shards, order_by)
    if order.key_type is not UUID:
        raise InvalidKeyRangesError(f"{order.name} holds no UUIDs, which random_uuid_key_ranges is for")
    return pairs_between(UUID(int=_UUIDS * number // shards) for number in range(1, shards))


def first_and_last(queryset: QuerySet[Any], order: OrderField) -> tuple[int, int] | None:
    """The smallest and the largest integer key, or None."""
    rows = with_values(queryset, order)
    # Whole rows: Datastore would want an index for a projection.
    ends = [list(in_order(rows, order, backwards=backwards)[:1]) for backwards in (False, True)]
    if not all(ends):
        return None
    first, last = (cursor_of(order, end[0]).value for end in ends)
    return int(str(first)), int(str(last))


def equal_steps(first: int, last: int, shards: int) -> list[Pair]:
    """Pairs whose bounds are integers at equal distance; fewer than `shards` where there are fewer integers."""
    steps = min(shards, last + 1 - first)
    return pairs_between(first + (last + 1 - first) * number // steps for number in range(1, steps))
