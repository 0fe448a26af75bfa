"""Pages on Datastore through django-gcloud-connectors, which allows inequalities on one field only.

What comes behind a cursor takes two queries: the rows of the same value with a larger key, then those of larger values.
A filter that Datastore answers with several queries (`in`, OR) takes a third one: the connector merges their rows in
the order of one field at most.
"""

from collections.abc import Callable
from decimal import Decimal
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any, Final

from django.db import connections
from django.db.models import Model, QuerySet
from django.db.models.lookups import Lookup
from django.db.models.sql.where import WhereNode

from safedefer.django.order_field import OrderField
from safedefer.django.positions import Cursor, KeyRange
from safedefer.errors import InvalidKeyRangesError

_BACKEND: Final = "gcloudc.db.backends.datastore"
_NOT_INDEXED: Final = frozenset({"text", "bytes"})
_INEQUALITIES: Final = frozenset({"gt", "gte", "lt", "lte", "range"})
_ONE_QUERY: Final = _INEQUALITIES | {"exact", "isnull"}
"""What of a filter is known not to make several queries of one."""


def is_datastore(using: str) -> bool:
    """Whether an alias is a Datastore through django-gcloud-connectors."""
    return any(cls.__module__.startswith(_BACKEND) for cls in type(connections[using]).__mro__)


def check_datastore_index(queryset: QuerySet[Any], order: OrderField) -> None:
    """See that the order field is indexed.

    Raises:
        InvalidKeyRangesError: A query in its order would find nothing.
    """
    if not order.is_pk and not _is_indexed(queryset, order.column):
        raise InvalidKeyRangesError(
            f"{queryset.model._meta.object_name}.{order.name} is in no index of Datastore; no row is found along it"
        )


def check_datastore_filters(queryset: QuerySet[Any], order: OrderField) -> None:
    """See that the queryset leaves the one inequality to the order field.

    Raises:
        InvalidKeyRangesError: It filters another field by an inequality; names the field to walk along instead.
    """
    where = queryset.query.where
    columns = _inequalities(where, negated=False)
    other = sorted(columns - {order.column})
    if other:
        raise InvalidKeyRangesError(
            f"Datastore allows inequalities on one field, and this queryset has one on {', '.join(other)} while it is "
            f"walked along {order.name}; walk it along that field: order_field={other[0]!r}"
        )
    if _inequalities(_without(where, _bounds(order.column)), negated=False):
        raise InvalidKeyRangesError(
            f"a queryset whose filter on {order.name} is part of an OR or an exclude() cannot be walked on Datastore"
        )


def place_in_datastore(key: Any) -> Any:
    """What has the order of keys on Datastore, where decimals are texts with their sign in front of their digits."""
    return (not key.is_signed(), abs(key)) if isinstance(key, Decimal) else key


def read_datastore_rows(
    queryset: QuerySet[Any], key_range: KeyRange, cursor: Cursor | None, order: OrderField, limit: int
) -> list[Model]:
    """The rows behind the cursor, with as few queries as there can be.

    A walk along another field than the primary key is frozen at the last row's value, not at its key; one along the
    primary key is not frozen.
    """
    if order.is_pk:
        bounds: dict[str, object] = {} if key_range.hi is None else {"pk__lt": key_range.hi}
        if cursor is not None:
            bounds["pk__gt"] = cursor.pk
        elif key_range.lo is not None:
            bounds["pk__gte"] = key_range.lo
        return list(_with_bounds(queryset, bounds).order_by("pk")[:limit])
    rows = [] if cursor is None else _same_value(queryset, order, cursor.value, cursor.pk, limit)
    if len(rows) < limit:
        larger, left = _larger_values(queryset, key_range, cursor, order), limit - len(rows)
        if _is_one_query(queryset.query.where):
            rows += larger.order_by(order.name, "pk")[:left]
        else:
            rows += _merged(queryset, larger, order, left)
    return rows


def _same_value(queryset: QuerySet[Any], order: OrderField, value: object, after: object, limit: int) -> list[Model]:
    same = queryset.all()
    # Bounds of the queryset's own on the order field hold for this value; beside `pk__gt` they are not allowed.
    same.query.where = _without(same.query.where, _bounds(order.column))
    bounded = _with_bounds(same, {} if after is None else {"pk__gt": after})
    return list(bounded.filter(**{order.name: value}).order_by("pk")[:limit])


def _merged(queryset: QuerySet[Any], larger: QuerySet[Any], order: OrderField, limit: int) -> list[Model]:
    """Rows of larger values, where several queries find them.

    In the order of one field they are merged rightly; which rows of the last value are in time for the limit is chance.
    """
    found: list[Model] = list(larger.order_by(order.name)[:limit])
    values = [getattr(row, order.name) for row in found]
    groups = [list(group) for _, group in groupby(zip(values, found, strict=True), key=itemgetter(0))]
    rows = [row for group in groups for row in sorted((row for _, row in group), key=attrgetter("pk"))]
    if len(found) < limit:
        return rows
    whole = len(found) - len(groups[-1])
    return rows[:whole] + _same_value(queryset, order, values[-1], None, limit - whole)


def _larger_values(
    queryset: QuerySet[Any], key_range: KeyRange, cursor: Cursor | None, order: OrderField
) -> QuerySet[Any]:
    name = order.name
    bounds: dict[str, object] = {}
    larger = queryset.all()
    # Not being None is `> None` to gcloudc, which would compare that None with the bounds below.
    larger.query.where = _without(larger.query.where, _not_null(order.column))
    if cursor is not None:
        bounds[f"{name}__gt"] = cursor.value
    elif key_range.lo is not None:
        bounds[f"{name}__gte"] = key_range.lo
    elif order.nullable:
        bounds[f"{name}__isnull"] = False
    if key_range.hi is not None:
        bounds[f"{name}__lt"] = key_range.hi
    if key_range.last is not None:
        bounds[f"{name}__lte"] = key_range.last.value
    return _with_bounds(larger, bounds)


def _with_bounds(queryset: QuerySet[Any], bounds: dict[str, object]) -> QuerySet[Any]:
    """The queryset with inequalities in front of its filters.

    Of two equalities of one field that agree the connector keeps one, and forgets what stands behind them. For the same
    reason an equality has to stand at the end.
    """
    bounded = queryset.all()
    bounded.query.where = WhereNode()
    bounded = bounded.filter(**bounds)
    bounded.query.where.add(queryset.query.where.clone(), "AND")
    return bounded


def _is_one_query(node: Any) -> bool:
    """Whether the connector asks Datastore no more than once for a WHERE."""
    if isinstance(node, Lookup):
        return node.lookup_name in _ONE_QUERY
    if isinstance(node, WhereNode):
        return node.connector == "AND" and not node.negated and all(map(_is_one_query, node.children))
    return False


def _inequalities(node: Any, *, negated: bool) -> set[str]:
    """The columns under a node of a WHERE that gcloudc would filter by an inequality."""
    if isinstance(node, Lookup):
        target = getattr(node.lhs, "target", None)
        return {target.column} if target is not None and _is_inequality(node, target, negated=negated) else set()
    negated ^= getattr(node, "negated", False)
    children = getattr(node, "children", ())
    return set().union(*(_inequalities(child, negated=negated) for child in children))


def _is_inequality(lookup: "Lookup[Any]", target: Any, *, negated: bool) -> bool:
    if lookup.lookup_name in _INEQUALITIES:
        return True
    if lookup.lookup_name == "isnull":
        return bool(lookup.rhs) is negated
    # Primary keys that are left out are left out after the query.
    return negated and lookup.lookup_name in {"exact", "in"} and not target.primary_key


def _is_indexed(queryset: QuerySet[Any], column: str) -> bool:
    """Whether the connector has a column indexed: what is no text or bytes, but only what is named if any is."""
    meta = queryset.model._meta
    field = next(field for field in meta.fields if field.column == column)
    if field.db_type(connections[queryset.db]) in _NOT_INDEXED:
        return False
    # A foreign key has an index without being asked.
    are_named = bool(meta.indexes) or any("db_index" in each.deconstruct()[-1] for each in meta.fields)
    named = {meta.get_field(index.fields[0]) for index in meta.indexes}
    return not are_named or field.db_index or field in named


def _bounds(column: str) -> "Callable[[Lookup[Any]], bool]":
    return lambda lookup: _inequalities(lookup, negated=False) == {column}


def _not_null(column: str) -> "Callable[[Lookup[Any]], bool]":
    return lambda lookup: lookup.lookup_name == "isnull" and _inequalities(lookup, negated=False) == {column}


def _without(where: Any, drops: "Callable[[Lookup[Any]], bool]") -> Any:
    """A copy of a WHERE without some of the conditions that hold for all rows."""
    copy = where.clone()
    if copy.negated or copy.connector != "AND":
        return copy
    kept = [child for child in copy.children if not (isinstance(child, Lookup) and drops(child))]
    copy.children = [_without(child, drops) if isinstance(child, WhereNode) else child for child in kept]
    return copy
