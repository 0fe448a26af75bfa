"""Queues through the official client, against the local cloud and against a gateway that refuses."""

import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import grpc
import pytest
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from safedefer.core.names import LocationName, ProjectName, QueueName
from safedefer.core.queues import QueueField, QueueSpec, QueueValue, compare_queue
from safedefer.emulator import LocalCloud
from safedefer.errors import QueueRefusedError, QueueUnavailableError
from safedefer.flow.queues import synchronise_queues
from safedefer.gcp.cloud_tasks import TaskTarget, make_client
from safedefer.gcp.per_process import PerProcess
from safedefer.gcp.queues import CloudTasksQueues
from tests.support.channels import open_channel
from tests.support.gateway import Gateway, open_gateway

LOCATION = "projects/local/locations/local1"
SOON = timedelta(seconds=5)
EVERYTHING: dict[QueueField, QueueValue] = {
    QueueField.RATE_PER_SECOND: 7.5,
    QueueField.RATE_MAX_CONCURRENT: 3,
    QueueField.RETRY_MAX_ATTEMPTS: -1,
    QueueField.RETRY_MAX_DURATION: timedelta(hours=1),
    QueueField.RETRY_MIN_BACKOFF: timedelta(seconds=2),
    QueueField.RETRY_MAX_BACKOFF: timedelta(minutes=5),
    QueueField.RETRY_MAX_DOUBLINGS: 4,
    QueueField.LOGGING_SAMPLING_RATIO: 0.25,
}


def make_target(address: str, location: str = "local1") -> TaskTarget:
    return TaskTarget(
        project=ProjectName("local"),
        location=LocationName(location),
        handler_url="https://shop.example.com/_safedefer/",
        audience="https://shop.example.com",
        service_account="tasks@local.iam.gserviceaccount.com",
        emulator_host=address,
    )


def make_admin(address: str) -> CloudTasksQueues:
    target = make_target(address)
    return CloudTasksQueues(PerProcess(lambda: make_client(target)).get, target)


def spec(name: str = "default", values: dict[QueueField, QueueValue] | None = None) -> QueueSpec:
    return QueueSpec(name=QueueName(name), values=EVERYTHING if values is None else values)


@pytest.fixture
def cloud() -> Iterator[LocalCloud]:
    with LocalCloud() as cloud:
        yield cloud


@pytest.fixture
def client(cloud: LocalCloud) -> Iterator[tasks_v2.CloudTasksClient]:
    with open_channel(cloud.tasks.address) as channel:
        yield tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))


@pytest.fixture
def gateway(cloud: LocalCloud) -> Iterator[Gateway]:
    with open_gateway(cloud.tasks.address) as gateway:
        yield gateway


@pytest.fixture
def admin(gateway: Gateway) -> CloudTasksQueues:
    return make_admin(gateway.address)


def test_queue_is_created_with_every_setting_and_reads_back_the_same(
    admin: CloudTasksQueues, client: tasks_v2.CloudTasksClient
) -> None:
    assert admin.get(QueueName("default"), within=SOON) is None
    assert admin.create(spec(), within=SOON)
    queue = client.get_queue(name=f"{LOCATION}/queues/default")
    assert queue.rate_limits.max_dispatches_per_second == 7.5
    assert queue.rate_limits.max_concurrent_dispatches == 3
    assert queue.retry_config.max_attempts == -1
    assert queue.retry_config.max_retry_duration == timedelta(hours=1)
    assert queue.retry_config.min_backoff == timedelta(seconds=2)
    assert queue.retry_config.max_backoff == timedelta(minutes=5)
    assert queue.retry_config.max_doublings == 4
    assert queue.stackdriver_logging_config.sampling_ratio == 0.25
    present = admin.get(QueueName("default"), within=SOON)
    assert present is not None
    assert (present.name, present.state, present.values) == ("default", "running", EVERYTHING)


def test_queue_that_exists_is_not_created_again(admin: CloudTasksQueues) -> None:
    assert [admin.create(spec(), within=SOON) for _ in range(2)] == [True, False]


@pytest.mark.parametrize("field", QueueField)
def test_update_changes_the_named_setting_and_no_other(
    admin: CloudTasksQueues, gateway: Gateway, field: QueueField
) -> None:
    admin.create(spec(), within=SOON)
    other = timedelta(seconds=3) if isinstance(EVERYTHING[field], timedelta) else 1
    changed = spec(values={**dict.fromkeys(QueueField, 1), field: other})
    admin.update(changed, [field], within=SOON)
    present = admin.get(QueueName("default"), within=SOON)
    assert present is not None
    assert present.values == {**EVERYTHING, field: other}
    request = tasks_v2.UpdateQueueRequest.deserialize(gateway.requests[gateway.calls.index("UpdateQueue")])
    assert len(request.update_mask.paths) == 1


def test_every_queue_of_the_location_is_listed_by_name(
    admin: CloudTasksQueues, client: tasks_v2.CloudTasksClient
) -> None:
    for name in ("b", "a"):
        admin.create(spec(name), within=SOON)
    client.pause_queue(name=f"{LOCATION}/queues/b")
    assert [(queue.name, queue.state) for queue in admin.all(within=SOON)] == [("a", "running"), ("b", "paused")]


def test_queues_as_wanted_are_read_and_not_written(admin: CloudTasksQueues, gateway: Gateway) -> None:
    specs = [spec("a"), spec("b", {QueueField.RETRY_MAX_ATTEMPTS: -1})]
    assert [report.outcome.value for report in synchronise_queues(admin, specs)] == ["created"] * 2
    gateway.calls.clear()
    assert [report.outcome.value for report in synchronise_queues(admin, specs)] == ["as wanted"] * 2
    assert gateway.calls == ["GetQueue", "GetQueue"]


def test_settings_that_are_not_named_keep_what_somebody_else_set(
    admin: CloudTasksQueues, client: tasks_v2.CloudTasksClient
) -> None:
    theirs = tasks_v2.RateLimits(max_dispatches_per_second=5)
    client.create_queue(parent=LOCATION, queue=tasks_v2.Queue(name=f"{LOCATION}/queues/a", rate_limits=theirs))
    wanted = spec("a", {QueueField.RETRY_MAX_ATTEMPTS: -1})
    assert [report.outcome.value for report in synchronise_queues(admin, [wanted])] == ["updated"]
    queue = client.get_queue(name=f"{LOCATION}/queues/a")
    assert (queue.rate_limits.max_dispatches_per_second, queue.retry_config.max_attempts) == (5, -1)


@pytest.mark.parametrize(
    "status", [grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED]
)
@pytest.mark.parametrize("method", ["GetQueue", "CreateQueue", "UpdateQueue", "ListQueues"])
def test_refusal_is_told_with_the_words_of_the_service(
    admin: CloudTasksQueues, gateway: Gateway, status: grpc.StatusCode, method: str
) -> None:
    gateway.refusals[method] = status
    calls: dict[str, Callable[[], object]] = {
        "GetQueue": lambda: admin.get(QueueName("default"), within=SOON),
        "CreateQueue": lambda: admin.create(spec(), within=SOON),
        "UpdateQueue": lambda: admin.update(spec(), [QueueField.RATE_PER_SECOND], within=SOON),
        "ListQueues": lambda: admin.all(within=SOON),
    }
    with pytest.raises(QueueRefusedError, match="said the gateway"):
        calls[method]()
    assert gateway.calls == [method]


def test_name_of_a_deleted_queue_is_a_refusal(admin: CloudTasksQueues, client: tasks_v2.CloudTasksClient) -> None:
    admin.create(spec(), within=SOON)
    client.delete_queue(name=f"{LOCATION}/queues/default")
    with pytest.raises(QueueRefusedError, match="existed too recently"):
        admin.create(spec(), within=SOON)


def test_service_that_is_unavailable_is_asked_again_for_a_moment(admin: CloudTasksQueues, gateway: Gateway) -> None:
    gateway.refusals["GetQueue"] = grpc.StatusCode.UNAVAILABLE
    with pytest.raises(QueueUnavailableError, match="did not answer"):
        admin.get(QueueName("default"), within=SOON)
    assert len(gateway.calls) > 1


def test_service_that_is_silent_costs_no_more_than_the_time_for_all_queues(
    admin: CloudTasksQueues, gateway: Gateway
) -> None:
    gateway.silent = {"GetQueue"}
    begun = time.monotonic()
    reports = synchronise_queues(admin, [spec("a"), spec("b")], within=timedelta(seconds=1))
    assert time.monotonic() - begun < 2
    assert [report.outcome.value for report in reports] == ["failed"] * 2
    assert "did not answer" in reports[1].problem


def test_spec_of_every_setting_has_no_difference_from_what_it_made(admin: CloudTasksQueues) -> None:
    admin.create(spec(), within=SOON)
    present = admin.get(QueueName("default"), within=SOON)
    assert present is not None
    assert compare_queue(spec(), present) == ()
