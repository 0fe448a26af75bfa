"""A queryset as plain values: what may be said of it, and how much. Which model the names fit is not known here.

Spec: docs/reference/iteration.md, section "Described querysets".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, final

from msgpack import ExtType

from safedefer.core.atoms import dump_atom
from safedefer.core.limits import MAX_CONDITION_DEPTH, MAX_CONDITIONS, MAX_RELATED_NAMES
from safedefer.core.shapes import ANY, Reader
from safedefer.core.wire import ExtCode, WireError, pack, unpack

LOOKUPS: Final = frozenset(
    {
        "exact",
        "iexact",
        "contains",
        "icontains",
        "startswith",
        "istartswith",
        "endswith",
        "iendswith",
        "in",
        "gt",
        "gte",
        "lt",
        "lte",
        "range",
        "isnull",
        "has_key",
        "has_keys",
        "has_any_keys",
        "contained_by",
    }
)
"""What a condition may ask. Regular expressions are not among them: one can take a database any time it likes."""

PRIVATE_FIELDS: Final = frozenset({"password"})
"""Fields that no condition may look at, and no key ranges, in any model."""

_MAX_PATH: Final = 500
_CONNECTORS: Final = frozenset({"AND", "OR", "XOR"})


@final
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Condition:
    """One comparison.

    Attributes:
        path: Names of relations, a field, transforms and keys in JSON, joined by two underscores.
        lookup: One of `LOOKUPS`.
        value: What it is compared with.
        column: Path of the column that it is compared with instead; None where there is a value.
    """

    path: str
    lookup: str
    value: object = None
    column: str | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Junction:
    """Conditions joined by `AND`, `OR` or `XOR`, or negated together."""

    connector: str
    negated: bool
    parts: tuple["Conditions", ...]


Conditions: TypeAlias = Condition | Junction


@final
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Description:
    """Rows of a model, and what is loaded with them.

    Attributes:
        label: `app_label.model_name` in lower case.
        using: The alias of the database.
        filters: One for each call of `filter()`: conditions on a relation to many meet in one row within a call only.
        distinct: Whether rows that joins repeat are wanted once.
        only: Names of the only fields that are loaded.
        deferred: Names of fields that are not.
        select_related: Paths of relations that are loaded by a join.
        prefetch_related: Paths of relations that are loaded by a query of their own.
    """

    label: str
    using: str
    filters: tuple[Conditions, ...] = ()
    distinct: bool = False
    only: tuple[str, ...] = ()
    deferred: tuple[str, ...] = ()
    select_related: tuple[str, ...] = ()
    prefetch_related: tuple[str, ...] = ()


def dump_description(description: Description) -> list[object]:
    """The tree that travels.

    Raises:
        ValueError: A value cannot travel, or there is too much of something.
    """
    names = (description.only, description.deferred, description.select_related, description.prefetch_related)
    tree: list[object] = [
        description.label,
        description.using,
        [_dump(conditions) for conditions in description.filters],
        description.distinct,
        *(list(part) for part in names),
    ]
    parse_description(unpack(pack(tree)))  # What would be refused there is refused here.
    return tree


def parse_description(tree: object) -> Description:
    """Read the tree of a verified description.

    Raises:
        WireError: It is no such tree, or larger than allowed.
    """
    if not isinstance(tree, list) or len(tree) != 8:  # noqa: PLR2004  # The attributes of `Description`.
        raise WireError("not the description of a queryset")
    label, using, filters, distinct, *names = tree
    if not isinstance(label, str) or not isinstance(using, str) or not isinstance(distinct, bool):
        raise WireError("not the description of a queryset")
    if not isinstance(filters, list):
        raise WireError("not the description of a queryset")
    parser = _Parser()
    only, deferred, selected, prefetched = (_names(part) for part in names)
    return Description(
        label=label,
        using=using,
        filters=tuple(parser.parse(part, 1) for part in filters),
        distinct=distinct,
        only=only,
        deferred=deferred,
        select_related=selected,
        prefetch_related=prefetched,
    )


def _dump(conditions: Conditions) -> object:
    if isinstance(conditions, Junction):
        return [conditions.connector, conditions.negated, [_dump(part) for part in conditions.parts]]
    if conditions.column is not None:
        return [conditions.path, conditions.lookup, None, conditions.column]
    if not ANY.fits(conditions.value, 1):
        raise ValueError(f"a {type(conditions.value).__qualname__} cannot travel as the value of a condition")
    return [conditions.path, conditions.lookup, unpack(pack(conditions.value, _encode))]


def _encode(value: object) -> ExtType:
    atom = dump_atom(value)
    if atom is not None:
        return atom
    if isinstance(value, tuple):
        return ExtType(ExtCode.TUPLE, pack(list(value), _encode))
    raise ValueError(f"a {type(value).__qualname__} cannot travel as the value of a condition")


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_RELATED_NAMES:
        raise WireError("not a list of names, or too many", limit=True)
    return tuple(_path(part) for part in value)


def _path(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_PATH:
        raise WireError("not a path")
    return value


@final
class _Parser:
    def __init__(self) -> None:
        self._count = 0
        self._reader = Reader(lambda label, cls: False, {})  # noqa: ARG005  # Nothing here refers to a row.

    def parse(self, tree: object, depth: int, weight: int = 1) -> Conditions:
        """Read conditions.

        Args:
            weight: How often the SQL has them: Django writes each part of an XOR twice.
        """
        self._count += weight
        if self._count > MAX_CONDITIONS or depth > MAX_CONDITION_DEPTH:
            raise WireError("too many or too deeply nested conditions", limit=True)
        match tree:
            case [str(connector), bool(negated), list(parts)] if connector in _CONNECTORS:
                weight *= 2 if connector == "XOR" else 1
                return Junction(connector=connector, negated=negated, parts=self._parts(parts, depth + 1, weight))
            case [path, str(lookup), None, column] if lookup in LOOKUPS:
                return Condition(path=_path(path), lookup=lookup, column=_path(column))
            case [path, str(lookup), node] if lookup in LOOKUPS:
                return Condition(path=_path(path), lookup=lookup, value=ANY.decode(node, self._reader, 1))
            case _:
                raise WireError("not a condition")

    def _parts(self, parts: Sequence[object], depth: int, weight: int) -> tuple[Conditions, ...]:
        return tuple(self.parse(part, depth, weight) for part in parts)
