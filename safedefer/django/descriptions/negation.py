"""What Django adds to conditions under a negation, told from what was asked for.

Under `exclude()` it guards nullable columns, and puts relations to many into subqueries. A filter that is built anew
gets the same again, so that all of it is left out of a description.
"""

from dataclasses import dataclass
from typing import Any, final

from django.db.models import Lookup
from django.db.models.expressions import Col, Exists
from django.db.models.fields.reverse_related import ForeignObjectRel
from django.db.models.lookups import Exact, IsNull
from django.db.models.sql import Query
from django.db.models.sql.where import WhereNode

from safedefer.django.descriptions.paths import UndescribedError, joins_to


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion:
    """What a subquery under a negation asks.

    Attributes:
        condition: Its own condition.
        query: Whose aliases that speaks of.
        before: Fields that lead from the outer query's model to the inner query's.
        outer: The column of the outer query that it is tied to.
    """

    condition: "Lookup[Any]"
    query: Query
    before: list[Any]
    outer: Col


def is_guard(node: Any, column: Col, wanted: bool) -> bool:  # noqa: FBT001  # As in `isnull=wanted`.
    """Whether a node only asks if a column is NULL, as Django does on its own account."""
    while isinstance(node, WhereNode) and not node.negated and len(node.children) == 1:
        node = node.children[0]
    return (
        isinstance(node, IsNull)
        and node.rhs is wanted
        and type(node.lhs) is Col
        and node.lhs.alias == column.alias
        and node.lhs.target == column.target
    )


def read_exclusion(outer_query: Query, exists: Exists) -> Exclusion:
    """Take apart a subquery as `exclude()` makes it: one condition, and one that ties it to the outer query.

    Raises:
        UndescribedError: It is another subquery.
    """
    query: Any = exists.query
    match query.where.children:
        case [Lookup() as condition, Exact(lhs=Col() as inner, rhs=Col() as outer)] if not query.where.negated:
            pass
        case _:
            raise UndescribedError("a subquery")
    if outer.alias not in outer_query.alias_map or inner.alias not in query.alias_map:
        raise UndescribedError("a subquery that is tied to nothing")
    if joins_to(query, inner.alias):
        raise UndescribedError("a subquery of its own shape")
    return Exclusion(
        condition=condition,
        query=query,
        before=[*joins_to(outer_query, outer.alias), *_between(inner.target, outer.target)],
        outer=outer,
    )


def _between(inner: Any, outer: Any) -> list[Any]:
    """The fields from the outer column's table to the inner query's."""
    if inner == outer and not inner.many_to_one:
        return []  # The inner query starts at the very table of the outer column.
    if inner.is_relation and not isinstance(inner, ForeignObjectRel) and inner.remote_field:
        way = [inner.remote_field]
        # The way there was cut off at its foreign key.
        return way if outer in inner.foreign_related_fields else [outer, *way]
    if outer.is_relation and inner in outer.foreign_related_fields:
        return [outer]
    raise UndescribedError("exclude() over a generic relation")
