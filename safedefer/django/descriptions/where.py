"""The conditions of a query, as Django keeps them, read back as the filters that they came from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, final

from django.db.models import Lookup, Model, Transform
from django.db.models.expressions import Col, Exists
from django.db.models.fields.reverse_related import ForeignObjectRel
from django.db.models.lookups import Exact, IsNull
from django.db.models.sql import Query
from django.db.models.sql.where import NothingNode, WhereNode

from safedefer.core.iteration.description import LOOKUPS, Condition, Conditions, Junction
from safedefer.django.descriptions.negation import is_guard, read_exclusion
from safedefer.django.descriptions.paths import UndescribedError, innermost, joins_to, path_of

_NOTHING: Final = Condition(path="pk", lookup="in", value=[])


@final
@dataclass(slots=True)
class _Group:
    """Conditions of one call of `filter()`."""

    parts: list[Conditions]
    joins: set[str] = field(default_factory=set)


@final
class WhereWalk:
    """Reads the conditions of one query."""

    def __init__(self, model: type[Model], query: Query) -> None:
        self._model = model
        self._query = query
        self._joins: set[str] = set()
        """Aliases of relations to many that the present part has spoken of."""

    def filters(self) -> tuple[Conditions, ...]:
        """One for each call: parts that speak of one join of a relation to many belong together.

        Raises:
            UndescribedError: Something in it has no description.
        """
        where: Any = self._query.where
        top = where.children if where.connector == "AND" and not where.negated else [where]
        groups: list[_Group] = []
        for child in top:
            self._joins = set()
            part = self._read(child, negated=False, below=False)
            if part is None:
                continue
            mine = _Group([part], self._joins)
            apart = []
            for group in groups:
                if group.joins & mine.joins:
                    mine = _Group(group.parts + mine.parts, group.joins | mine.joins)
                else:
                    apart.append(group)
            groups = [*apart, mine]
        return tuple(_join(group.parts) for group in groups)

    def _read(self, node: Any, *, negated: bool, below: bool) -> Conditions | None:
        """One node; None where nothing is in it.

        Args:
            negated: Whether an odd number of negations is above it: then Django guards against NULL.
            below: Whether any is: then Django asks relations to many in subqueries.
        """
        if isinstance(node, NothingNode):
            return _NOTHING
        if isinstance(node, WhereNode):
            return self._read_node(node, negated=negated, below=below)
        if not isinstance(node, Lookup):
            raise UndescribedError(f"a condition of its own kind ({type(node).__name__})")
        if isinstance(node.lhs, Exists):
            return self._read_exclusion(node, below=below)
        return self._read_lookup(node)

    def _read_node(self, node: WhereNode, *, negated: bool, below: bool) -> Conditions | None:
        negated, below = negated ^ node.negated, below or node.negated
        parts: list[Conditions] = []
        guards: list[tuple[Col, bool]] = []
        for child in node.children:
            guard = next((guard for guard in guards if is_guard(child, *guard)), None)
            if guard is not None:
                guards.remove(guard)
                continue
            part = self._read(child, negated=negated, below=below)
            guards = self._guards_behind(child, node.connector, negated=negated, below=below)
            if isinstance(part, Junction) and part.connector == node.connector and not part.negated:
                parts.extend(part.parts)
            elif part is not None:
                parts.append(part)
            elif node.connector != "AND" or node.negated:
                raise UndescribedError("an empty condition within another")
        if not parts:
            return None
        if not node.negated:
            return (
                parts[0] if len(parts) == 1 else Junction(connector=node.connector, negated=False, parts=tuple(parts))
            )
        return Junction(connector=node.connector, negated=True, parts=tuple(parts))

    def _guards_behind(self, child: Any, connector: str, *, negated: bool, below: bool) -> list[tuple[Col, bool]]:
        """The columns that Django may guard behind a condition, each with whether it does so by IS NULL."""
        while isinstance(child, WhereNode) and not child.negated and len(child.children) == 1:
            child = child.children[0]
        if not isinstance(child, Lookup):
            return []
        if isinstance(child.lhs, Exists):
            return [(read_exclusion(self._query, child.lhs).outer, True)] if below and connector == "OR" else []
        if not negated or connector != "AND" or isinstance(child, IsNull):
            return []
        return [(column, False) for column in (innermost(child.lhs), innermost(child.rhs)) if column is not None]

    def _read_lookup(self, lookup: Any, query: Query | None = None, before: Sequence[Any] = ()) -> Condition:
        name = lookup.lookup_name
        if name not in LOOKUPS:
            raise UndescribedError(f"the lookup {name!r}")
        path = path_of(query or self._query, lookup.lhs, self._model, before)
        if query is None:
            self._note(innermost(lookup.lhs))
        value = lookup.rhs
        if isinstance(value, Col | Transform):
            column = innermost(value)
            if query is not None and column is not None and column.alias in query.alias_map:
                raise UndescribedError("F() under exclude() of a relation to many")
            self._note(column)
            return Condition(path=path, lookup=name, column=path_of(self._query, value, self._model))
        if isinstance(value, Query) or hasattr(value, "query"):
            raise UndescribedError("another queryset in a condition; a list of its keys would do")
        if hasattr(value, "resolve_expression") or hasattr(value, "as_sql"):
            raise UndescribedError(f"an expression ({type(value).__name__})")
        return Condition(path=path, lookup=name, value=_plain(value, name))

    def _read_exclusion(self, lookup: Any, *, below: bool) -> Condition:
        """What `exclude()` over a relation to many has become: a subquery."""
        if not below or type(lookup) is not Exact or lookup.rhs is not True:
            raise UndescribedError("Exists()")
        found = read_exclusion(self._query, lookup.lhs)
        self._note(found.outer)
        return self._read_lookup(found.condition, found.query, found.before)

    def _note(self, column: Col | None) -> None:
        """Keep the joins of relations to many on the way to a column."""
        alias = None if column is None else column.alias
        while alias is not None and alias in self._query.alias_map:
            table: Any = self._query.alias_map[alias]
            if any(_is_to_many(join) for join in joins_to(self._query, alias)):
                self._joins.add(alias)
            alias = table.parent_alias


def _is_to_many(join: Any) -> bool:
    return isinstance(join, ForeignObjectRel) and not join.one_to_one


def _join(parts: list[Conditions]) -> Conditions:
    return parts[0] if len(parts) == 1 else Junction(connector="AND", negated=False, parts=tuple(parts))


def _plain(value: Any, lookup: str) -> object:
    """A value that Django has prepared, without the classes of the application."""
    if isinstance(value, Enum):
        value = value.value
    if lookup in {"in", "range"} and isinstance(value, list | tuple | set | frozenset):
        # NULL is in no list: Django leaves it out when it compiles the query.
        found = [_plain(part, "exact") for part in value if part is not None]
        return found if lookup == "in" else tuple(found)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return bytes(value) if isinstance(value, bytearray | memoryview) else value
