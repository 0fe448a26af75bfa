"""Key ranges from rows: every n-th one, or a random sample, in the order that the database gives them."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, final

from django.db import connections
from django.db.models import QuerySet
from django.db.models.sql.datastructures import BaseTable

from safedefer.django.datastore_pages import is_datastore
from safedefer.django.key_ranges.ranges import Pair, pairs_between, resolve
from safedefer.django.order_field import OrderField, to_key
from safedefer.django.pages import in_order, is_behind, with_values
from safedefer.django.positions import Cursor
from safedefer.errors import InvalidKeyRangesError

_WALKED_ROWS: Final = 1_000_000
"""Above this the walk over an index would keep a database busy for seconds."""

_SAMPLED_FROM_ROWS: Final = 100_000
"""Below this the exact walk costs as little as a sample."""

_SAMPLED_PAGES: Final = 400
"""Pages of a table that a sample reads: some 40,000 rows, in a random order of pages."""

_SAMPLES_PER_SHARD: Final = 32


def sampled_key_ranges(queryset: QuerySet[Any], shards: int, *, order_by: str = "pk") -> list[Pair]:
    """Ranges with nearly as many rows each, for any order field: by a sample of the table, or by counting.

    On PostgreSQL a large table is sampled by pages, after which the queryset's filters apply. Otherwise the rows are
    counted along the index, up to a million; more than that, on other databases, is one range.

    Returns:
        `(start, end)` pairs, the outer ones open. Fewer than asked for where rows are few or share their values.
    Raises:
        InvalidKeyRangesError: The queryset's database is Datastore.
    """
    order = resolve(queryset, shards, order_by)
    if is_datastore(queryset.db):
        raise InvalidKeyRangesError(
            "sampled_key_ranges counts rows along an index, which Datastore would read all; use datastore_key_ranges"
        )
    if shards == 1:
        return [(None, None)]
    rows = _in_key_order(queryset, order)
    keys = _sample(rows, order)
    if keys is None or len(keys) < shards * _SAMPLES_PER_SHARD:
        return pairs_between(_walk(rows, order, shards))
    return pairs_between(to_key(order.field, key) for key in every_nth(keys, shards))


def every_nth(keys: Sequence[object], shards: int) -> list[object]:
    """Split keys out of a sample in order: one for each shard but the first, or all if there are fewer."""
    if len(keys) < shards:
        return list(keys)
    return [keys[len(keys) * number // shards] for number in range(1, shards)]


def _in_key_order(queryset: QuerySet[Any], order: OrderField) -> QuerySet[Any]:
    return in_order(with_values(queryset, order), order).select_related(None)


def _walk(rows: QuerySet[Any], order: OrderField, shards: int) -> Iterable[object]:
    """Step along the index from one split to the next; an OFFSET from the start would grow with each split."""
    total = rows.order_by()[: _WALKED_ROWS + 1].count()
    if total > _WALKED_ROWS:
        return
    places = [total * number // shards for number in range(shards)]
    before = 0
    cursor: Cursor | None = None
    for place in places[1:]:
        if place == before:
            continue
        behind = rows if cursor is None else rows.filter(is_behind(order, cursor))
        skipped = place if cursor is None else place - before - 1
        found = list(behind.values_list(order.name, "pk")[skipped : skipped + 1])
        if not found:  # Rows were deleted since they were counted, or a join repeats rows.
            return
        value, pk = found[0]
        cursor = Cursor(to_key(order.field, value), to_key(order.pk_field, pk))
        before = place
        yield cursor.value


def _sample(rows: QuerySet[Any], order: OrderField) -> list[object] | None:
    """Values from random pages of the table, in order, or None where that is not possible or not worth it."""
    connection = connections[rows.db]
    if connection.vendor != "postgresql":
        return None
    pages = _pages_of_large_table(rows)
    if pages is None:
        return None
    sampled = rows.values_list(order.name, flat=True)
    query = sampled.query
    alias = query.get_initial_alias()
    if query.alias_map[alias].table_name != rows.model._meta.db_table:
        return None
    percent = min(100.0, 100.0 * _SAMPLED_PAGES / pages)
    query.alias_map[alias] = _SampledTable(rows.model._meta.db_table, alias, percent)
    return list(sampled)


def _pages_of_large_table(rows: QuerySet[Any]) -> int | None:
    """The size of an ordinary table that PostgreSQL finds large."""
    connection = connections[rows.db]
    table = connection.ops.quote_name(rows.model._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.reltuples, pg_relation_size(c.oid) / current_setting('block_size')::int FROM pg_class c "
            "WHERE c.oid = to_regclass(%s) AND c.relkind IN ('r', 'm')",
            [table],
        )
        found = cursor.fetchone()
    if found is None:
        return None
    tuples, pages = found
    # A table that was never analysed has -1 tuples.
    is_large = tuples >= _SAMPLED_FROM_ROWS or (tuples < 0 and pages >= 2 * _SAMPLED_PAGES)
    return int(pages) if is_large and pages else None


@final
class _SampledTable(BaseTable):
    """A table of a query's FROM, of which only random pages are read."""

    def __init__(self, table_name: str, alias: str, percent: float) -> None:
        super().__init__(table_name, alias)
        self._percent = percent

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        """The table with its sampling clause."""
        sql, params = super().as_sql(compiler, connection)
        return f"{sql} TABLESAMPLE SYSTEM ({self._percent:.6f})", params
