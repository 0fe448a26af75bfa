"""Rows as arguments: which row a value stands for, never the row itself."""

from dataclasses import dataclass, field
from typing import TypeGuard


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReference:
    """One row: its model's label, the database alias it lives on, its primary key.

    Attributes:
        label: `app_label.model_name` in lower case; looked up in the application's registry, never imported.
        using: The alias of the database.
        key: The primary key, a hashable value of the codec; a tuple for a composite key.
        related: Relations that are to be loaded with it, such as `author__publisher`, in their order.
    """

    label: str
    using: str
    key: object = field(repr=False)  # An argument, which no log may show.
    related: tuple[str, ...] = ()


def is_model_class(annotation: object) -> TypeGuard[type]:
    """Whether a class looks like a Django model, without needing Django.

    The sealing of the registry has the resolver confirm it.
    """
    return isinstance(annotation, type) and hasattr(getattr(annotation, "_meta", None), "label_lower")
