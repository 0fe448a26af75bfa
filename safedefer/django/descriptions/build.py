"""From a description to its queryset, with ordinary filters and nothing else."""

from contextlib import suppress
from typing import Any, TypeAlias

from django.apps import apps
from django.core.exceptions import EmptyResultSet
from django.db import DatabaseError, InterfaceError, NotSupportedError, connections
from django.db.models import F, Model, Q, QuerySet
from django.db.models.constants import LOOKUP_SEP

from safedefer.core.iteration.description import Condition, Conditions, Description
from safedefer.django.descriptions.paths import MAX_HOPS, Allows, check_path, refused, target_of
from safedefer.django.descriptions.policy import DescriptionPolicy
from safedefer.errors import ArgumentsRefusedError

_Pair: TypeAlias = tuple[str, object]


def build_queryset(description: Description, policy: DescriptionPolicy) -> QuerySet[Any]:
    """The queryset of a verified description, whatever the model's managers hide.

    Every name is held against the models before Django sees it.

    Raises:
        ArgumentsRefusedError: `ARGUMENTS_MISMATCH`: no such model, alias or field, or rows that may not be asked about.
    """
    model = _find_model(description.label)
    if not policy.allows(model) or description.using not in connections:
        raise refused("rows that may not be walked")
    rows: QuerySet[Any] = QuerySet(model, using=description.using)
    try:
        for conditions in description.filters:
            rows = rows.filter(_with_q(_build(model, conditions, policy.allows)))
        rows = _load(rows, description)
        _see_that_it_compiles(rows)
    except ArgumentsRefusedError:
        raise
    except (DatabaseError, InterfaceError) as error:
        if not isinstance(error, NotSupportedError):
            raise
        raise refused("conditions that the database does not have") from None
    except Exception:  # noqa: BLE001  # A field may raise anything when it prepares a value that it was not made for.
        raise refused("conditions that do not fit the model") from None
    return rows


def _see_that_it_compiles(rows: QuerySet[Any]) -> None:
    # Some values are looked at only then: in the middle of a walk it would be too late.
    with suppress(EmptyResultSet):
        rows.order_by().query.get_compiler(using=rows.db).as_sql()


def _find_model(label: str) -> type[Model]:
    app_label, _, name = label.partition(".")
    try:
        model = apps.get_model(app_label, name)
    except (LookupError, ValueError):
        raise refused("a model that is gone") from None
    if model._meta.label_lower != label:
        raise refused("a model that is gone")
    return model


def _build(model: type[Model], conditions: Conditions, allows: Allows) -> Q | _Pair:
    if isinstance(conditions, Condition):
        check_path(model, conditions.path, allows)
        # Always a pair, never keywords: a keyword could be one of Django's own.
        return f"{conditions.path}{LOOKUP_SEP}{conditions.lookup}", _value(model, conditions, allows)
    joined = Q(*(_build(model, part, allows) for part in conditions.parts), _connector=conditions.connector)
    return ~joined if conditions.negated else joined


def _value(model: type[Model], condition: Condition, allows: Allows) -> object:
    if condition.column is not None:
        check_path(model, condition.column, allows)
        return F(condition.column)
    return condition.value


def _with_q(part: Q | _Pair) -> Q:
    return part if isinstance(part, Q) else Q(part)


def _load(rows: QuerySet[Any], description: Description) -> QuerySet[Any]:
    """The rows with what is loaded along with them, or left out."""
    model = rows.model
    for path in (*description.only, *description.deferred, *description.select_related):
        check_path(model, path, None)
    for path in description.prefetch_related:
        _check_accessors(model, path)
    if description.distinct:
        rows = rows.distinct()
    if description.only:
        rows = rows.only(*description.only)
    if description.deferred:
        rows = rows.defer(*description.deferred)
    if description.select_related:
        rows = rows.select_related(*description.select_related)
    if description.prefetch_related:
        rows = rows.prefetch_related(*description.prefetch_related)
    return rows


def _check_accessors(model: type[Model], path: str) -> None:
    """See that a path is one of relations: Django takes these names as attributes of instances, whatever they are."""
    names = path.split(LOOKUP_SEP)
    if len(names) > MAX_HOPS:
        raise refused("a path over too many relations")
    while names:
        name, *names = names
        found = [field for field in model._meta.get_fields() if field.is_relation and _accessor_of(field) == name]
        if not found:
            raise refused("a relation that the model does not have")
        if found[0].related_model is not None:
            model = target_of(found[0], None)
        elif names:
            raise refused("a path that goes on behind a generic foreign key")


def _accessor_of(field: Any) -> str | None:
    accessor: str | None = field.get_accessor_name() if field.auto_created and not field.concrete else field.name
    return accessor
