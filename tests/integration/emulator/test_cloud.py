"""The local cloud as a whole: starting, stopping in every state, and addresses."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from safedefer.emulator import HostNotLoopbackError, LocalCloud, PortUnavailableError
from tests.integration.emulator.targets import Reply, Target
from tests.support.channels import open_channel


@contextlib.contextmanager
def client_of(cloud: LocalCloud) -> Iterator[tasks_v2.CloudTasksClient]:
    with open_channel(cloud.tasks.address) as channel:
        yield tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))


@contextlib.contextmanager
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    # Threads of gRPC's client end a moment after their channel; ours must be gone already.
    left = [thread for thread in set(threading.enumerate()) - before if "cloud-tasks" in thread.name]
    left += [thread for thread in set(threading.enumerate()) - before if "token-issuer" in thread.name]
    assert left == []


def test_environment_names_the_ports_that_the_system_chose(cloud: LocalCloud) -> None:
    assert cloud.tasks.port > 0
    assert cloud.issuer.port > 0
    assert cloud.environment() == {
        "DATASTORE_EMULATOR_HOST": cloud.datastore.address,
        "CLOUD_TASKS_EMULATOR_HOST": f"127.0.0.1:{cloud.tasks.port}",
        "SAFEDEFER_LOCAL_ISSUER": f"http://127.0.0.1:{cloud.issuer.port}",
    }


def test_real_time_dispatches_without_help(target: Target, queue: str) -> None:
    target.reply(500)
    with no_thread_left(), LocalCloud(queues=[queue]) as cloud, client_of(cloud) as client:
        client.create_task(parent=queue, task=tasks_v2.Task(http_request=tasks_v2.HttpRequest(url=target.url())))
        assert cloud.tasks.wait_attempts(2, 20)
    first, second = cloud.tasks.attempts
    assert (second.dispatched_at - first.finished_at).total_seconds() >= 0.1


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.com", "::", ""])
def test_host_that_others_can_reach_is_refused(host: str) -> None:
    with pytest.raises(HostNotLoopbackError):
        LocalCloud(host=host)


def test_host_that_others_can_reach_is_accepted_when_asked_for() -> None:
    with LocalCloud(host="0.0.0.0", unsafe_allow_any_host=True) as cloud:
        assert cloud.tasks.port


def test_localhost_is_accepted(target: Target, queue: str) -> None:
    with LocalCloud(host="localhost", queues=[queue]) as cloud, client_of(cloud) as client:
        assert client.get_queue(name=queue).name == queue


@pytest.mark.parametrize("taken", ["tasks_port", "issuer_port"])
def test_taken_port_is_reported_and_nothing_stays_behind(taken: str) -> None:
    with no_thread_left(), socket.create_server(("127.0.0.1", 0)) as occupant:
        port = occupant.getsockname()[1]
        ports = {taken: port}
        cloud = LocalCloud(tasks_port=ports.get("tasks_port", 0), issuer_port=ports.get("issuer_port", 0))
        with pytest.raises(PortUnavailableError, match=f"127.0.0.1:{port}: the port is in use"):
            cloud.start()
        cloud.stop()


def test_two_clouds_never_share_a_port(cloud: LocalCloud) -> None:
    with pytest.raises(PortUnavailableError, match="Cloud Tasks"):
        LocalCloud(tasks_port=cloud.tasks.port).start()


def test_stop_is_idempotent_and_safe_before_start() -> None:
    cloud = LocalCloud()
    cloud.stop()
    with no_thread_left():
        cloud.start()
        cloud.stop()
        cloud.stop()


def test_cloud_starts_only_once(cloud: LocalCloud) -> None:
    with pytest.raises(RuntimeError, match="only once"):
        cloud.start()
    assert cloud.tasks.wait_idle(1)


def test_stop_cuts_attempts_in_flight_off(target: Target, queue: str) -> None:
    target.reply(*[Reply(after=target.gate())] * 20)
    with no_thread_left():
        cloud = LocalCloud(queues=[queue]).start()
        with client_of(cloud) as client:
            for _ in range(20):
                client.create_task(
                    parent=queue, task=tasks_v2.Task(http_request=tasks_v2.HttpRequest(url=target.url()))
                )
            assert cloud.tasks.wait_in_flight(20, 20)
            started = time.monotonic()
            cloud.stop()
            assert time.monotonic() - started < 5
    assert cloud.tasks.attempts == ()


def test_stop_cuts_off_what_is_still_connecting(queue: str) -> None:
    # A server that accepts nobody: once its backlog is full, further connections stay half open.
    with no_thread_left(), socket.create_server(("127.0.0.1", 0), backlog=0) as deaf, contextlib.ExitStack() as full:
        address = deaf.getsockname()
        for _ in range(3):
            waiting = full.enter_context(socket.socket())
            waiting.settimeout(0)
            waiting.connect_ex(address)
        cloud = LocalCloud(queues=[queue]).start()
        with client_of(cloud) as client:
            client.create_task(
                parent=queue,
                task=tasks_v2.Task(http_request=tasks_v2.HttpRequest(url=f"http://127.0.0.1:{address[1]}/")),
            )
            assert cloud.tasks.wait_in_flight(1, 20)
            started = time.monotonic()
            cloud.stop()
            assert time.monotonic() - started < 5


def test_stop_does_not_wait_for_a_silent_client_of_the_issuer() -> None:
    with no_thread_left():
        cloud = LocalCloud().start()
        with socket.create_connection(("127.0.0.1", cloud.issuer.port)):
            started = time.monotonic()
            cloud.stop()
            assert time.monotonic() - started < 5


def test_many_tasks_all_arrive_exactly_once(target: Target, queue: str) -> None:
    count = 500
    with LocalCloud(queues=[queue]) as cloud, client_of(cloud) as client:
        for start in range(0, count, 100):
            requests = [
                tasks_v2.CreateTaskRequest(
                    parent=queue,
                    task=tasks_v2.Task(http_request=tasks_v2.HttpRequest(url=target.url(f"/{number}"))),
                )
                for number in range(start, start + 100)
            ]
            client.batch_create_tasks(tasks_v2.BatchCreateTasksRequest(parent=queue, requests=requests))
        assert cloud.tasks.wait_idle(30)
    assert sorted(int(request.path[1:]) for request in target.received) == list(range(count))


def test_calls_from_many_threads_agree_on_who_created_a_name(cloud: LocalCloud, queue: str) -> None:
    from google.api_core.exceptions import AlreadyExists

    created: list[bool] = []
    with client_of(cloud) as client:
        client.pause_queue(name=queue)
        task = tasks_v2.Task(name=f"{queue}/tasks/one", http_request=tasks_v2.HttpRequest(url="http://127.0.0.1:1/"))

        def create() -> None:
            try:
                client.create_task(parent=queue, task=task)
            except AlreadyExists:
                created.append(False)
            else:
                created.append(True)

        threads = [threading.Thread(target=create) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(created) == [False] * 15 + [True]
