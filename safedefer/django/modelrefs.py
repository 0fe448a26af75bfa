"""Model instance <-> reference by primary key. Rows are loaded fresh, those of one model and alias in one query."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, TypeGuard, final

from django.apps import apps
from django.core.exceptions import ValidationError
from django.db import DEFAULT_DB_ALIAS, DatabaseError, DataError, InterfaceError, connections
from django.db.models import Model

from safedefer.core.limits import MAX_RELATED, MAX_RELATED_DEPTH
from safedefer.core.references import ModelReference
from safedefer.errors import ArgumentsRefusedError, Reason, UnavailableError

_IN_ONE_QUERY: Final = 500
"""Primary keys in one `IN (...)`; SQLite and others bound the number of parameters."""


@final
class RowsUnavailableError(UnavailableError):
    """The database did not answer."""


@final
class DjangoReferences:
    """ReferenceResolver over Django's models."""

    def is_model(self, cls: type) -> bool:
        """Whether a class is a model; an abstract one stands for its subclasses, `Model` itself for none."""
        return _is_model(cls) and cls is not Model

    def allows(self, label: str, cls: type) -> bool:
        """Whether a label is that of an installed, concrete model which is `cls` or a subclass of it."""
        model = _find_model(label)
        return model is not None and issubclass(model, cls)

    def reference(self, instance: object, *, with_related: bool = False) -> ModelReference:
        """The reference of a saved instance. The instance keeps its caches."""
        if not isinstance(instance, Model):
            raise ValueError("is no model instance")  # noqa: TRY004  # The port's error.
        meta = instance._meta
        if instance.pk is None or instance._state.adding:
            raise ValueError(f"this {meta.object_name} is not saved yet; save it before it is deferred")
        if _find_model(meta.label_lower) is None:
            raise ValueError(f"{meta.object_name} is not the model of an installed app")
        using = instance._state.db or DEFAULT_DB_ALIAS
        related = tuple(islice(_loaded_relations(instance), MAX_RELATED)) if with_related else ()
        return ModelReference(label=meta.label_lower, using=using, key=_key(instance), related=related)

    def resolve(self, references: Iterable[ModelReference]) -> Mapping[ModelReference, object]:
        """Load the rows through each model's base manager, which hides no row."""
        groups: dict[tuple[str, str, tuple[str, ...]], list[ModelReference]] = defaultdict(list)
        for reference in references:
            groups[reference.label, reference.using, reference.related].append(reference)
        rows: dict[ModelReference, object] = {}
        for (label, using, related), group in groups.items():
            rows.update(_load_group(label, using, related, group))
        return rows


def _load_group(
    label: str, using: str, related: tuple[str, ...], group: list[ModelReference]
) -> dict[ModelReference, object]:
    model = _find_model(label)
    if model is None or using not in connections:
        raise ArgumentsRefusedError(Reason.ARGUMENTS_MISMATCH, "a reference to an alias or model that is gone")
    # A relation that is no more loads nothing: it was there to save a query, and no more.
    known = [path for path in related if _is_relation(model, path)]
    by_key = {reference.key: reference for reference in group}
    rows: dict[ModelReference, object] = {}
    keys = list(by_key)
    try:
        for start in range(0, len(keys), _IN_ONE_QUERY):
            found = model._base_manager.using(using).filter(pk__in=keys[start : start + _IN_ONE_QUERY])
            if known:
                found = found.select_related(*known)
            for instance in found:
                reference = by_key.get(_key(instance))
                if reference is not None:
                    rows[reference] = instance
    except (ValueError, TypeError, OverflowError, ValidationError, DataError):
        # The key was written for another type of primary key than the model has now, or no database can hold it.
        raise ArgumentsRefusedError(Reason.ARGUMENTS_MISMATCH, f"a primary key that {label} cannot have") from None
    except (DatabaseError, InterfaceError) as error:
        raise RowsUnavailableError(f"rows of {label} could not be loaded") from error
    return rows


def _loaded_relations(instance: Model, prefix: str = "", depth: int = 1) -> Iterator[str]:
    """The relations to one row each whose rows an instance holds, and those that the rows hold in turn."""
    for name, field in _single_relations(type(instance)).items():
        if not field.is_cached(instance):
            continue
        row = field.get_cached_value(instance)
        if isinstance(row, Model):
            yield prefix + name
            if depth < MAX_RELATED_DEPTH:
                yield from _loaded_relations(row, f"{prefix}{name}__", depth + 1)


def _is_relation(model: type[Model], path: str) -> bool:
    """Whether a path leads over relations to one row each. It is compared with names; nothing is looked up by it."""
    names = path.split("__")
    for name in names:
        field = _single_relations(model).get(name)
        if field is None or field.related_model is None:
            return False
        model = field.related_model
    return len(names) <= MAX_RELATED_DEPTH


def _single_relations(model: type[Model]) -> dict[str, Any]:
    """Foreign keys and one-to-one relations, from either side, by name; the parents of inheritance are no relations."""
    return {
        field.name: field
        for field in model._meta.get_fields()
        if (field.many_to_one or field.one_to_one) and field.related_model is not None and not _is_parent_link(field)
    }


def _is_parent_link(field: Any) -> bool:
    return bool(getattr(field.remote_field, "parent_link", False) or getattr(field, "parent_link", False))


def _key(instance: Model) -> object:
    """The primary key as it travels: the value behind a relation, and of multi-table inheritance the parent's."""
    key: object = instance.pk
    while isinstance(key, Model):
        key = key.pk
    return tuple(key) if isinstance(key, list) else key


def _find_model(label: str) -> type[Model] | None:
    # A dict look-up among installed models; nothing is imported. Swapped and abstract models have no rows.
    app_label, _, model_name = label.partition(".")
    try:
        model = apps.get_model(app_label, model_name, require_ready=False)
    except (LookupError, ValueError):
        return None
    # Django finds a model in any case; a label has one form.
    known = model._meta.label_lower == label and not model._meta.abstract and not model._meta.swapped
    return model if known else None


def _is_model(cls: type) -> TypeGuard[type[Model]]:
    return issubclass(cls, Model)
