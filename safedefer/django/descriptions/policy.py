"""Whose rows may be walked, and asked about, through a description."""

from dataclasses import dataclass
from typing import Final, final

from django.db.models import Model

PRIVATE_APPS: Final = frozenset({"auth", "sessions", "admin"})
"""Apps whose rows nobody may ask about by a path, unless they are named; a registered function may."""

PRIVATE_FIELDS: Final = frozenset({"password"})
"""Fields that no condition may look at, in any model."""


@final
@dataclass(frozen=True, slots=True)
class DescriptionPolicy:
    """Which querysets may travel as descriptions.

    Attributes:
        models: Labels as `shop.order`, whole apps as `shop.*`, or `*` for all but the private apps; in lower case.
    """

    models: frozenset[str] = frozenset({"*"})

    @property
    def is_off(self) -> bool:
        """Whether none may."""
        return not self.models

    def allows(self, model: type[Model]) -> bool:
        """Whether rows of a model may be walked, or asked about."""
        app = model._meta.app_label
        if model._meta.label_lower in self.models or f"{app.lower()}.*" in self.models:
            return True
        return "*" in self.models and app not in PRIVATE_APPS
