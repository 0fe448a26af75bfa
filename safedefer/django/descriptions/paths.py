"""Paths of columns: from the joins of a query to names, and from names to a place in the models, under a policy."""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from django.core.exceptions import FieldDoesNotExist
from django.db.models import Field, JSONField, Model, Transform
from django.db.models.constants import LOOKUP_SEP
from django.db.models.expressions import Col, ColPairs
from django.db.models.fields.json import KeyTransform
from django.db.models.sql import Query

from safedefer.core.iteration.description import PRIVATE_FIELDS
from safedefer.core.limits import MAX_RELATED_DEPTH
from safedefer.errors import ArgumentsRefusedError, Reason

TRANSFORMS: Final = frozenset(
    {
        "date",
        "time",
        "year",
        "iso_year",
        "month",
        "day",
        "week",
        "week_day",
        "iso_week_day",
        "quarter",
        "hour",
        "minute",
        "second",
    }
)
"""What a path may make of a date or a time."""

REFUSED: Final = "the description of a queryset has "
_MAX_JSON_KEYS: Final = 8


Allows: TypeAlias = Callable[[type[Model]], bool]
"""Whether rows of a model may be asked about."""

MAX_HOPS: Final = 2 * MAX_RELATED_DEPTH
"""Relations on a path; one of many to many is two."""


class UndescribedError(Exception):
    """A part of a query that has no description; its text completes "because of ..."."""


def joins_to(query: Query, alias: str) -> list[Any]:
    """The fields that lead from the table of the query's model to an alias."""
    fields: list[Any] = []
    while True:
        table: Any = query.alias_map.get(alias)
        if table is None or getattr(table, "filtered_relation", None) is not None:
            raise UndescribedError("a join that belongs to no relation")
        if table.parent_alias is None:
            return fields[::-1]
        fields.append(table.join_field)
        alias = table.parent_alias


def path_of(query: Query, expression: Any, model: type[Model], before: Sequence[Any] = ()) -> str:
    """The path of what a condition looks at.

    Args:
        query: Whose aliases it speaks of.
        expression: A column, or transforms and JSON keys over one.
        model: Where the path begins.
        before: Fields that lead from there to the query's own model, where it is a subquery.
    """
    after: list[str] = []
    while isinstance(expression, Transform):
        after.append(_name_of(expression))
        expression = expression.lhs
    if isinstance(expression, ColPairs):
        names = _composite(query, expression)
    elif type(expression) is Col:
        target: Any = expression.target
        fields = [*before, *joins_to(query, expression.alias)]
        # The column of a relation is one more step: with the one before, it may be a relation of many to many.
        names = _names(model, [*fields, target]) if target.is_relation else [*_names(model, fields), target.attname]
    else:
        raise UndescribedError(f"an expression ({type(expression).__name__})")
    return LOOKUP_SEP.join([*names, *reversed(after)])


def _names(model: type[Model], fields: list[Any]) -> list[str]:
    """The names that filters know a way from field to field by; a relation of many to many takes two at once."""
    names: list[str] = []
    while fields:
        candidates = [
            (field.name, infos)
            for field in model._meta.get_fields(include_hidden=True)
            if (infos := getattr(field, "path_infos", None))
            and [info.join_field for info in infos] == fields[: len(infos)]
        ]
        if not candidates:
            raise UndescribedError("a join that belongs to no relation")
        name, infos = max(candidates, key=lambda candidate: len(candidate[1]))
        names.append(name)
        model, fields = infos[-1].to_opts.model, fields[len(infos) :]
    return names


def _name_of(transform: Transform) -> str:
    if isinstance(transform, KeyTransform):
        return str(transform.key_name)
    name = transform.lookup_name
    if name not in TRANSFORMS or getattr(transform, "tzinfo", None) is not None:
        raise UndescribedError(f"a function ({type(transform).__name__})")
    return str(name)


def _composite(query: Query, columns: ColPairs) -> list[str]:
    if joins_to(query, columns.alias):
        raise UndescribedError("a relation over several columns")
    return ["pk"]


def innermost(expression: Any) -> Col | None:
    """The column that transforms are made of; None where there is none."""
    while isinstance(expression, Transform):
        expression = expression.lhs
    return expression if type(expression) is Col else None


def check_path(model: type[Model], path: str, allows: Allows | None) -> None:
    """See that a path names what the model has, and asks about no rows but those that are allowed.

    Args:
        allows: None where nothing is asked: what is loaded with the rows tells nothing to who chose it.
    Raises:
        ArgumentsRefusedError: `ARGUMENTS_MISMATCH`.
    """
    names = path.split(LOOKUP_SEP)
    place: type[Model] | Any = model
    hops = json_keys = 0
    while names:
        name, *names = names
        if isinstance(place, JSONField):
            json_keys += 1
            if json_keys > _MAX_JSON_KEYS:
                raise refused("too many keys in JSON")
        elif isinstance(place, type):
            field = find_field(place, name)
            if allows is not None and field.name in PRIVATE_FIELDS:
                raise refused("a field that may not be asked about")
            # A foreign key at the end is a column of the table at hand, and tells nothing of the other.
            is_left = field.is_relation and (names or not field.concrete or field.many_to_many)
            place = target_of(field, allows) if is_left else field
            hops += bool(names) and field.is_relation and not is_parent_link(field)
            if hops > MAX_HOPS:
                raise refused("a path over too many relations")
        else:
            transform = place.get_transform(name) if name in TRANSFORMS else None
            if transform is None:
                raise refused("a transform that the field does not have")
            place = getattr(transform, "output_field", None) or place


def find_field(model: type[Model], name: str) -> Any:
    """A field or relation of a model, by the name that filters know it by."""
    if name == "pk":
        return model._meta.pk
    if name.endswith("+"):
        raise refused("a relation that has no name")
    try:
        return model._meta.get_field(name)
    except FieldDoesNotExist:
        raise refused("a field that the model does not have") from None


def target_of(field: Any, allows: Allows | None) -> type[Model]:
    """The model that a relation leads to, if it may be asked about."""
    infos = getattr(field, "path_infos", None)
    if not infos:
        raise refused("a relation that cannot be asked about")
    model: type[Model] = infos[-1].to_opts.model
    if allows is not None and not (model._meta.auto_created or is_parent_link(field) or allows(model)):
        raise refused("rows that may not be asked about")
    return model


def is_parent_link(field: Any) -> bool:
    """Whether a field leads from a child in multi-table inheritance to its parent, which is the same row."""
    return isinstance(field, Field) and bool(getattr(field.remote_field, "parent_link", False))


def refused(problem: str) -> ArgumentsRefusedError:
    """The refusal of a description."""
    return ArgumentsRefusedError(Reason.ARGUMENTS_MISMATCH, f"{REFUSED}{problem}")
