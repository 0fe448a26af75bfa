"""What every part of the demo stands on: its processes, its report, and ways to wait for something."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
SHOP: Final = ROOT / "examples" / "shop"
FOLDER: Final = ROOT / ".demo"
CLOCK_FILE: Final = FOLDER / "clock"
WAIT_SECONDS: Final = 20.0
KEEP: Final = os.environ.get("KEEP", "") not in {"", "0"}
"""Leave everything running at the end."""


@dataclass(frozen=True)
class Line:
    """One line of the report."""

    what: str
    expected: str
    observed: str

    @property
    def holds(self) -> bool:
        """Whether what was expected was observed."""
        return self.expected == self.observed


class Stage:
    """The processes of the demo, which end with it."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._logs = 0
        self.processes: list[subprocess.Popen[str]] = []
        self.environment: dict[str, str] = {}

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Start a process that is stopped when the demo ends."""
        self._logs += 1
        log = self._stack.enter_context((FOLDER / f"process-{self._logs}.log").open("w"))
        process = subprocess.Popen(
            [sys.executable, *command],
            env=self._variables(environment),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=KEEP,
        )
        self.processes.append(process)
        self._stack.callback(self.stop, process)
        return process

    def start_site(self, *, port: int = 0, **environment: str) -> tuple[subprocess.Popen[str], str]:
        """Start the shop; the process, and where it is."""
        process = self.start(str(SHOP / "serve.py"), str(port), **{**environment, "SHOP_CLOCK_FILE": str(CLOCK_FILE)})
        return process, read_line(process)

    def stop(self, process: subprocess.Popen[str]) -> None:
        """Ask a process to end, and make sure that it does."""
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self, process: subprocess.Popen[str]) -> int:
        """End a process as a crash of its machine would; the signal that it died of."""
        process.kill()
        self.processes.remove(process)
        return -process.wait()

    def manage(self, *command: str, check: bool = True) -> int:
        """Run a command of the shop's in a process of its own; its exit status."""
        return subprocess.run(
            [sys.executable, str(SHOP / "manage.py"), *command], env=self._variables({}), check=check
        ).returncode

    def reserve_port(self) -> int:
        """A port that nobody else gets while the shop, which is to listen there, is dead."""
        reserved = self._stack.enter_context(socket.socket())
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        return int(reserved.getsockname()[1])

    def _variables(self, more: dict[str, str]) -> dict[str, str]:
        # What an earlier demo had exported, or another project, is not this one's.
        others = {name: value for name, value in os.environ.items() if not name.startswith("SHOP_")}
        ours = {"DJANGO_SETTINGS_MODULE": "shopsite.settings", "SHOP_FOLDER": str(FOLDER)}
        return {**others, **self.environment, **ours, **more}


class Shop:
    """The running processes, and this one as their customer."""

    def __init__(self, origin: str, environment: dict[str, str] | None = None) -> None:
        self.origin = origin
        if environment is None:
            return
        os.environ.pop("SHOP_STORE", None)
        os.environ.update(environment, SHOP_HANDLER_URL=f"{origin}/_safedefer/", SHOP_FOLDER=str(FOLDER))
        os.environ["DJANGO_SETTINGS_MODULE"] = "shopsite.settings"
        sys.path.insert(0, str(SHOP))
        import django  # noqa: PLC0415  # The settings need the addresses above.

        django.setup()

    def use(self, store: str = "orm") -> None:
        """Let what this process defers go to this site."""
        from django.conf import settings  # noqa: PLC0415  # Django is set up by now.

        from safedefer.django.setup import start  # noqa: PLC0415

        settings.SAFEDEFER = {"HANDLER_URL": f"{self.origin}/_safedefer/", "STORE": store}
        start()

    def audit(self) -> list[dict[str, Any]]:
        """The audit events of the site so far."""
        path = FOLDER / "audit.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line)["audit"] for line in lines]

    def count(self, *reasons: str) -> int:
        """How many audit events have one of these reasons."""
        return sum(event["reason"] in reasons for event in self.audit())

    def count_tasks(self, reason: str, *, behind: int) -> int:
        """How many tasks have an audit event of this reason, behind so many events."""
        return len({event["task_id"] for event in self.audit()[behind:] if event["reason"] == reason})

    def count_executed(self, function: str) -> int:
        """How many dispatches have executed a function."""
        return sum(event["reason"] == "executed" and event["function"] == function for event in self.audit())


def read_line(process: subprocess.Popen[str]) -> str:
    """The next line of a process's output, or the end of the demo with what it had to say."""
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        logs = "".join(path.read_text() for path in sorted(FOLDER.glob("process-*.log")))
        raise SystemExit(f"{' '.join(str(part) for part in process.args)} did not start:\n{logs}")  # type: ignore[union-attr]
    return line


def read_exports(process: subprocess.Popen[str]) -> Iterator[tuple[str, str]]:
    """The variables that the local cloud asks to export."""
    while (line := read_line(process)).startswith("export "):
        name, _, value = line.removeprefix("export ").partition("=")
        yield name, value


def wait_until(what: str, count: Callable[[], int], wanted: int) -> int:
    """Wait until a count is reached, showing it; the last count seen."""
    until = time.monotonic() + WAIT_SECONDS
    while (seen := count()) < wanted and time.monotonic() < until:
        progress(f"  {seen} of {wanted} {what}")
        time.sleep(0.05)
    progress(f"  {seen} of {wanted} {what}", end="\n")
    return seen


def wait_for(what: str, look: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
    """Wait until something is found."""
    until = time.monotonic() + WAIT_SECONDS
    while (found := look()) is None and time.monotonic() < until:
        time.sleep(0.05)
    say(f"  {what}: {'seen' if found else 'NOT seen'}")
    return found or {"reason": "nothing"}


def print_report(report: list[Line], seconds: float) -> None:
    """The report."""
    width = max(len(line.what) for line in report)
    say("")
    for line in report:
        mark = "ok  " if line.holds else "FAIL"
        wanted = "" if line.holds else f"   (expected {line.expected})"
        say(f"{mark}  {line.what:<{width}}  {line.observed}{wanted}")
    failed = sum(not line.holds for line in report)
    say("")
    say(f"{len(report) - failed} of {len(report)} as expected, in {seconds:.1f} s. Audit log: .demo/audit.jsonl")


def say(text: str) -> None:
    """Print a line."""
    print(text, flush=True)


def progress(text: str, end: str = "") -> None:
    """Show how far something is: in place on a terminal, once where there is none."""
    if sys.stdout.isatty():
        print(f"\r{text}", end=end, flush=True)
    elif end:
        print(text, end=end, flush=True)
