"""The command, as a process: what it prints, how it ends, what it logs."""

import contextlib
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from google.api_core import exceptions
from google.cloud import tasks_v2
from google.cloud.datastore_v1.services.datastore import DatastoreClient
from google.cloud.datastore_v1.services.datastore.transports import DatastoreGrpcTransport
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from safedefer.emulator.__main__ import main
from tests.integration.emulator.targets import Target
from tests.support.channels import open_channel

ANY_PORTS = ("--tasks-port", "0", "--issuer-port", "0", "--datastore-port", "0")


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "safedefer.emulator", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            # Before the block waits for its end, also where a test has failed.
            process.kill()


def exported(process: subprocess.Popen[str]) -> dict[str, str]:
    """Read the printed variables up to the line that says the cloud is ready."""
    assert process.stdout is not None
    variables: dict[str, str] = {}
    for line in process.stdout:
        if not line.startswith("export "):
            assert line == "The local cloud is ready. Stop it with Ctrl-C.\n"
            return variables
        name, _, value = shlex.split(line)[1].partition("=")
        variables[name] = value
    pytest.fail("the command ended before it was ready")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_the_command_with_exit_0(number: signal.Signals) -> None:
    with running(*ANY_PORTS) as process:
        assert set(exported(process)) == {
            "CLOUD_TASKS_EMULATOR_HOST",
            "DATASTORE_EMULATOR_HOST",
            "SAFEDEFER_LOCAL_ISSUER",
        }
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 0
        assert errors == ""


def test_command_dispatches_and_logs_one_line_without_secrets(target: Target) -> None:
    queue = "projects/p/locations/l/queues/mine"
    with running(*ANY_PORTS, "--queue", queue) as process:
        address = exported(process)["CLOUD_TASKS_EMULATOR_HOST"]
        with open_channel(address) as channel:
            client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
            request = tasks_v2.HttpRequest(
                url=target.url("/path?query=secret"),
                body=b"secret",
                headers={"X-Secret": "secret"},
                oidc_token=tasks_v2.OidcToken(service_account_email="a@local"),
            )
            client.create_task(parent=queue, task=tasks_v2.Task(name=f"{queue}/tasks/one", http_request=request))
            assert process.stderr is not None
            line = process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=20)
    host = target.url("").removeprefix("http://")
    assert line.rstrip().endswith(f"INFO POST {host}/path queue=mine task=one status=200 attempt=1")
    assert rest == ""


@pytest.mark.parametrize("option", ["--tasks-port", "--issuer-port", "--datastore-port"])
def test_taken_port_is_one_line_and_exit_1(option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupant:
        port = occupant.getsockname()[1]
        with running(*ANY_PORTS, option, str(port)) as process:
            output, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert output == ""
    (line,) = errors.splitlines()
    assert line.startswith("safedefer-emulator: ")
    assert f"127.0.0.1:{port}" in line


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--host", "0.0.0.0"), "not a loopback address"),
        (("--queue", "nonsense"), "Queue name must be formatted"),
        (("--tasks-faults", "duplicat=0.1"), "there is no fault 'duplicat' here; did you mean duplicate?"),
        (("--datastore-faults", "abort=2"), "the rate of abort lies between 0 and 1"),
    ],
)
def test_bad_setting_is_one_line_and_exit_1(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], text: str
) -> None:
    assert main([*ANY_PORTS, *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert text in line


def test_faults_of_the_command_line_strike(target: Target) -> None:
    queue = "projects/p/locations/l/queues/mine"
    faults = ("--tasks-faults", "ambiguous-create=1:DEADLINE_EXCEEDED,drop-response=1", "--seed", "7")
    with running(*ANY_PORTS, "--queue", queue, *faults, "--datastore-faults", "refuse=1:INTERNAL") as process:
        variables = exported(process)
        with open_channel(variables["CLOUD_TASKS_EMULATOR_HOST"]) as channel:
            client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
            request = tasks_v2.HttpRequest(url=target.url())
            with pytest.raises(exceptions.DeadlineExceeded):
                client.create_task(parent=queue, task=tasks_v2.Task(http_request=request))
        assert process.stderr is not None
        assert "status=lost attempt=1" in process.stderr.readline()
        with open_channel(variables["DATASTORE_EMULATOR_HOST"]) as channel:
            store = DatastoreClient(transport=DatastoreGrpcTransport(channel=channel))
            with pytest.raises(exceptions.InternalServerError):
                store.lookup(project_id="p", keys=[], retry=None)
    assert len(target.received) >= 1


def test_clock_file_moves_the_clock_of_the_command(target: Target, tmp_path: Path) -> None:
    queue = "projects/p/locations/l/queues/mine"
    path = tmp_path / "clock"
    with running(*ANY_PORTS, "--queue", queue, "--clock-file", str(path)) as process:
        with open_channel(exported(process)["CLOUD_TASKS_EMULATOR_HOST"]) as channel:
            client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
            task = tasks_v2.Task(
                http_request=tasks_v2.HttpRequest(url=target.url()),
                schedule_time=datetime.now(UTC) + timedelta(hours=1),
            )
            client.create_task(parent=queue, task=task)
        path.write_text("3600")
        assert process.stderr is not None
        assert "status=200 attempt=1" in process.stderr.readline()


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_bad_port_is_a_usage_error(capsys: pytest.CaptureFixture[str], port: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--tasks-port", port])
    assert stopped.value.code == 2
    assert "--tasks-port" in capsys.readouterr().err
