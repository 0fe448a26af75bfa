"""Pages of a walk: the next rows of a key range behind a cursor, by keys and never by position.

The cursor is exclusive and composite, `order_field >= v AND (order_field > v OR pk > k)`: databases turn the first part
into a place in the index, which they do not for the same condition written as one OR.
"""

from dataclasses import dataclass
from typing import Any, final

from django.db.models import Model, Q, QuerySet

from safedefer.django.datastore_pages import is_datastore, read_datastore_rows
from safedefer.django.order_field import OrderField, to_key
from safedefer.django.positions import Cursor, KeyRange


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Rows of one key range, in the order of the order field and the primary key.

    Attributes:
        rows: Each row once, even where a join of the queryset repeats it.
        ends: Whether there was nothing behind them. A page without rows may not be the last.
        cursor: Behind the last row, or where the page began if it has none.
    """

    rows: tuple[Model, ...]
    ends: bool
    cursor: Cursor | None


def read_page(
    queryset: QuerySet[Any], key_range: KeyRange, cursor: Cursor | None, order_field: OrderField, limit: int
) -> Page:
    """Read the rows of a key range that come next.

    Args:
        queryset: Its own ordering does not matter.
        key_range: Which rows.
        cursor: The last row that was finished; None for the beginning.
        order_field: From `resolve_order_field` for this queryset.
        limit: The most rows, 1 or more.
    """
    read = read_datastore_rows if is_datastore(queryset.db) else _read_rows
    found = read(queryset, key_range, cursor, order_field, limit)
    rows = _without_repeats(found, cursor)
    return Page(
        rows=tuple(rows),
        ends=len(found) < limit,
        cursor=cursor_of(order_field, rows[-1]) if rows else cursor,
    )


def cursor_of(order: OrderField, row: Model) -> Cursor:
    """The place of a row."""
    pk = to_key(order.pk_field, row.pk)
    return Cursor(pk if order.is_pk else to_key(order.field, getattr(row, order.name)), pk)


def in_order(queryset: QuerySet[Any], order: OrderField, *, backwards: bool = False) -> QuerySet[Any]:
    """The queryset in the order of the walk, whatever ordering or `reverse()` it came with."""
    sign = "-" if backwards else ""
    names = [f"{sign}pk"] if order.is_pk else [f"{sign}{order.name}", f"{sign}pk"]
    if not queryset.query.standard_ordering:
        queryset = queryset.reverse()
    return queryset.order_by(*names)


def with_values(queryset: QuerySet[Any], order: OrderField) -> QuerySet[Any]:
    """The rows that have a value in the order field.

    On Datastore `check_walk` has seen that all have one, and the condition could not be combined with others.
    """
    if order.nullable and not is_datastore(queryset.db):
        return queryset.filter(**{f"{order.name}__isnull": False})
    return queryset


def is_within(order: OrderField, key_range: KeyRange) -> Q:
    """The rows of a key range: from `lo`, below `hi`, up to the frozen row."""
    condition = Q()
    if key_range.lo is not None:
        condition &= Q(**{f"{order.name}__gte": key_range.lo})
    if key_range.hi is not None:
        condition &= Q(**{f"{order.name}__lt": key_range.hi})
    if key_range.last is not None:
        condition &= _is_beside(order, key_range.last, "lt", "lte")
    return condition


def is_behind(order: OrderField, cursor: Cursor) -> Q:
    """The rows that come after the cursor's."""
    return _is_beside(order, cursor, "gt", "gt")


def _is_beside(order: OrderField, cursor: Cursor, by_value: str, by_pk: str) -> Q:
    key = Q(**{f"pk__{by_pk}": cursor.pk})
    if order.is_pk:
        return key
    name, value = order.name, cursor.value
    return Q(**{f"{name}__{by_value}e": value}) & (Q(**{f"{name}__{by_value}": value}) | key)


def _read_rows(
    queryset: QuerySet[Any], key_range: KeyRange, cursor: Cursor | None, order: OrderField, limit: int
) -> list[Model]:
    rows = in_order(with_values(queryset, order), order).filter(is_within(order, key_range))
    if cursor is not None:
        rows = rows.filter(is_behind(order, cursor))
    return list(rows[:limit])


def _without_repeats(rows: list[Model], cursor: Cursor | None) -> list[Model]:
    """Each row once: the order puts the copies that a join makes side by side."""
    before = None if cursor is None else cursor.pk
    kept = []
    for row in rows:
        if row.pk != before:
            kept.append(row)
        before = row.pk
    return kept
