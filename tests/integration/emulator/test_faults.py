"""Faults of the local Cloud Tasks, as the real client and a target see them, on a clock that stands still."""

from datetime import timedelta

import grpc
import pytest
from google.api_core import exceptions
from google.cloud import tasks_v2

from safedefer.emulator import LocalCloud, ManualClock
from tests.integration.emulator.targets import Target

TIMEOUT = 20.0


def create(client: tasks_v2.CloudTasksClient, queue: str, target: Target, name: str = "one") -> tasks_v2.Task:
    request = tasks_v2.HttpRequest(url=target.url(f"/{name}"))
    return client.create_task(parent=queue, task=tasks_v2.Task(name=f"{queue}/tasks/{name}", http_request=request))


def names(client: tasks_v2.CloudTasksClient, queue: str) -> list[str]:
    return [task.name.rpartition("/")[2] for task in client.list_tasks(parent=queue)]


def test_duplicate_arrives_twice_and_counts_as_one_attempt(
    cloud: LocalCloud, client: tasks_v2.CloudTasksClient, queue: str, target: Target
) -> None:
    cloud.tasks.faults.once("duplicate")
    create(client, queue, target)
    assert cloud.tasks.wait_attempts(2, TIMEOUT)
    first, second = target.received
    assert first == second
    assert first.header("X-CloudTasks-TaskRetryCount") == "0"
    assert [attempt.attempt for attempt in cloud.tasks.attempts] == [1, 1]
    assert names(client, queue) == []


def test_task_is_done_when_one_of_two_deliveries_succeeds(
    cloud: LocalCloud, client: tasks_v2.CloudTasksClient, queue: str, target: Target, clock: ManualClock
) -> None:
    cloud.tasks.faults.once("duplicate")
    target.reply(500, 200)
    create(client, queue, target)
    assert cloud.tasks.wait_attempts(2, TIMEOUT)
    clock.advance(3_600)
    assert cloud.tasks.wait_settled(TIMEOUT)
    assert sorted(attempt.status or 0 for attempt in cloud.tasks.attempts) == [200, 500]
    assert names(client, queue) == []


def test_task_whose_deliveries_both_fail_comes_again_once(
    cloud: LocalCloud, client: tasks_v2.CloudTasksClient, queue: str, target: Target, clock: ManualClock
) -> None:
    cloud.tasks.faults.once("duplicate")
    target.reply(500, 500)
    create(client, queue, target)
    assert cloud.tasks.wait_attempts(2, TIMEOUT)
    clock.advance(3_600)
    assert cloud.tasks.wait_settled(TIMEOUT)
    assert [attempt.status for attempt in cloud.tasks.attempts] == [500, 500, 200]


def test_dropped_response_reached_the_target_and_is_retried(
    cloud: LocalCloud, client: tasks_v2.CloudTasksClient, queue: str, target: Target, clock: ManualClock
) -> None:
    cloud.tasks.faults.once("drop-response")
    create(client, queue, target)
    assert cloud.tasks.wait_attempts(1, TIMEOUT)
    assert target.wait_received(1)
    (lost,) = cloud.tasks.attempts
    assert (lost.status, lost.outcome) == (None, "lost")
    clock.advance(60)
    assert cloud.tasks.wait_attempts(2, TIMEOUT)
    _, retry = target.received
    assert retry.header("X-CloudTasks-TaskRetryCount") == "1"
    assert retry.header("X-CloudTasks-TaskPreviousResponse") == "503"
    assert cloud.tasks.attempts[1].status == 200
    assert names(client, queue) == []


def test_delay_holds_an_attempt_back_and_leaves_its_schedule_time(
    cloud: LocalCloud, client: tasks_v2.CloudTasksClient, queue: str, target: Target, clock: ManualClock
) -> None:
    cloud.tasks.faults.once("delay", seconds=30)
    due = clock.now()
    create(client, queue, target)
    clock.advance(29)
    assert cloud.tasks.wait_settled(TIMEOUT)
    assert target.received == ()
    clock.advance(1)
    assert cloud.tasks.wait_attempts(1, TIMEOUT)
    (attempt,) = cloud.tasks.attempts
    assert attempt.scheduled_at == due
    assert attempt.dispatched_at == due + timedelta(seconds=30)


def test_reorder_lets_the_next_task_pass(
    cloud: LocalCloud, client: tasks_v2.CloudTasksClient, queue: str, target: Target
) -> None:
    limits = tasks_v2.RateLimits(max_concurrent_dispatches=1)
    client.update_queue(queue=tasks_v2.Queue(name=queue, rate_limits=limits))
    client.pause_queue(name=queue)
    for name in ("a", "b", "c", "d"):
        create(client, queue, target, name)
    cloud.tasks.faults.next("reorder", 2)
    client.resume_queue(name=queue)
    assert cloud.tasks.wait_attempts(4, TIMEOUT)
    assert [request.path for request in target.received] == ["/b", "/d", "/a", "/c"]


def test_reorder_of_a_single_task_changes_nothing(
    cloud: LocalCloud, client: tasks_v2.CloudTasksClient, queue: str, target: Target
) -> None:
    cloud.tasks.faults.set("reorder", 1)
    create(client, queue, target)
    assert cloud.tasks.wait_idle(TIMEOUT)
    assert len(target.received) == 1


@pytest.mark.parametrize(
    "code",
    [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.RESOURCE_EXHAUSTED],
)
def test_refused_create_makes_no_task(
    cloud: LocalCloud,
    client: tasks_v2.CloudTasksClient,
    queue: str,
    target: Target,
    code: grpc.StatusCode,
) -> None:
    cloud.tasks.faults.once("refuse-create", code=code)
    with pytest.raises(exceptions.GoogleAPICallError, match="injected fault: refuse-create") as caught:
        create(client, queue, target)
    assert caught.value.grpc_status_code is code
    assert cloud.tasks.wait_idle(TIMEOUT)
    assert target.received == ()
    create(client, queue, target)  # The name is free.


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED])
def test_ambiguous_create_makes_the_task_and_says_otherwise(
    cloud: LocalCloud,
    client: tasks_v2.CloudTasksClient,
    queue: str,
    target: Target,
    code: grpc.StatusCode,
) -> None:
    cloud.tasks.faults.once("ambiguous-create", code=code)
    with pytest.raises(exceptions.GoogleAPICallError) as caught:
        create(client, queue, target)
    assert caught.value.grpc_status_code is code
    assert cloud.tasks.wait_attempts(1, TIMEOUT)
    with pytest.raises(exceptions.AlreadyExists):
        create(client, queue, target)


def test_each_create_of_a_batch_is_an_operation_of_its_own(
    cloud: LocalCloud, client: tasks_v2.CloudTasksClient, queue: str, target: Target
) -> None:
    client.pause_queue(name=queue)
    request = tasks_v2.HttpRequest(url=target.url())
    creates = [
        tasks_v2.CreateTaskRequest(parent=queue, task=tasks_v2.Task(name=f"{queue}/tasks/{name}", http_request=request))
        for name in ("refused", "ambiguous", "made")
    ]
    cloud.tasks.faults.once("refuse-create", code=grpc.StatusCode.INTERNAL)
    cloud.tasks.faults.once("ambiguous-create")
    made = client.batch_create_tasks(tasks_v2.BatchCreateTasksRequest(parent=queue, requests=creates))
    made.result(timeout=60)  # type: ignore[no-untyped-call]  # The class predates annotations.
    metadata = made.metadata
    assert isinstance(metadata, tasks_v2.BatchCreateTasksMetadata)
    failed = {index: status.code for index, status in metadata.failed_requests.items()}
    assert failed == {0: grpc.StatusCode.INTERNAL.value[0], 1: grpc.StatusCode.UNAVAILABLE.value[0]}
    assert names(client, queue) == ["ambiguous", "made"]


def test_faults_given_at_the_start_hold_and_are_the_same_for_one_seed(target: Target, clock: ManualClock) -> None:
    queue = "projects/local/locations/local1/queues/default"
    plans = []
    for seed in (7, 7, 8):
        with LocalCloud(
            queues=[queue], clock=clock, tasks_faults="refuse-create=0.5", datastore_faults="abort=0.5", seed=seed
        ) as cloud:
            tasks, datastore = cloud.tasks.faults, cloud.datastore.faults
            draws = [(tasks.draw("refuse-create") is None, datastore.draw("abort") is None) for _ in range(50)]
            plans.append(draws)
    assert plans[0] == plans[1] != plans[2]
