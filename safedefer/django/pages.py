"""Pages of a walk: the next rows of a key range behind a cursor, by keys and never by position.

The cursor is exclusive and composite, `order_field >= v AND (order_field > v OR pk > k)`: databases turn the first part
into a place in the index, which they do not for the same condition written as one OR.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from itertools import chain, islice
from operator import attrgetter
from types import SimpleNamespace
from typing import Any, Final, final

from django.db.models import Model, Q, QuerySet
from django.db.models.query import ModelIterable, ValuesIterable

from safedefer.django.datastore_pages import is_datastore, read_datastore_rows
from safedefer.django.order_field import OrderField, may_have_no_key, to_key
from safedefer.django.positions import MAX_KEY_BYTES, Cursor, KeyRange, encode_cursor

_FETCHED_AT_ONCE: Final = 2_000
_SURELY_SHORT: Final = MAX_KEY_BYTES // 5
"""So many characters, digits or bytes make a key in any encoding."""


@final
class Page:
    """Rows of one key range, in the order of the order field and the primary key.

    All of them have been read, but become instances one by one: thousands of instances at once would keep the garbage
    collector busy.

    Attributes:
        rows: Each row once, even where a join of the queryset repeats it; to be gone through once. Raises
            InvalidKeyRangesError at a row whose key cannot be a cursor.
        key_of: Reads off a row what `place_of` makes its place from, before anybody could change it. Called for every
            row.
    """

    def __init__(self, rows: Iterator[Model], order: OrderField, limit: int, *, repeats: bool) -> None:
        self._limit = limit
        self._left_out = 0
        pk = order.pk_name
        self.key_of: Callable[[Model], object] = attrgetter(pk) if order.is_pk else attrgetter(order.name, pk)
        if repeats:
            rows = self._without_repeats(rows, attrgetter(pk))
        self.rows: Iterator[Model] = _with_places(rows, order, self.key_of) if may_have_no_key(order) else rows

    def ends(self, given: int) -> bool:
        """Whether there is nothing behind the rows, so many of which there were. No rows need not be the end."""
        return given + self._left_out < self._limit

    def _without_repeats(self, rows: Iterator[Model], pk_of: Callable[[Model], object]) -> Iterator[Model]:
        # The order puts the copies that a join makes side by side; those of the cursor's row are not behind it.
        before: object = None
        for row in rows:
            pk = pk_of(row)
            if pk == before:
                self._left_out += 1
            else:
                before = pk
                yield row


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
    queryset = _with_order_field(queryset, order_field)
    if is_datastore(queryset.db):
        rows = iter(read_datastore_rows(queryset, key_range, cursor, order_field, limit))
        return Page(rows, order_field, limit, repeats=True)
    found = _select_rows(queryset, key_range, cursor, order_field)[:limit]
    rows = _read_rows(found)
    return Page(rows, order_field, limit, repeats=_may_repeat(found))


def find_place(
    queryset: QuerySet[Any], key_range: KeyRange, cursor: Cursor | None, order_field: OrderField
) -> Cursor | None:
    """The place of the row that comes next, of which nothing but its key is read; None where there is no row."""
    keys = keys_of(queryset, order_field)
    if is_datastore(queryset.db):
        found: list[Any] = read_datastore_rows(keys, key_range, cursor, order_field, 1)
    else:
        found = list(_select_rows(keys, key_range, cursor, order_field)[:1])
    return cursor_of(order_field, found[0]) if found else None


def keys_of(queryset: QuerySet[Any], order: OrderField) -> QuerySet[Any, Any]:
    """The rows as objects with their keys, which no code of the application makes."""
    rows = queryset.prefetch_related(None)
    if is_datastore(queryset.db):
        # Of some columns the connector makes a projection, for which there may be no index.
        keys: Any = rows.defer(None)
        keys._iterable_class = _EntityKeys
    else:
        keys = rows.values(*([order.pk_name] if order.is_pk else [order.name, order.pk_name]))
        keys._iterable_class = _Keys
    return keys  # type: ignore[no-any-return]  # Neither class has a public name.


@final
class _Keys(ValuesIterable):
    """Rows with the attributes of instances that a walk reads off."""

    def __iter__(self) -> Iterator[Any]:
        pk_name = self.queryset.model._meta.pk.attname
        for values in super().__iter__():
            yield SimpleNamespace(pk=values[pk_name], **values)


@final
class _EntityKeys(ModelIterable):  # type: ignore[type-arg]  # It takes none at run time.
    """The same with all columns, as `ModelIterable` has them before it makes instances."""

    def __iter__(self) -> Iterator[Any]:
        compiler: Any = self.queryset.query.get_compiler(using=self.queryset.db)
        results = compiler.execute_sql(chunked_fetch=self.chunked_fetch, chunk_size=self.chunk_size)
        names = [column.target.attname for column, *_ in compiler.select]
        pk_name = self.queryset.model._meta.pk.attname
        for row in compiler.results_iter(results):
            values = dict(zip(names, row, strict=False))
            yield SimpleNamespace(pk=values[pk_name], **values)


def cursor_of(order: OrderField, row: Any) -> Cursor:
    """The place of a row, which may be one of `keys_of`."""
    return place_of(order, row.pk if order.is_pk else (getattr(row, order.name), row.pk))


def place_of(order: OrderField, key: Any) -> Cursor:
    """The place of a row by what `Page.key_of` read off it."""
    if order.is_pk:
        pk = to_key(order.pk_field, key)
        return Cursor(pk, pk)
    value, pk = key
    return Cursor(to_key(order.field, value), to_key(order.pk_field, pk))


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


def _select_rows(
    queryset: QuerySet[Any], key_range: KeyRange, cursor: Cursor | None, order: OrderField
) -> QuerySet[Any]:
    rows = in_order(with_values(queryset, order), order)
    if cursor is None:
        return rows.filter(is_within(order, key_range))
    # The cursor alone bounds them below: of two bounds a database may begin at the wrong one, and read the whole range
    # up to the cursor for every page.
    return rows.filter(is_within(order, replace(key_range, lo=None)), is_behind(order, cursor))


def _read_rows(rows: QuerySet[Any]) -> Iterator[Model]:
    """Read all rows now, so that no cursor of the database stays open; make them instances one by one."""
    # Neither has a public name: the related rows to load for all instances together, and what a queryset makes its own
    # list from. By default that fetches a hundred rows at a time.
    internals: Any = rows
    if internals._prefetch_related_lookups:
        return iter(list(rows))
    made: Iterator[Model] = iter(internals._iterable_class(rows, chunk_size=_FETCHED_AT_ONCE))
    return chain(list(islice(made, 1)), made)


def _with_order_field(queryset: QuerySet[Any], order: OrderField) -> QuerySet[Any]:
    """Load the order field where `only()` or `defer()` leaves it out: reading it off would be a query for each row."""
    if order.is_pk:
        return queryset
    field = queryset.model._meta.get_field(order.name)
    own = {field.name, order.name}
    names, are_deferred = queryset.query.deferred_loading
    if are_deferred:
        if not names & own:
            return queryset
        others = names - own
        return queryset.defer(None).defer(*others) if others else queryset.defer(None)
    return queryset.only(*names, field.name) if names and not names & own else queryset


def _with_places(rows: Iterator[Model], order: OrderField, key_of: Callable[[Model], object]) -> Iterator[Model]:
    for row in rows:
        key: Any = key_of(row)
        parts = (key,) if order.is_pk else key
        if any(map(_is_doubtful, parts)):
            encode_cursor(order, place_of(order, key))
        yield row


def _is_doubtful(part: Any) -> bool:
    if isinstance(part, Decimal):
        return part.is_nan() or len(part.as_tuple().digits) > _SURELY_SHORT
    return len(part) > _SURELY_SHORT if isinstance(part, str | bytes | memoryview) else bool(part != part)  # noqa: PLR0124  # NaN.


def _may_repeat(rows: QuerySet[Any]) -> bool:
    """Whether rows come from more than one table, once the query was made."""
    return len(rows.query.alias_map) != 1 or bool(rows.query.extra_tables)
