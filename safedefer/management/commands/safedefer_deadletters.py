"""manage.py safedefer_deadletters: calls that were given up."""

from argparse import ArgumentParser
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from safedefer.core.deadletter import DeadLetter
from safedefer.errors import DeadLetterError, SafeDeferError
from safedefer.flow.deadletters import find_letter, list_letters
from safedefer.flow.redrive import purge_letter, redrive_letter
from safedefer.flow.runtime import Runtime, current_runtime


class Command(BaseCommand):
    """Lists, shows, drives again and purges dead letters. Arguments of calls are never shown."""

    help = "Calls that were given up: list, show, drive again, or purge them."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """What to do, and with which letters."""
        actions = parser.add_subparsers(dest="action", required=True)
        listing = actions.add_parser("list", help="one line for each")
        listing.add_argument("--function", help="only those of this function name")
        show = actions.add_parser("show", help="all that is known of one")
        show.add_argument("id", help="task id, as `list` gives it")
        for name, text in (
            ("redrive", "defer the calls again, as new tasks; only what a live key vouches for"),
            ("purge", "remove them for good"),
        ):
            action = actions.add_parser(name, help=text)
            action.add_argument("id", nargs="*", help="task ids, as `list` gives them")
            action.add_argument("--all", action="store_true", help="all of them")
            action.add_argument("--function", help="all of this function name")
            if name == "redrive":
                action.add_argument(
                    "--force", action="store_true", help="also what the ledger may have forgotten the execution of"
                )

    def handle(self, *, action: str, **options: Any) -> None:
        """Do it.

        Raises:
            CommandError: Something was not done; the message says what.
        """
        try:
            self._act(current_runtime(), action, options)
        except SafeDeferError as error:
            raise CommandError(str(error)) from None

    def _act(self, runtime: Runtime, action: str, options: dict[str, Any]) -> None:
        if action == "list":
            self._list(_of_function(list_letters(runtime.records), options["function"]))
        elif action == "show":
            self._show(find_letter(runtime.records, options["id"]))
        else:
            self._each(runtime, action, _chosen(runtime, options), force=options.get("force", False))

    def _list(self, letters: Iterable[DeadLetter]) -> None:
        count = 0
        for count, letter in enumerate(letters, start=1):  # noqa: B007  # Read below.
            self.stdout.write(f"{_time(letter)}  {letter.id}  {letter.function or '(unsigned)'}  {_why(letter)}")
        self.stdout.write(f"{count} dead letters")

    def _show(self, letter: DeadLetter) -> None:
        for name, value in (
            ("id", letter.id),
            ("function", letter.function or "unknown: no live key vouched for it"),
            ("queue", letter.queue),
            ("given up", _time(letter)),
            ("why", _why(letter)),
            ("executions", letter.attempts),
            ("envelope", f"{letter.size_bytes:,} bytes, SHA-256 {letter.sha256.hex()}"),
        ):
            self.stdout.write(f"{name:<11}{value}")

    def _each(self, runtime: Runtime, action: str, ids: list[str], *, force: bool) -> None:
        failed = 0
        for letter_id in ids:
            try:
                if action == "redrive":
                    self.stdout.write(f"{letter_id} runs again as {redrive_letter(runtime, letter_id, force=force)}")
                else:
                    purge_letter(runtime, letter_id)
                    self.stdout.write(f"{letter_id} removed")
            except DeadLetterError as error:
                failed += 1
                self.stderr.write(f"{letter_id}: {error}")
        if failed:
            raise CommandError(f"{failed} of {len(ids)} could not be done")


def _chosen(runtime: Runtime, options: dict[str, Any]) -> list[str]:
    if not (options["id"] or options["all"] or options["function"]):
        raise CommandError("name the dead letters by their ids, or give --all or --function NAME")
    if options["id"]:
        return list(options["id"])
    return [letter.id for letter in _of_function(list_letters(runtime.records), options["function"])]


def _of_function(letters: Iterable[DeadLetter], name: str | None) -> Iterator[DeadLetter]:
    return (letter for letter in letters if name is None or letter.function.rpartition(" v")[0] == name)


def _time(letter: DeadLetter) -> str:
    return f"{datetime.fromtimestamp(letter.buried_at, UTC):%Y-%m-%d %H:%M:%SZ}"


def _why(letter: DeadLetter) -> str:
    return f"{letter.reason.value} ({letter.detail})" if letter.detail else letter.reason.value
