"""Queues of the setting: in order before the first task of every process, and by the command."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import grpc
import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from safedefer import defer
from safedefer.django.conf import read_settings
from safedefer.django.setup import build_runtime
from safedefer.emulator import LocalCloud
from safedefer.errors import QueueNotFoundError, QueueUnavailableError
from safedefer.flow.runtime import install, install_problem
from tests.site.shop import tasks
from tests.support.channels import open_channel
from tests.support.gateway import Gateway, open_gateway
from tests.support.site import site_settings

QUEUES = [{"name": "default", "rate_per_second": "5"}, {"name": "billing", "retry_max_backoff": 60}]
PARENT = "projects/local/locations/local1"
ROOT = Path(__file__).resolve().parents[2]
LATER = 3_600
PATIENCE_SECONDS = 120


@pytest.fixture
def cloud() -> Iterator[LocalCloud]:
    """A local cloud without a queue."""
    with LocalCloud() as cloud:
        yield cloud


@pytest.fixture
def gateway(cloud: LocalCloud) -> Iterator[Gateway]:
    with open_gateway(cloud.tasks.address) as gateway:
        yield gateway


@pytest.fixture
def client(cloud: LocalCloud) -> Iterator[tasks_v2.CloudTasksClient]:
    with open_channel(cloud.tasks.address) as channel:
        yield tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))


@pytest.fixture
def start(gateway: Gateway) -> Iterator[Callable[..., None]]:
    """Starts the site, as a new process would."""

    def start(address: str = gateway.address, **changes: object) -> None:
        given = site_settings("http://127.0.0.1:1", **{"QUEUES": QUEUES, **changes})
        settings, problems = read_settings(given, {"CLOUD_TASKS_EMULATOR_HOST": address})
        assert settings is not None, problems
        runtime = build_runtime(settings)
        install(lambda: runtime)

    yield start
    install_problem("this test has no site")


def later(text: str = "x", queue: str = "default") -> None:
    assert defer(tasks.note, text, _queue=queue, _countdown=LATER).created


def test_queues_are_in_order_before_the_first_task(
    start: Callable[..., None], gateway: Gateway, client: tasks_v2.CloudTasksClient
) -> None:
    start()
    assert gateway.calls == []  # A channel that was used before a fork would fail in the child.
    later(queue="billing")
    assert gateway.calls == ["GetQueue", "CreateQueue", "GetQueue", "CreateQueue", "CreateTask"]
    default = client.get_queue(name=f"{PARENT}/queues/default")
    assert (default.rate_limits.max_dispatches_per_second, default.retry_config.max_attempts) == (5, -1)
    later()
    assert gateway.calls[5:] == ["CreateTask"]


def test_process_that_finds_everything_in_order_writes_nothing(start: Callable[..., None], gateway: Gateway) -> None:
    for _ in range(2):
        gateway.calls.clear()
        start()
        later()
    assert gateway.calls == ["GetQueue", "GetQueue", "CreateTask"]


def test_changed_setting_is_brought_to_the_service(
    start: Callable[..., None], gateway: Gateway, client: tasks_v2.CloudTasksClient
) -> None:
    start()
    later()
    start(QUEUES=[{"name": "default", "rate_per_second": 9}])
    later()
    assert gateway.calls.count("UpdateQueue") == 1
    assert client.get_queue(name=f"{PARENT}/queues/default").rate_limits.max_dispatches_per_second == 9
    assert len(list(client.list_queues(parent=PARENT))) == 2


@pytest.mark.parametrize("changes", [{"SYNC_QUEUES": False}, {"QUEUES": []}])
def test_nothing_is_asked_where_nothing_is_to_be_synchronised(
    start: Callable[..., None], gateway: Gateway, changes: dict[str, object]
) -> None:
    start(**changes)
    with pytest.raises(QueueNotFoundError):
        later()
    assert gateway.calls == ["CreateTask"]


def test_missing_permission_is_a_warning_and_the_task_is_sent(
    start: Callable[..., None], gateway: Gateway, client: tasks_v2.CloudTasksClient, caplog: pytest.LogCaptureFixture
) -> None:
    client.create_queue(parent=PARENT, queue=tasks_v2.Queue(name=f"{PARENT}/queues/default"))
    gateway.refusals = dict.fromkeys(("GetQueue", "CreateQueue", "UpdateQueue"), grpc.StatusCode.PERMISSION_DENIED)
    start()
    later()
    (record,) = (record for record in caplog.records if record.name == "safedefer.queues")
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("not synchronised: queue default, billing; Cloud Tasks refused to manage")
    assert "PermissionDenied" in record.getMessage()
    gateway.calls.clear()
    later()
    assert gateway.calls == ["CreateTask"]


def test_service_that_does_not_answer_for_queues_keeps_no_task_from_being_sent(
    start: Callable[..., None], gateway: Gateway, client: tasks_v2.CloudTasksClient, caplog: pytest.LogCaptureFixture
) -> None:
    client.create_queue(parent=PARENT, queue=tasks_v2.Queue(name=f"{PARENT}/queues/default"))
    gateway.refusals["GetQueue"] = grpc.StatusCode.UNAVAILABLE
    start()
    later()
    assert "CreateTask" in gateway.calls
    assert "did not answer" in caplog.text


def test_unreachable_service_is_told_by_the_call_as_ever(start: Callable[..., None]) -> None:
    with LocalCloud() as gone:
        address = gone.tasks.address
    start(address)
    with pytest.raises(QueueUnavailableError, match="no local cloud answers"):
        later()


def test_log_handler_that_defers_finds_the_sender(
    start: Callable[..., None], gateway: Gateway, client: tasks_v2.CloudTasksClient
) -> None:
    class Deferring(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            later(record.getMessage())

    client.create_queue(parent=PARENT, queue=tasks_v2.Queue(name=f"{PARENT}/queues/default"))
    gateway.refusals["GetQueue"] = grpc.StatusCode.PERMISSION_DENIED
    start()
    logger, handler = logging.getLogger("safedefer.queues"), Deferring()
    logger.addHandler(handler)
    try:
        later()
    finally:
        logger.removeHandler(handler)
    assert gateway.calls == ["GetQueue", "GetQueue", "CreateTask", "CreateTask"]


PROCESS = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.site.settings"
from django.conf import settings
settings.SAFEDEFER = {{"QUEUES": {queues!r}}}
import django
django.setup()
from safedefer import defer
from tests.site.shop import tasks

def send():
    assert defer(tasks.note, "x", _countdown=3600).created

{action}
"""
FORK = """
send()
child = os.fork()
if child == 0:
    code = 1
    try:
        send()
        code = 0
    finally:
        os._exit(code)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
send()
"""
WAIT = """
print("ready", flush=True)
sys.stdin.readline()
send()
"""


def process(action: str, address: str) -> "subprocess.Popen[str]":
    environ = {**os.environ, "CLOUD_TASKS_EMULATOR_HOST": address, "GRPC_VERBOSITY": "NONE"}
    script = PROCESS.format(queues=QUEUES, action=action)
    return subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, env=environ, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_child_of_a_fork_looks_for_itself_and_once(gateway: Gateway) -> None:
    with process(FORK, gateway.address) as running:
        assert running.wait(PATIENCE_SECONDS) == 0
    look = ["GetQueue", "GetQueue", "CreateTask"]
    calls = gateway.calls_without_repeats()
    assert [call for call in calls if call != "CreateQueue"] == [*look, *look, "CreateTask"]
    assert calls.count("CreateQueue") == 2


def test_processes_that_start_together_make_each_queue_once(
    gateway: Gateway, client: tasks_v2.CloudTasksClient
) -> None:
    running = [process(WAIT, gateway.address) for _ in range(3)]
    for one in running:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in running:
        one.communicate("go\n", timeout=PATIENCE_SECONDS)
    assert [one.returncode for one in running] == [0, 0, 0]
    assert [queue.name.rpartition("/")[2] for queue in client.list_queues(parent=PARENT)] == ["billing", "default"]
    assert len(list(client.list_tasks(parent=f"{PARENT}/queues/default"))) == 3


def run(gateway: Gateway, action: str, monkeypatch: pytest.MonkeyPatch, queues: Any = QUEUES) -> tuple[int, str, str]:
    """Exit code, output and error of the command."""
    monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", gateway.address)
    output = StringIO()
    with override_settings(SAFEDEFER={}, CLOUD_TASKS_QUEUES=queues, DEBUG=True):
        try:
            call_command("safedefer_queues", action, stdout=output, skip_checks=True)
        except CommandError as error:
            return error.returncode, output.getvalue(), str(error)
    return 0, output.getvalue(), ""


def test_command_tells_makes_and_confirms(
    gateway: Gateway, client: tasks_v2.CloudTasksClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create_queue(parent=PARENT, queue=tasks_v2.Queue(name=f"{PARENT}/queues/default"))
    changes = "    rate_per_second         500 -> 5\n    retry_max_attempts      100 -> -1\n"
    told = f"default: different\n{changes}billing: missing\n"
    assert run(gateway, "diff", monkeypatch) == (1, told, "2 of 2 queues are not as wanted.")
    made = f"default: updated\n{changes}billing: created\n"
    assert run(gateway, "sync", monkeypatch) == (0, made, "")
    assert run(gateway, "diff", monkeypatch) == (0, "default: as wanted\nbilling: as wanted\n", "")


def test_command_lists_every_queue_with_its_settings(
    gateway: Gateway, client: tasks_v2.CloudTasksClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create_queue(parent=PARENT, queue=tasks_v2.Queue(name=f"{PARENT}/queues/other"))
    client.pause_queue(name=f"{PARENT}/queues/other")
    run(gateway, "sync", monkeypatch)
    code, output, _ = run(gateway, "list", monkeypatch)
    assert code == 0
    assert [line for line in output.splitlines() if not line.startswith(" ")] == [
        "billing: running, managed",
        "default: running, managed",
        "other: paused",
    ]
    assert "    retry_max_backoff       60 s\n" in output
    assert "    retry_min_backoff       0.1 s\n" in output


@pytest.mark.parametrize("action", ["sync", "diff", "list"])
@pytest.mark.parametrize("status", [grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE])
def test_command_that_gets_nowhere_exits_with_2(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, action: str, status: grpc.StatusCode
) -> None:
    gateway.refusals = dict.fromkeys(("GetQueue", "ListQueues"), status)
    code, output, error = run(gateway, action, monkeypatch)
    assert code == 2
    assert ("default: failed: Cloud Tasks" if action != "list" else "") in output
    assert ("2 of 2 queues failed." if action != "list" else "Cloud Tasks") in error


def test_command_without_queues_or_with_wrong_settings_says_so(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, output, _ = run(gateway, "sync", monkeypatch, [])
    assert (code, output) == (0, "No queue is named in SAFEDEFER['QUEUES'] or CLOUD_TASKS_QUEUES.\n")
    code, _, error = run(gateway, "sync", monkeypatch, [{"nam": "default"}])
    assert code == 2
    assert "E020" in error
    assert gateway.calls == []
