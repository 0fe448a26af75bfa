"""`manage.py safedefer_keys`: make a secret, or show the keys in use without their secrets."""

import base64
import secrets
from typing import Any, Literal

from django.core.management.base import BaseCommand, CommandError, CommandParser

from safedefer.core.limits import MIN_KEY_BYTES
from safedefer.errors import ConfigurationError
from safedefer.flow.runtime import current_runtime


class Command(BaseCommand):
    """Generate a secret for KEYS, or list the keys of this environment."""

    help = "Generate a secret for SAFEDEFER['KEYS'], or list the keys in use (never their secrets)."
    requires_system_checks: list[str] | tuple[str, ...] | Literal["__all__"] = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Take `generate` or `list`."""
        parser.add_argument("action", choices=("generate", "list"))

    def handle(self, *args: Any, action: str, **options: Any) -> None:  # noqa: ARG002
        """Print one secret, or a line for each key: its id on the wire, its state and its name."""
        if action == "generate":
            self.stdout.write(base64.urlsafe_b64encode(secrets.token_bytes(MIN_KEY_BYTES)).decode().rstrip("="))
            return
        try:
            ring = current_runtime().ring
        except ConfigurationError as error:
            raise CommandError(str(error)) from None
        for key in ring:
            self.stdout.write(f"{key.id.hex()}  {key.state.value:<9}  {key.name}")
