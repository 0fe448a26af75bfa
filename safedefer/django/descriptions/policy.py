"""Whose rows may be walked, and asked about, through a description."""

from dataclasses import dataclass
from typing import Final, final

from django.db.models import Model

PRIVATE_APPS: Final = frozenset({"auth", "sessions", "admin"})
"""Apps whose rows nobody may ask about by a path, unless they are named; a registered function may."""


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
        # A proxy and a child have rows, or parts of them, of other apps.
        behind = [model._meta.concrete_model or model, *model._meta.all_parents]
        apps = {app, *(other._meta.app_label for other in behind)}
        return "*" in self.models and not apps & PRIVATE_APPS
