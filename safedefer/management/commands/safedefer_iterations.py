"""`manage.py safedefer_iterations`: how far iterations are, and pause, resume, cancel."""

import time
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError

from safedefer.core.iteration.drawing import describe_progress
from safedefer.core.iteration.state import Run
from safedefer.django.progress_display import ProgressDisplay, read_frame
from safedefer.errors import SafeDeferError, StoreUnavailableError
from safedefer.flow.iteration_walk import read_run
from safedefer.flow.iterations import Iteration, UnreadableRun, list_runs, progress_of, sweep_iterations
from safedefer.flow.runtime import Runtime, current_runtime

_SECOND: Final = 1.0


class Command(BaseCommand):
    """Lists iterations, shows one as it goes on, and changes its course."""

    help = "How far iterations are; pause, resume or cancel them."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """What to do, and with which iteration."""
        actions = parser.add_subparsers(dest="action", required=True)
        actions.add_parser("list", help="one line for each")
        show = actions.add_parser("show", help="one, with a bar for each shard")
        show.add_argument("id", help="as `list` gives it")
        show.add_argument(
            "--watch",
            action="store_true",
            help="until it has ended: drawn over in a terminal, else a line now and then",
        )
        actions.add_parser("sweep", help="give what has been silent for 45 minutes a new task")
        for name, text in (
            ("pause", "let no slice begin; those under way end at their next checkpoint"),
            ("resume", "go on after a pause, or a halt"),
            ("cancel", "end it without its finalize"),
        ):
            actions.add_parser(name, help=text).add_argument("id", nargs="+", help="as `list` gives them")

    def handle(self, *, action: str, **options: Any) -> None:
        """Do it.

        Raises:
            CommandError: Something was not done; the message says what.
        """
        try:
            runtime = current_runtime()
            if action == "list":
                self._list(runtime)
            elif action == "show":
                self._show(runtime, options["id"], watch=options["watch"])
            elif action == "sweep":
                self._sweep(runtime)
            else:
                self._change(options["id"], action)
        except SafeDeferError as error:
            raise CommandError(str(error)) from None

    def _list(self, runtime: Runtime) -> None:
        count = 0
        for run in list_runs(runtime):
            count += 1
            self.stdout.write(_describe(runtime, run))
        self.stdout.write(f"{count} iterations")

    def _change(self, ids: Sequence[str], action: str) -> None:
        problems: list[str] = []
        for iteration_id in ids:
            try:
                getattr(Iteration(iteration_id), action)()
            except SafeDeferError as error:
                problems.append(f"{iteration_id}: {error}")
            else:
                self.stdout.write(f"{iteration_id}: {action} was asked for")
        if problems:
            raise CommandError("\n".join(problems))

    def _sweep(self, runtime: Runtime) -> None:
        report = sweep_iterations(runtime)
        self.stdout.write(f"{report.woken} tasks created anew, {report.failed} iterations failed")
        if report.failed:
            raise CommandError(f"{report.failed} iterations could not be looked after; the log says why")

    def _show(self, runtime: Runtime, iteration_id: str, *, watch: bool) -> None:
        run = self._read(runtime, iteration_id)
        self.stdout.write(run.id.hex())
        if not watch:
            self.stdout.write("\n".join(read_frame(runtime, run).lines))
            return
        display = ProgressDisplay(self.stdout)
        while True:
            frame = read_frame(runtime, run)
            display.show(frame)
            if frame.ended:
                return
            time.sleep(_SECOND)
            found = read_run(runtime, run.id)
            if found is None:
                self.stdout.write("it has ended, and its records are removed")
                return
            run = found

    def _read(self, runtime: Runtime, iteration_id: str) -> Run:
        run = read_run(runtime, Iteration(iteration_id).run_id)
        if run is None:
            raise CommandError("there is no such iteration, or its records are removed")
        return run


def _describe(runtime: Runtime, run: Run | UnreadableRun) -> str:
    if isinstance(run, UnreadableRun):
        return f"{run.id}  {run.problem}"
    try:
        return f"{run.id.hex()}  {describe_progress(progress_of(runtime, run))}"
    except StoreUnavailableError as error:
        return f"{run.id.hex()}  {run.state.value}; {error}"
