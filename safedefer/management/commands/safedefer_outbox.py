"""`manage.py safedefer_outbox run`: send what a crash left in the outbox, without waiting for a sweep."""

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from safedefer.errors import SafeDeferError
from safedefer.flow.outbox import relay_waiting
from safedefer.flow.runtime import current_runtime


class Command(BaseCommand):
    """Send the sealed calls that committed transactions have left in the outbox."""

    help = "Send calls that were committed but not sent, since their process died. Sweeps do it on their own."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take `run`, and from which age on."""
        parser.add_argument("action", choices=("run",))
        parser.add_argument(
            "--older-than", type=int, default=30, metavar="SECONDS", help="leave younger calls to their own process"
        )

    def handle(self, *args: Any, action: str, older_than: int, **options: Any) -> None:  # noqa: ARG002
        """Print how many were sent, given up, and left."""
        try:
            report = relay_waiting(current_runtime(), older_than=timedelta(seconds=older_than))
        except SafeDeferError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"{report.sent} sent, {report.buried} given up, {report.left} left")
        if report.left:
            raise CommandError(f"{report.left} calls could not be sent yet; the log says why")
