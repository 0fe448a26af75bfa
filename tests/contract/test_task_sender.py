"""What every TaskSender keeps to, in memory and before the local cloud."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from google.cloud import tasks_v2

from safedefer.core.names import LocationName, ProjectName, QueueName, TaskName
from safedefer.core.ports import OutgoingTask, SendableTask, TaskSender
from safedefer.core.routing import Route
from safedefer.emulator import LocalCloud
from safedefer.errors import InvalidOptionError, PayloadTooLargeError, SafeDeferError, TaskRefusedError
from safedefer.gcp.cloud_tasks import CloudTasksSender, TaskTarget
from safedefer.testing.fakes import ManualClock, MemorySender

URL = "https://shop.example.com/_safedefer/"
DEFAULT, BILLING = QueueName("default"), QueueName("billing")
PLACE = "projects/local/locations/local1/queues"
HOUR = 3_600


@dataclass
class Sending:
    """A sender, and a look at what it has created."""

    make: Callable[[str], TaskSender]
    times: Callable[[], dict[str, float]]
    remove: Callable[[OutgoingTask], None]

    @property
    def sender(self) -> TaskSender:
        """One whose handler is no App Engine host."""
        return self.make(URL)

    def send(self, task: OutgoingTask) -> bool:
        """Prepare and send."""
        sender = self.sender
        return sender.send(sender.prepare(task))


@pytest.fixture(params=["memory", "local cloud"])
def sending(request: pytest.FixtureRequest) -> Iterator[Sending]:
    if request.param == "memory":
        yield in_memory()
        return
    client: tasks_v2.CloudTasksClient = request.getfixturevalue("tasks_client")
    yield in_local_cloud(request.getfixturevalue("local_cloud"), client)
    for queue in (DEFAULT, BILLING):
        client.purge_queue(name=f"{PLACE}/{queue}")


def in_memory() -> Sending:
    sender = MemorySender(ManualClock(), URL)

    def remove(task: OutgoingTask) -> None:
        (found,) = (queued for queued in sender.waiting() if queued.task.name == task.name)
        sender.remove(found)

    return Sending(
        make=lambda url: sender if url == URL else MemorySender(ManualClock(), url),
        times=lambda: {queued.task.name: queued.due for queued in sender.waiting()},
        remove=remove,
    )


def in_local_cloud(cloud: LocalCloud, client: tasks_v2.CloudTasksClient) -> Sending:
    def times() -> dict[str, float]:
        found: list[Any] = [
            task for queue in (DEFAULT, BILLING) for task in client.list_tasks(parent=f"{PLACE}/{queue}")
        ]
        return {task.name.rpartition("/")[2]: task.schedule_time.timestamp() for task in found}

    return Sending(
        make=lambda url: CloudTasksSender(target(url, cloud.tasks.address)),
        times=times,
        remove=lambda task: client.delete_task(name=f"{PLACE}/{task.queue}/tasks/{task.name}"),
    )


def target(url: str, address: str | None) -> TaskTarget:
    return TaskTarget(
        project=ProjectName("local"),
        location=LocationName("local1"),
        handler_url=url,
        audience=url,
        service_account="tasks@acme.iam.gserviceaccount.com",
        emulator_host=address,
    )


def make_task(**changes: Any) -> OutgoingTask:
    """A task that is not due while the test runs."""
    task = OutgoingTask(
        queue=DEFAULT,
        name=TaskName(uuid4().hex),
        envelope=b"sealed",
        schedule_time=float(int(time.time()) + HOUR),
        deadline=timedelta(minutes=10),
    )
    return replace(task, **changes)


def test_task_is_created_for_its_time(sending: Sending) -> None:
    task = make_task()
    assert sending.send(task) is True
    assert sending.times() == {task.name: task.schedule_time}


def test_name_makes_one_task_in_its_queue(sending: Sending) -> None:
    task = make_task()
    assert [sending.send(task), sending.send(replace(task, envelope=b"another"))] == [True, False]
    assert sending.send(replace(task, queue=BILLING)) is True
    assert len(sending.times()) == 1


def test_name_of_a_task_that_is_gone_stays_taken(sending: Sending) -> None:
    task = make_task()
    sending.send(task)
    sending.remove(task)
    assert sending.times() == {}
    assert sending.send(task) is False


def test_prepared_task_has_its_envelope_and_a_size_above_it(sending: Sending) -> None:
    prepared = sending.sender.prepare(make_task(envelope=b"x" * 5_000))
    assert prepared.envelope == b"x" * 5_000
    assert 5_000 < prepared.size_bytes < 7_000


def test_size_in_memory_is_no_smaller_than_the_real_one() -> None:
    task = make_task(queue=QueueName("q" * 100), name=TaskName("n" * 200), envelope=b"x" * 1_000)
    real = CloudTasksSender(target(URL, None)).prepare(task).size_bytes
    assert real <= MemorySender(ManualClock(), URL).prepare(task).size_bytes


def test_preparing_sends_nothing(sending: Sending) -> None:
    sending.sender.prepare(make_task())
    assert sending.times() == {}


def test_task_above_the_service_limit_is_too_large(sending: Sending) -> None:
    with pytest.raises(PayloadTooLargeError):
        sending.send(make_task(envelope=b"x" * 1_048_576))
    assert sending.times() == {}


def test_task_scheduled_too_far_ahead_is_refused(sending: Sending) -> None:
    with pytest.raises(TaskRefusedError):
        sending.send(make_task(schedule_time=time.time() + timedelta(days=31).total_seconds()))
    assert sending.times() == {}


def test_route_needs_a_host_that_can_be_routed(sending: Sending) -> None:
    routed = make_task(route=Route(service="mail"))
    with pytest.raises(InvalidOptionError):
        sending.sender.prepare(routed)
    for url in ("https://acme.ew.r.appspot.com/_safedefer/", "http://127.0.0.1:8000/_safedefer/"):
        sending.make(url).prepare(routed)


def test_many_tasks_are_told_of_in_their_order(sending: Sending) -> None:
    sender, there = sending.sender, make_task()
    sending.send(there)
    far = make_task(schedule_time=time.time() + timedelta(days=31).total_seconds())
    tasks = [make_task(), there, make_task(), far, make_task()]
    outcomes = [kind_of(outcome) for outcome in sender.send_many([sender.prepare(task) for task in tasks])]
    assert outcomes == [True, False, True, TaskRefusedError, True]
    assert sending.times().keys() == {there.name, tasks[0].name, tasks[2].name, tasks[4].name}


def kind_of(outcome: bool | SafeDeferError) -> object:
    return outcome if isinstance(outcome, bool) else type(outcome)


def test_no_tasks_are_no_calls(sending: Sending) -> None:
    assert list(sending.sender.send_many([])) == []


def test_many_tasks_are_of_one_queue(sending: Sending) -> None:
    sender = sending.sender
    with pytest.raises(TypeError):
        sender.send_many([sender.prepare(make_task()), sender.prepare(make_task(queue=BILLING))])
    assert sending.times() == {}


@dataclass
class Foreign:
    """Prepared by nobody."""

    size_bytes: int = 1
    envelope: bytes = b"x"


def test_task_that_was_prepared_elsewhere_is_not_sent(sending: Sending) -> None:
    foreign: SendableTask = Foreign()
    with pytest.raises(TypeError):
        sending.sender.send(foreign)
    with pytest.raises(TypeError):
        sending.sender.send_many([foreign])
