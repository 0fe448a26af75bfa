"""`manage.py safedefer_overflow purge`: remove expired records, where no TTL policy of Datastore does it."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from safedefer.core.records import RecordKind
from safedefer.errors import ConfigurationError, StoreUnavailableError
from safedefer.flow.overflow import purge_expired
from safedefer.flow.runtime import current_runtime


class Command(BaseCommand):
    """Remove stored bodies that nobody will ask for, and ledger rows that nothing can come for any more."""

    help = "Remove expired records: bodies kept outside their tasks, and rows of the ledger. Run it once a day."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take `purge`."""
        parser.add_argument("action", choices=("purge",))

    def handle(self, *args: Any, action: str, **options: Any) -> None:  # noqa: ARG002
        """Print how many records of each kind were looked at and removed."""
        try:
            runtime = current_runtime()
            now = runtime.clock.time()
            for kind in RecordKind:
                removed = list(purge_expired(runtime.records, kind, now))
                self.stdout.write(f"{kind.value}: removed {sum(removed)} of {len(removed)}")
        except (ConfigurationError, StoreUnavailableError) as error:
            raise CommandError(str(error)) from None
