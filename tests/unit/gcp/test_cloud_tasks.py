"""The sender, against the local cloud over gRPC, and against a service that fails in between."""

import logging
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api_core import exceptions
from google.cloud import tasks_v2

from safedefer.core.envelope import CONTENT_TYPE
from safedefer.core.names import LocationName, ProjectName, QueueName, TaskName
from safedefer.core.ports import OutgoingTask
from safedefer.core.retries import RetryOptions
from safedefer.core.routing import Route
from safedefer.emulator import LocalCloud
from safedefer.errors import (
    InvalidOptionError,
    PayloadTooLargeError,
    QueueNotFoundError,
    QueueUnavailableError,
    TaskRefusedError,
)
from safedefer.gcp.cloud_tasks import CloudTasksSender, TaskTarget
from tests.support.channels import open_channel

PARENT = "projects/local/locations/local1/queues/default"
HANDLER = "https://shop.example.com/_safedefer/"
CANARY = b"canary-in-the-body"
LATER = timedelta(hours=1)
CREATE = "/google.cloud.tasks.v2.CloudTasks/CreateTask"


def make_target(address: str) -> TaskTarget:
    return TaskTarget(
        project=ProjectName("local"),
        location=LocationName("local1"),
        handler_url=HANDLER,
        audience="https://shop.example.com",
        service_account="tasks@local.iam.gserviceaccount.com",
        emulator_host=address,
    )


def make_task(**changes: Any) -> OutgoingTask:
    """A task that is not due before the test is over."""
    values: dict[str, Any] = {
        "queue": QueueName("default"),
        "name": TaskName(uuid.uuid4().hex),
        "envelope": CANARY,
        "schedule_time": time.time() + LATER.total_seconds(),
        "deadline": timedelta(seconds=600),
        **changes,
    }
    return OutgoingTask(**values)


@pytest.fixture
def sender(local_cloud: LocalCloud, tasks_client: tasks_v2.CloudTasksClient) -> Iterator[CloudTasksSender]:
    yield CloudTasksSender(make_target(local_cloud.tasks.address))
    tasks_client.purge_queue(name=PARENT)


def names(client: tasks_v2.CloudTasksClient) -> set[str]:
    return {task.name.rpartition("/")[2] for task in client.list_tasks(parent=PARENT)}


def test_task_is_created_as_it_was_prepared(sender: CloudTasksSender, tasks_client: tasks_v2.CloudTasksClient) -> None:
    task = make_task()
    assert sender.send(sender.prepare(task)) is True
    view = tasks_v2.Task.View.FULL
    found = tasks_client.get_task(request={"name": f"{PARENT}/tasks/{task.name}", "response_view": view})
    request = found.http_request
    assert request.url == HANDLER
    assert request.http_method == tasks_v2.HttpMethod.POST
    assert request.headers["Content-Type"] == CONTENT_TYPE
    assert request.body == CANARY
    assert request.oidc_token.audience == "https://shop.example.com"
    assert request.oidc_token.service_account_email == "tasks@local.iam.gserviceaccount.com"
    assert found.dispatch_deadline == timedelta(seconds=600)
    when: Any = found.schedule_time
    assert abs(when.timestamp() - (task.schedule_time or 0)) < 0.001


def test_size_is_that_of_the_serialized_task(sender: CloudTasksSender) -> None:
    small, large = sender.prepare(make_task(envelope=b"")), sender.prepare(make_task(envelope=b"x" * 1_000))
    prepared: Any = large
    assert large.size_bytes == len(tasks_v2.Task.serialize(prepared.task))
    assert 1_000 < large.size_bytes - small.size_bytes < 1_010


def test_second_task_of_a_name_is_reported_and_not_created(sender: CloudTasksSender) -> None:
    task = sender.prepare(make_task())
    assert [sender.send(task), sender.send(task)] == [True, False]


def test_missing_queue_is_named(sender: CloudTasksSender) -> None:
    with pytest.raises(QueueNotFoundError, match="queues/missing"):
        sender.send(sender.prepare(make_task(queue=QueueName("missing"))))


def test_refusal_of_the_service_is_told_with_its_own_words(sender: CloudTasksSender) -> None:
    with pytest.raises(TaskRefusedError, match=r"(?i)schedule") as caught:
        sender.send(sender.prepare(make_task(schedule_time=time.time() + 40 * 86_400)))
    assert isinstance(caught.value.__cause__, exceptions.InvalidArgument)


def test_task_that_the_service_finds_too_large_is_refused(sender: CloudTasksSender) -> None:
    task = sender.prepare(make_task(envelope=b"x" * 1_060_000))
    with pytest.raises(PayloadTooLargeError) as caught:
        sender.send(task)
    assert caught.value.size_bytes == task.size_bytes > 1_060_000


def test_only_what_was_prepared_here_is_sent(sender: CloudTasksSender) -> None:
    class Other:
        size_bytes = 5
        envelope = b""

    with pytest.raises(TypeError, match="prepared"):
        sender.send(Other())


def test_service_that_is_down_is_unavailable_and_says_what_to_start() -> None:
    with socket.socket() as holder:  # Bound and not listening: nobody answers, and nobody else can begin to.
        holder.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        sender = CloudTasksSender(make_target(address))
        with pytest.raises(QueueUnavailableError, match=f"no local cloud answers at {address}"):
            sender.send(sender.prepare(make_task()))


class Between(grpc.GenericRpcHandler):
    """Stands before the local cloud and fails as it is told: `before` or `after` the call was passed on."""

    def __init__(self, behind: grpc.Channel) -> None:
        self._create: Any = behind.unary_unary(CREATE)
        self.faults: list[tuple[str, grpc.StatusCode]] = []
        self.calls = 0
        self.port = 0

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        assert handler_call_details.method == CREATE
        return grpc.unary_unary_rpc_method_handler(self._answer)

    def _answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.calls += 1
        when, status = self.faults.pop(0) if self.faults else ("never", grpc.StatusCode.OK)
        if when == "before":
            context.abort(status, "said the one in between")
        try:
            metadata = [pair for pair in context.invocation_metadata() if pair[0] == "x-goog-request-params"]
            answer: bytes = self._create(request, timeout=20, metadata=metadata)
        except grpc.RpcError as error:
            context.abort(error.code(), error.details() or "")
        if when == "after":
            context.abort(status, "said the one in between")
        return answer


@pytest.fixture
def between(local_cloud: LocalCloud, tasks_client: tasks_v2.CloudTasksClient) -> Iterator[Between]:
    with serving(local_cloud.tasks.address) as handler:
        yield handler
    tasks_client.purge_queue(name=PARENT)


@contextmanager
def serving(address: str) -> Iterator[Between]:
    with open_channel(address) as channel:
        handler = Between(channel)
        server = grpc.server(ThreadPoolExecutor(2), handlers=[handler])
        handler.port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield handler
        finally:
            server.stop(None).wait(20)


@pytest.mark.parametrize("status", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.ABORTED])
def test_create_that_failed_is_tried_again(
    between: Between, tasks_client: tasks_v2.CloudTasksClient, status: grpc.StatusCode
) -> None:
    between.faults = [("before", status)]
    task = make_task()
    sender = CloudTasksSender(make_target(f"127.0.0.1:{between.port}"))
    assert sender.send(sender.prepare(task)) is True
    assert between.calls == 2
    assert task.name in names(tasks_client)


def test_create_whose_answer_was_lost_makes_one_task_in_two_tries(
    between: Between, tasks_client: tasks_v2.CloudTasksClient
) -> None:
    between.faults = [("after", grpc.StatusCode.UNAVAILABLE)]
    task = make_task()
    before = len(names(tasks_client))
    sender = CloudTasksSender(make_target(f"127.0.0.1:{between.port}"))
    # It reads as existing, since the first try made it; who gave it a random name knows that it is theirs.
    assert sender.send(sender.prepare(task)) is False
    assert between.calls == 2
    assert len(names(tasks_client)) == before + 1


@pytest.mark.parametrize(
    "status", [grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INVALID_ARGUMENT]
)
def test_refusal_is_not_tried_again(between: Between, status: grpc.StatusCode) -> None:
    between.faults = [("before", status)]
    sender = CloudTasksSender(make_target(f"127.0.0.1:{between.port}"))
    with pytest.raises(TaskRefusedError, match="said the one in between"):
        sender.send(sender.prepare(make_task()))
    assert between.calls == 1


def test_service_that_keeps_failing_is_given_up_within_seconds(between: Between) -> None:
    between.faults = [("before", grpc.StatusCode.UNAVAILABLE)] * 1_000
    sender = CloudTasksSender(make_target(f"127.0.0.1:{between.port}"))
    begun = time.monotonic()
    with pytest.raises(QueueUnavailableError, match="may or may not exist"):
        sender.send(sender.prepare(make_task()))
    assert time.monotonic() - begun < 5
    assert 2 <= between.calls <= 50


def test_nothing_that_is_sent_shows_in_a_repr_or_in_the_log_of_the_client(
    sender: CloudTasksSender, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a site has it that wants to see everything of Google's: by default these records go nowhere.
    monkeypatch.setattr(logging.getLogger("google"), "propagate", True)
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "google")
    task = make_task()
    prepared = sender.prepare(task)
    assert sender.send(prepared) is True
    assert any("CreateTask" in record.getMessage() for record in caplog.records)
    for record in caplog.records:
        shown = record.getMessage() + repr(vars(record))
        assert "canary" not in shown
        assert "Y2FuYXJ5LWlu" not in shown  # The same in base64.
    assert "canary" not in repr(prepared) + repr(task) + repr(sender)


FORK = """
import os, sys, time
from datetime import timedelta
sys.path.insert(0, {root!r})
from tests.unit.gcp.test_cloud_tasks import CloudTasksSender, make_target, make_task
sender = CloudTasksSender(make_target({address!r}))
assert sender.send(sender.prepare(make_task()))
child = os.fork()
if child == 0:
    code = 1
    try:
        code = 0 if sender.send(sender.prepare(make_task())) else 2
    finally:
        os._exit(code)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert sender.send(sender.prepare(make_task()))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_child_of_a_fork_makes_a_client_of_its_own(
    local_cloud: LocalCloud, tasks_client: tasks_v2.CloudTasksClient
) -> None:
    before = len(names(tasks_client))
    script = FORK.format(root=str(Path(__file__).parents[3]), address=local_cloud.tasks.address)
    subprocess.run([sys.executable, "-c", script], check=True, timeout=50, env={**os.environ, "GRPC_VERBOSITY": "NONE"})
    assert len(names(tasks_client)) == before + 3
    tasks_client.purge_queue(name=PARENT)


def test_route_is_the_host_of_the_request(local_cloud: LocalCloud) -> None:
    app = replace(make_target(local_cloud.tasks.address), handler_url="https://acme.ew.r.appspot.com/_safedefer/")
    task: Any = CloudTasksSender(app).prepare(make_task(route=Route(service="shop", version="v2")))
    request = task.task.http_request
    assert request.url == "https://v2-dot-shop-dot-acme.ew.r.appspot.com/_safedefer/"
    # The token is for the handler, whatever host answers.
    assert request.oidc_token.audience == app.audience
    elsewhere = CloudTasksSender(make_target(local_cloud.tasks.address))
    with pytest.raises(InvalidOptionError, match="App Engine"):
        elsewhere.prepare(make_task(route=Route(service="shop")))


def test_backoff_of_one_task_is_whole_and_never_gives_up(sender: CloudTasksSender) -> None:
    retry = RetryOptions(max_attempts=3, min_backoff=timedelta(seconds=2.5))
    task: Any = sender.prepare(make_task(retry=retry))
    config = task.task.retry_config
    assert (config.max_attempts, config.max_doublings) == (-1, 16)
    assert (config.min_backoff, config.max_backoff) == (timedelta(seconds=2.5), timedelta(hours=1))
    plain: Any = sender.prepare(make_task())
    assert "retry_config" not in plain.task
