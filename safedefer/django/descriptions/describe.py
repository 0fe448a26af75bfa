"""From a queryset to its description, which is accepted only if it gives the same query again."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, Final

from django.core.exceptions import EmptyResultSet
from django.db.models import QuerySet
from django.db.models.constants import LOOKUP_SEP
from django.db.models.query import ModelIterable
from django.db.models.sql.where import WhereNode

from safedefer.core.iteration.description import Conditions, Description, Junction
from safedefer.django.datastore_pages import is_datastore
from safedefer.django.descriptions.build import build_queryset
from safedefer.django.descriptions.paths import REFUSED, UndescribedError
from safedefer.django.descriptions.policy import DescriptionPolicy
from safedefer.django.descriptions.where import WhereWalk
from safedefer.django.surroundings import DjangoSurroundings
from safedefer.errors import ArgumentsRefusedError, UnsupportedQuerySetError

_ADVICE: Final = (
    "write a module-level function that returns it, put @deferrable_queryset over it, and give function.bind(...)"
)
_NOTHING: Final = ("nothing", ())
_USED: Final = "safedefer_t"
_UNUSED: Final = "safedefer_u"
"""Beginnings of names that no table has."""

_PYTHONS_OWN: Final = ("_fetch_all", "__iter__", "iterator", "_clone", "_chain", "order_by", "__getitem__")
"""A queryset class that changes one of them gives other rows than its SQL does."""


def describe_queryset(queryset: QuerySet[Any], policy: DescriptionPolicy) -> Description:
    """What a queryset is, without its ordering.

    Raises:
        UnsupportedQuerySetError: It cannot be described; the message says which part, and what to do.
    """
    label = queryset.model._meta.label
    if policy.is_off:
        raise UnsupportedQuerySetError(f"QUERYSET_DESCRIPTIONS is off, so {_ADVICE}")
    if not policy.allows(queryset.model):
        raise UnsupportedQuerySetError(f"rows of {label} are walked through a registered function only: {_ADVICE}")
    try:
        _check_kind(queryset)
        return _describe(queryset, policy)
    except UndescribedError as problem:
        raise UnsupportedQuerySetError(
            f"this queryset of {label} cannot travel as it is, because of {problem}; {_ADVICE}"
        ) from None


def _check_kind(queryset: QuerySet[Any]) -> None:
    query: Any = queryset.query
    plain: Any = QuerySet(queryset.model)
    features = {
        "a queryset class of its own ways": any(
            getattr(type(queryset), name) is not getattr(QuerySet, name) for name in _PYTHONS_OWN
        ),
        "values(), values_list() or dates()": query.values_select or queryset._iterable_class is not ModelIterable,
        "annotate(), alias() or an aggregate": query.annotations or query.group_by is not None,
        "extra()": query.extra or query.extra_tables,
        "union(), intersection() or difference()": query.combinator,
        "a slice": query.is_sliced,
        "distinct() on fields": query.distinct_fields,
        "select_for_update()": query.select_for_update,
        "select_related() without names": query.select_related is True,
        "fetch_mode()": getattr(queryset, "_fetch_mode", None) is not getattr(plain, "_fetch_mode", None),
        "Prefetch()": any(not isinstance(name, str) for name in _prefetched(queryset)),
    }
    for feature, used in features.items():
        if used:
            raise UndescribedError(feature)


def _describe(queryset: QuerySet[Any], policy: DescriptionPolicy) -> Description:
    query: Any = queryset.query.clone()
    query.get_initial_alias()
    names, are_deferred = query.deferred_loading
    description = Description(
        label=queryset.model._meta.label_lower,
        using=queryset.db,
        distinct=query.distinct,
        only=() if are_deferred else tuple(sorted(names)),
        deferred=tuple(sorted(names)) if are_deferred else (),
        select_related=tuple(_flatten(query.select_related or {})),
        prefetch_related=_prefetched(queryset),
    )
    wanted = _compile(queryset)
    problem = "a combination of conditions that Django would join in another way"
    for filters in _readings(WhereWalk(queryset.model, query).filters()):
        found = replace(description, filters=filters)
        try:
            rebuilt = build_queryset(found, policy)
        except ArgumentsRefusedError as refusal:
            problem = refusal.detail.removeprefix(REFUSED)
            continue
        surroundings = DjangoSurroundings()
        with surroundings.restored(surroundings.capture()):
            arrived = _compile(rebuilt)
        if arrived == wanted:
            return found
        if _compile(rebuilt) == wanted:
            problem = "the active time zone, which has no name in the IANA database"
    raise UndescribedError(problem)


def _readings(filters: tuple[Conditions, ...]) -> Iterator[tuple[Conditions, ...]]:
    """The filters as found, and as one: the calls that a query came from leave no other trace in it."""
    yield filters
    if len(filters) > 1:
        parts = tuple(part for conditions in filters for part in _parts_of(conditions))
        yield (Junction(connector="AND", negated=False, parts=parts),)


def _parts_of(conditions: Conditions) -> tuple[Conditions, ...]:
    if isinstance(conditions, Junction) and conditions.connector == "AND" and not conditions.negated:
        return conditions.parts
    return (conditions,)


def _prefetched(queryset: Any) -> tuple[Any, ...]:
    return tuple(queryset._prefetch_related_lookups)


def _flatten(tree: dict[str, Any], before: str = "") -> Iterator[str]:
    for name, below in tree.items():
        if not below:
            yield before + name
        yield from _flatten(below, before + name + LOOKUP_SEP)


def _compile(queryset: QuerySet[Any]) -> tuple[str, Sequence[object]]:
    """The SQL of a queryset and its parameters, each with its type: `1`, `1.0` and `True` are not the same.

    Brackets that mean nothing are left out, and tables are named in the order of their joins: the calls that a query
    was made with leave their traces in both.
    """
    query: Any = queryset.order_by().query
    query.get_compiler(using=queryset.db).setup_query()  # Joins the tables of its columns.
    query = query.clone()  # Which forgets the name of the first table, and shares the lists of names.
    query.table_map = {table: [*aliases] for table, aliases in query.table_map.items()}
    _flatten_node(query.where)
    # Joins that were not needed in the end are still there, and took names.
    numbers = {True: count(), False: count()}
    used = {alias: bool(query.alias_refcount[alias]) for alias in query.alias_map}
    query.change_aliases({alias: f"{_USED if use else _UNUSED}{next(numbers[use])}" for alias, use in used.items()})
    try:
        sql, parameters = query.get_compiler(using=queryset.db).as_sql()
    except EmptyResultSet:
        return _NOTHING
    # django-gcloud-connectors shows no keys that are excluded, and values without their types.
    text = f"{sql} {query.where}" if is_datastore(queryset.db) else str(sql)
    return text, tuple(_exact(value) for value in parameters)


def _flatten_node(node: Any) -> None:
    """Take conditions out of brackets that change nothing."""
    children = []
    for child in node.children:
        if not isinstance(child, WhereNode):
            children.append(child)
            continue
        _flatten_node(child)
        is_same = child.connector == node.connector and node.connector in {"AND", "OR"}
        if not child.negated and (is_same or len(child.children) == 1):
            children.extend(child.children)
        elif child.children or node.connector != "AND" or node.negated:
            children.append(child)  # An empty one is true: that changes an OR, and what is negated.
    node.children = children


def _exact(value: object) -> tuple[type, str]:
    if isinstance(value, memoryview):
        return type(value), repr(bytes(value))
    inner = getattr(value, "obj", value)  # Drivers wrap JSON, and shorten it where they print it.
    if type(inner).__repr__ is object.__repr__:
        raise UndescribedError(f"a value of type {type(inner).__qualname__}")
    return type(value), repr(inner)
