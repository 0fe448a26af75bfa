"""What key range getters return, held against the database's own order, and the key ranges that come of it."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from math import nan
from typing import Any, Final, Protocol, TypeAlias

from django.db import DataError, connections, transaction
from django.db.models import QuerySet

from safedefer.django.datastore_pages import (
    check_datastore_filters,
    check_datastore_index,
    is_datastore,
    place_in_datastore,
)
from safedefer.django.order_field import OrderField, resolve_order_field, to_key
from safedefer.django.pages import cursor_of, in_order, keys_of, with_values
from safedefer.django.positions import Cursor, KeyRange
from safedefer.errors import InvalidKeyRangesError

MAX_KEY_RANGES: Final = 1_000
"""Of one iteration. A getter may return more ranges than shards were asked for, up to here."""

_PAIRS_IN_ONE_QUERY: Final = 100

Pair: TypeAlias = tuple[object, object]
"""`(start, end)`: keys from `start` up to, but not, `end`; None is open."""

KeyRangesGetter: TypeAlias = Callable[..., Sequence[object]]
"""Takes a queryset and a number of shards, and `order_by` if it has a parameter of that name."""


class SupportsKeyRanges(Protocol):
    """A getter of ours."""

    def __call__(self, queryset: QuerySet[Any], shards: int, *, order_by: str = "pk") -> list[Pair]:
        """Return pairs from the first, open below, to the last, open above."""
        ...


def plan_key_ranges(
    queryset: QuerySet[Any],
    order: OrderField,
    shards: int,
    getter: KeyRangesGetter,
    *,
    freeze: bool = True,
) -> list[KeyRange]:
    """Cut a queryset into key ranges that hold each of its rows exactly once.

    Args:
        queryset: What is to be walked.
        order: From `resolve_order_field` for this queryset.
        shards: How many ranges are wanted; there may be fewer.
        getter: Any key range getter.
        freeze: Leave out rows that are created behind the present last one while the walk is under way.
    Returns:
        Ranges in order, the first open below, the last open above; none if there is no row.
    Raises:
        InvalidKeyRangesError: The queryset cannot be walked, or what the getter returned is no key ranges.
    """
    check_walk(queryset, order)
    splits = split_points(queryset, order, call_getter(getter, queryset, shards, order))
    return build_key_ranges(queryset, order, splits, freeze=freeze)


def check_walk(queryset: QuerySet[Any], order: OrderField) -> None:
    """See that every row of a queryset has a place in the walk.

    Raises:
        InvalidKeyRangesError: Rows without a value in the order field; on Datastore one without an index, or a
            filter that cannot be combined.
    """
    if is_datastore(queryset.db):
        check_datastore_index(queryset, order)
        check_datastore_filters(queryset, order)
    if order.nullable and queryset.order_by().filter(**{f"{order.name}__isnull": True}).exists():
        raise InvalidKeyRangesError(
            f"there are rows whose {order.name} is NULL, which have no place in its order; leave them out with "
            f".filter({order.name}__isnull=False) or walk along another field"
        )
    if order.key_type is float and connections[queryset.db].vendor == "postgresql" and _has_nan(queryset, order):
        raise InvalidKeyRangesError(
            f"there are rows whose {order.name} is NaN, which nothing can come before or behind; leave them out or "
            "walk along another field"
        )


def _has_nan(queryset: QuerySet[Any], order: OrderField) -> bool:
    return queryset.order_by().filter(**{order.name: nan}).exists()


def call_getter(getter: KeyRangesGetter, queryset: QuerySet[Any], shards: int, order: OrderField) -> Sequence[object]:
    """Ask a getter, telling it the order field if it wants to know.

    Raises:
        InvalidKeyRangesError: `shards` is out of range.
    """
    if not 1 <= shards <= MAX_KEY_RANGES:
        raise InvalidKeyRangesError(f"{shards} shards; 1 to {MAX_KEY_RANGES:,} are possible")
    return getter(queryset, shards, order_by=order.name) if _takes_order_by(getter) else getter(queryset, shards)


def split_points(queryset: QuerySet[Any], order: OrderField, returned: Iterable[object]) -> list[object]:
    """The keys at which one range ends and the next begins, of whatever a getter returned.

    The outer bounds of pairs do not matter: the first range is open below and the last one above. Keys that the
    database finds equal are one split.

    Args:
        returned: `(start, end)` pairs, or split keys.
    Raises:
        InvalidKeyRangesError: Says which range or key is wrong, not what it is.
    """
    items = list(returned)
    inner = _inner_bounds(items) if any(isinstance(item, tuple | list) for item in items) else items
    if len(inner) >= MAX_KEY_RANGES:
        raise InvalidKeyRangesError(f"{len(inner) + 1:,} key ranges; {MAX_KEY_RANGES:,} are possible")
    keys: list[Any] = []
    for number, bound in enumerate(inner):
        if bound is None:
            raise InvalidKeyRangesError(f"bound {number} is None between other ranges; only the outer ones may be open")
        keys.append(to_key(order.field, bound))
    repeated = _repeated(queryset, order, keys)
    return [key for number, key in enumerate(keys) if number not in repeated]


def build_key_ranges(
    queryset: QuerySet[Any], order: OrderField, splits: Sequence[object], *, freeze: bool = True
) -> list[KeyRange]:
    """Ranges between split points, without gap or overlap, open below and above, the last one frozen.

    Returns:
        None of them if the queryset has no row.
    """
    last = _last_row(queryset, order) if freeze and not (order.is_pk and is_datastore(queryset.db)) else None
    if last is None and not queryset.order_by().exists():
        return []
    bounds = [None, *splits, None]
    ranges = [KeyRange(lo, hi) for lo, hi in pairwise(bounds)]
    ranges[-1] = KeyRange(ranges[-1].lo, None, last)
    return ranges


def pairs_between(splits: Iterable[object]) -> list[Pair]:
    """What a getter returns for split keys that are in order; repeated ones are left out."""
    keys: list[object] = []
    for key in splits:
        if not keys or keys[-1] != key:
            keys.append(key)
    return list(pairwise([None, *keys, None]))


def resolve(queryset: QuerySet[Any], shards: int, order_by: str) -> OrderField:
    """What every getter of ours checks first.

    Raises:
        InvalidKeyRangesError: As `resolve_order_field`; or `shards` is no positive number.
    """
    if shards < 1:
        raise InvalidKeyRangesError(f"{shards} shards; at least 1 is needed")
    return resolve_order_field(queryset, order_by)


def _last_row(queryset: QuerySet[Any], order: OrderField) -> Cursor | None:
    rows = with_values(keys_of(queryset, order), order)
    # Datastore has an index of any field backwards, but none together with the primary key.
    rows = rows.order_by(f"-{order.name}") if is_datastore(queryset.db) else in_order(rows, order, backwards=True)
    found = list(rows[:1])
    return cursor_of(order, found[0]) if found else None


def _inner_bounds(items: list[object]) -> list[object]:
    """The bounds that neighbouring pairs share."""
    pairs: list[Pair] = []
    for number, item in enumerate(items):
        if not isinstance(item, tuple | list) or len(item) != 2:  # noqa: PLR2004  # A pair.
            raise InvalidKeyRangesError(f"item {number} is no (start, end) pair, as others are")
        pairs.append((item[0], item[1]))
    inner: list[object] = []
    for number, (left, right) in enumerate(pairwise(pairs)):
        end, start = left[1], right[0]
        if end is None or start is None or type(end) is not type(start) or end != start:
            raise InvalidKeyRangesError(
                f"range {number + 2} does not begin where range {number + 1} ends: rows would be skipped or "
                "visited twice"
            )
        inner.append(end)
    return inner


def _repeated(queryset: QuerySet[Any], order: OrderField, keys: list[Any]) -> set[int]:
    """The numbers of keys that equal the one before them.

    Raises:
        InvalidKeyRangesError: A key comes before the one in front of it.
    """
    if order.key_type is str and not is_datastore(queryset.db):
        return _repeated_in_database(queryset, order, keys)
    # All but texts have one order, which Python shares with every database, and with Datastore except for decimals.
    places = map(place_in_datastore, keys) if is_datastore(queryset.db) else keys
    repeated = set()
    for number, (before, key) in enumerate(pairwise(places), start=1):
        if key < before:
            raise _not_in_order(number)
        if key == before:
            repeated.add(number)
    return repeated


def _repeated_in_database(queryset: QuerySet[Any], order: OrderField, keys: list[Any]) -> set[int]:
    """Ask the database, whose collation of that column may find texts equal, or order them, as Python does not."""
    repeated = set()
    pairs = list(enumerate(pairwise(keys), start=1))
    for start in range(0, len(pairs), _PAIRS_IN_ONE_QUERY):
        for number, is_equal in _compare(queryset, order, pairs[start : start + _PAIRS_IN_ONE_QUERY]):
            if not is_equal:
                raise _not_in_order(number)
            repeated.add(number)
    return repeated


def _compare(
    queryset: QuerySet[Any], order: OrderField, pairs: list[tuple[int, tuple[object, object]]]
) -> list[tuple[int, bool]]:
    """The pairs of which the first is not the smaller one, and whether they are equal.

    The pairs are rows below an empty SELECT of the column, from which they have its type and collation.
    """
    connection = connections[queryset.db]
    quote = connection.ops.quote_name
    table, column = quote(order.field.model._meta.db_table), quote(str(order.field.column))
    rows = " UNION ALL SELECT %s, %s, %s" * len(pairs)
    sql = (
        f"SELECT n, CASE WHEN a = b THEN 1 ELSE 0 END FROM (SELECT {column} AS a, {column} AS b, 0 AS n "  # noqa: S608
        f"FROM {table} WHERE 1 = 0{rows}) p WHERE NOT a < b ORDER BY n"
    )
    parameters: Any = [part for number, (before, key) in pairs for part in (before, key, number)]
    try:
        with transaction.atomic(using=queryset.db), connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return [(int(number), bool(is_equal)) for number, is_equal in cursor.fetchall()]
    except (ValueError, DataError) as error:
        raise InvalidKeyRangesError(f"a split key is a text that {connection.vendor} cannot hold") from error


def _not_in_order(number: int) -> InvalidKeyRangesError:
    return InvalidKeyRangesError(
        f"split key {number} comes before the one in front of it in the database's order; sort keys with ORDER BY, "
        "whose collation is not Python's"
    )


def _takes_order_by(getter: KeyRangesGetter) -> bool:
    try:
        parameters = inspect.signature(getter).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.name == "order_by" or p.kind is p.VAR_KEYWORD for p in parameters)
