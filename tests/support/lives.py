"""A site whose worker is a process that dies when it is told to, and a clock that all of it shares."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TextIO

from django.db import connections
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport
from google.protobuf.field_mask_pb2 import FieldMask

from safedefer.emulator import LocalCloud
from safedefer.emulator import ManualClock as CloudClock
from safedefer.flow.runtime import Runtime
from tests.site.shop.models import Trace
from tests.support.channels import open_channel
from tests.support.mortals import Death
from tests.support.site import WAIT_SECONDS

QUEUE: Final = "projects/local/locations/local1/queues/default"
STEP_SECONDS: Final = 700.0
"""Longer than a lease, so that each step brings whatever was put off in the one before."""
MOST_STEPS: Final = 300


@dataclass
class Prefork:
    """The parent of the workers on one database."""

    alias: str
    origin: str
    process: "subprocess.Popen[str]"
    log: TextIO

    def tell(self, line: str) -> None:
        """Send it a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """What it writes next."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.log.seek(0)
        assert line, self.log.read()
        return line.strip()


@contextmanager
def open_prefork(alias: str, folder: Path, environment: dict[str, str]) -> Iterator[Prefork]:
    """Start it on a database of this test run; it ends with its standard input."""
    settings = connections[alias].settings_dict
    database = {name: settings[name] for name in ("ENGINE", "USER", "HOST", "OPTIONS")}
    environment = {
        **os.environ,
        **environment,
        "DJANGO_SETTINGS_MODULE": "tests.site.worker_settings",
        "WORKER_DATABASE": json.dumps({**database, "NAME": str(settings["NAME"])}),
    }
    command = [sys.executable, "-W", "error", "-m", "tests.support.prefork"]
    with (folder / f"{alias}.log").open("w+") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        with process:
            prefork = Prefork(alias, "", process, log)
            prefork.origin = prefork.hear()
            yield prefork


@dataclass
class Lives:
    """One test's cloud, clock and worker.

    Attributes:
        runtime: That of the test's own process, which only defers and looks.
        clock_file: From which the worker reads the cloud's time.
    """

    prefork: Prefork
    cloud: LocalCloud
    clock: CloudClock
    clock_file: Path
    store: str
    runtime: Runtime
    running: bool = field(default=False, init=False)

    def begin(self, deaths: Sequence[Death] = (), *, row_seconds: float = 0.4) -> None:
        """Have a worker serve, and die of one after the other."""
        job: dict[str, Any] = {
            "environment": self.cloud.environment(),
            "store": self.store,
            "clock": str(self.clock_file),
            "row_seconds": row_seconds,
            "deaths": deaths,
        }
        self.prefork.tell(json.dumps(job))
        self.running = True

    def end(self) -> int:
        """Stop the worker; gives how often it was killed."""
        self.running = False
        self.prefork.tell("end")
        return int(self.prefork.hear())

    def run_dry(self) -> None:
        """Let time pass until no task is left."""
        with open_channel(self.cloud.tasks.address) as channel:
            client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
            for _ in range(MOST_STEPS):
                assert self.cloud.tasks.wait_settled(WAIT_SECONDS), "the local cloud did not settle"
                if not list(client.list_tasks(parent=QUEUE)):
                    return
                self.advance(STEP_SECONDS)
        raise AssertionError("tasks are left")

    def advance(self, seconds: float) -> None:
        """Let time pass: for the worker first, so that nothing comes to it before its time."""
        write_time(self.clock_file, self.clock.now().timestamp() + seconds)
        self.clock.advance(seconds)

    def traces(self) -> list[str]:
        """What happened, in its order."""
        return list(Trace.objects.using(self.prefork.alias).order_by("pk").values_list("text", flat=True))


def write_time(path: Path, seconds: float) -> None:
    """Replace the time in a file, which may be read at any moment."""
    new = path.with_suffix(".new")
    new.write_text(repr(seconds))
    new.replace(path)


@contextmanager
def open_cloud(folder: Path, *, seed: int = 0, at_once: int = 1) -> Iterator[tuple[LocalCloud, CloudClock, Path]]:
    """A cloud whose clock moves only when told, with the file that says its time.

    Args:
        at_once: How many dispatches.
    """
    clock = CloudClock(datetime.now(UTC))
    clock_file = folder / "time"
    write_time(clock_file, clock.now().timestamp())
    with LocalCloud(queues=[QUEUE], clock=clock, seed=seed) as cloud:
        with open_channel(cloud.tasks.address) as channel:
            client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
            queue = tasks_v2.Queue(name=QUEUE, rate_limits={"max_concurrent_dispatches": at_once})
            mask = FieldMask(paths=["rate_limits.max_concurrent_dispatches"])
            client.update_queue(queue=queue, update_mask=mask)
        yield cloud, clock, clock_file
