"""`manage.py safedefer_queues`: show the queues, compare them with the QUEUES setting, or make them so."""

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Final

from django.conf import settings as django_settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from safedefer.core.ports import QueueAdmin
from safedefer.core.queues import QueueValue
from safedefer.django.conf import Settings, read_settings
from safedefer.django.setup import make_queue_admin
from safedefer.errors import ConfigurationError, QueueUnavailableError
from safedefer.flow.queues import QueueOutcome, QueueReport, compare_queues, synchronise_queues

_WITHIN: Final = timedelta(seconds=20)
_DIFFERENT: Final = 1
_FAILED: Final = 2


class Command(BaseCommand):
    """List the queues of the project, tell how they differ from the setting, or create and update them."""

    help = (
        "Create and update the queues of SAFEDEFER['QUEUES'] or CLOUD_TASKS_QUEUES (sync), show what that would do "
        "(diff, which exits with 1 where there is something to do), or show all queues (list). "
        "Exits with 2 where Cloud Tasks refuses or does not answer."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take `sync`, `diff` or `list`."""
        parser.add_argument("action", choices=("sync", "diff", "list"))

    def handle(self, *args: Any, action: str, **options: Any) -> None:  # noqa: ARG002
        """Print how each queue stands.

        Raises:
            CommandError: Something differs, or could not be found out or done.
        """
        settings = _read_settings()
        try:
            admin = make_queue_admin(settings)
            if action == "list":
                self._list(admin, settings)
                return
        except (ConfigurationError, QueueUnavailableError) as error:
            raise CommandError(str(error), returncode=_FAILED) from None
        if not settings.queues:
            self.stdout.write("No queue is named in SAFEDEFER['QUEUES'] or CLOUD_TASKS_QUEUES.")
        visit = synchronise_queues if action == "sync" else compare_queues
        reports = visit(admin, settings.queues, within=_WITHIN)
        for report in reports:
            self.stdout.write("\n".join(_lines(report)))
        _raise_for(reports)

    def _list(self, admin: QueueAdmin, settings: Settings) -> None:
        managed = {spec.name for spec in settings.queues}
        for queue in admin.all(within=_WITHIN):
            self.stdout.write(f"{queue.name}: {queue.state}{', managed' if queue.name in managed else ''}")
            for field, value in queue.values.items():
                self.stdout.write(f"    {field.value:<24}{_shown(value)}")


def _read_settings() -> Settings:
    settings, problems = read_settings(django_settings, os.environ)
    if settings is None:
        errors = " ".join(str(problem) for problem in problems if problem.is_error)
        raise CommandError(f"safedefer is not configured: {errors}", returncode=_FAILED)
    return settings


def _lines(report: QueueReport) -> Iterable[str]:
    yield f"{report.name}: {report.outcome.value}{': ' if report.problem else ''}{report.problem}"
    for difference in report.differences:
        yield f"    {difference.field.value:<24}{_shown(difference.present)} -> {_shown(difference.wanted)}"


def _shown(value: QueueValue) -> str:
    return f"{value.total_seconds():g} s" if isinstance(value, timedelta) else f"{value:g}"


def _raise_for(reports: Iterable[QueueReport]) -> None:
    outcomes = [report.outcome for report in reports]
    failed = outcomes.count(QueueOutcome.FAILED)
    if failed:
        raise CommandError(f"{failed} of {len(outcomes)} queues failed.", returncode=_FAILED)
    different = outcomes.count(QueueOutcome.MISSING) + outcomes.count(QueueOutcome.DIFFERENT)
    if different:
        raise CommandError(f"{different} of {len(outcomes)} queues are not as wanted.", returncode=_DIFFERENT)
