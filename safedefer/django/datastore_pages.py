"""Pages on Datastore through django-gcloud-connectors, which allows inequalities on one field only.

What comes behind a cursor takes two queries: the rows of the same value with a larger key, then those of larger values.
"""

from collections.abc import Callable
from typing import Any, Final

from django.db import connections
from django.db.models import Model, QuerySet
from django.db.models.lookups import Lookup
from django.db.models.sql.where import WhereNode

from safedefer.django.order_field import OrderField
from safedefer.django.positions import Cursor, KeyRange
from safedefer.errors import InvalidKeyRangesError

_BACKEND: Final = "gcloudc.db.backends.datastore"
_INEQUALITIES: Final = frozenset({"gt", "gte", "lt", "lte", "range"})


def is_datastore(using: str) -> bool:
    """Whether an alias is a Datastore through django-gcloud-connectors."""
    return any(cls.__module__.startswith(_BACKEND) for cls in type(connections[using]).__mro__)


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


def read_datastore_rows(
    queryset: QuerySet[Any], key_range: KeyRange, cursor: Cursor | None, order: OrderField, limit: int
) -> list[Model]:
    """The rows behind the cursor, with at most two queries.

    A walk along another field than the primary key is frozen at the last row's value, not at its key; one along the
    primary key is not frozen.
    """
    if order.is_pk:
        bounds: dict[str, object] = {} if key_range.hi is None else {"pk__lt": key_range.hi}
        if cursor is not None:
            bounds["pk__gt"] = cursor.pk
        elif key_range.lo is not None:
            bounds["pk__gte"] = key_range.lo
        return list(queryset.filter(**bounds).order_by("pk")[:limit])
    rows = [] if cursor is None else _same_value(queryset, cursor, order, limit)
    if len(rows) < limit:
        rows += _larger_values(queryset, key_range, cursor, order, limit - len(rows))
    return rows


def _same_value(queryset: QuerySet[Any], cursor: Cursor, order: OrderField, limit: int) -> list[Model]:
    same = queryset.all()
    # Bounds of the queryset's own on the order field hold for the cursor's value; beside `pk__gt` they are not allowed.
    same.query.where = _without(same.query.where, _bounds(order.column))
    return list(same.filter(**{order.name: cursor.value, "pk__gt": cursor.pk}).order_by("pk")[:limit])


def _larger_values(
    queryset: QuerySet[Any], key_range: KeyRange, cursor: Cursor | None, order: OrderField, limit: int
) -> list[Model]:
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
    return list(larger.filter(**bounds).order_by(name, "pk")[:limit])


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
