"""Queues through the real client: settings, states, pages, and the service's words for what it refuses."""

from datetime import timedelta

import pytest
from google.api_core import exceptions
from google.cloud import tasks_v2
from google.iam.v1 import iam_policy_pb2  # type: ignore[import-untyped]
from google.protobuf import duration_pb2, field_mask_pb2
from google.rpc import error_details_pb2  # type: ignore[import-untyped]

from safedefer.emulator import LocalCloud, ManualClock
from tests.integration.emulator.targets import Target

LOCATION = "projects/local/locations/local1"
OTHER = f"{LOCATION}/queues/other"
MISSING = f"{LOCATION}/queues/missing"
MISSING_TEXT = (
    "Queue does not exist. If you just created the queue, wait at least a minute for the queue to initialize."
)
TOO_RECENTLY = "The queue cannot be created because a queue with this name existed too recently."


def seconds(count: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromTimedelta(timedelta(seconds=count))
    return duration


def test_queue_reads_back_with_the_defaults_of_the_service(client: tasks_v2.CloudTasksClient) -> None:
    created = client.create_queue(parent=LOCATION, queue=tasks_v2.Queue(name=OTHER))
    assert created == client.get_queue(name=OTHER)
    assert created.state == tasks_v2.Queue.State.RUNNING
    assert created.rate_limits == tasks_v2.RateLimits(
        max_dispatches_per_second=500, max_burst_size=100, max_concurrent_dispatches=1000
    )
    assert created.retry_config == tasks_v2.RetryConfig(
        max_attempts=100, min_backoff=seconds(0.1), max_backoff=seconds(3600), max_doublings=16
    )


def test_create_queue_keeps_settings_and_ignores_output_only_fields(client: tasks_v2.CloudTasksClient) -> None:
    asked = tasks_v2.Queue(
        name=OTHER,
        state=tasks_v2.Queue.State.PAUSED,
        rate_limits=tasks_v2.RateLimits(max_dispatches_per_second=5, max_burst_size=-7, max_concurrent_dispatches=3),
        retry_config=tasks_v2.RetryConfig(max_attempts=-1, max_retry_duration=seconds(60), min_backoff=seconds(2)),
        stackdriver_logging_config=tasks_v2.StackdriverLoggingConfig(sampling_ratio=0.5),
    )
    created = client.create_queue(parent=LOCATION, queue=asked)
    assert created.state == tasks_v2.Queue.State.RUNNING
    assert created.rate_limits.max_dispatches_per_second == 5
    assert created.rate_limits.max_burst_size == 10
    assert created.rate_limits.max_concurrent_dispatches == 3
    assert created.retry_config.max_attempts == -1
    assert created.stackdriver_logging_config.sampling_ratio == 0.5


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"max_dispatches_per_second": -1}, "RateLimits.maxDispatchesPerSecond cannot be negative."),
        ({"max_dispatches_per_second": 501}, "RateLimits.maxDispatchesPerSecond must be less than or equal to 500."),
        ({"max_concurrent_dispatches": -1}, "RateLimits.maxConcurrentDispatches cannot be negative."),
        (
            {"max_concurrent_dispatches": 5001},
            "RateLimits.maxConcurrentDispatches must be less than or equal to 5000.",
        ),
    ],
)
def test_create_queue_refuses_rate_limit(client: tasks_v2.CloudTasksClient, limits: dict[str, int], text: str) -> None:
    with pytest.raises(exceptions.InvalidArgument) as refusal:
        client.create_queue(parent=LOCATION, queue=tasks_v2.Queue(name=OTHER, rate_limits=tasks_v2.RateLimits(limits)))
    assert refusal.value.message == text


@pytest.mark.parametrize(
    ("retry", "text"),
    [
        ({"max_attempts": -2}, "RetryConfig.maxAttempts must be greater or equal to -1."),
        ({"max_doublings": -1}, "RetryConfig.maxDoublings cannot be negative."),
        ({"min_backoff": seconds(-1)}, "RetryConfig.minBackoff cannot be negative."),
        ({"max_backoff": seconds(-1)}, "RetryConfig.maxBackoff cannot be negative."),
        ({"max_retry_duration": seconds(-1)}, "RetryConfig.maxRetryDuration cannot be negative."),
        (
            {"min_backoff": seconds(2), "max_backoff": seconds(1)},
            "RetryConfig.minBackoff must be less than or equal to RetryConfig.maxBackoff.",
        ),
        (
            {"min_backoff": duration_pb2.Duration(seconds=2**62)},
            "RetryConfig.minBackoff is not a valid duration.",
        ),
    ],
)
def test_create_queue_refuses_retry_setting(
    client: tasks_v2.CloudTasksClient, retry: dict[str, object], text: str
) -> None:
    queue = tasks_v2.Queue(name=OTHER, retry_config=tasks_v2.RetryConfig(retry))
    with pytest.raises(exceptions.InvalidArgument) as refusal:
        client.create_queue(parent=LOCATION, queue=queue)
    assert refusal.value.message == text


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_queue_refuses_share_of_logs_that_is_none(client: tasks_v2.CloudTasksClient, queue: str, ratio: float) -> None:
    logging = tasks_v2.StackdriverLoggingConfig(sampling_ratio=ratio)
    with pytest.raises(exceptions.InvalidArgument, match="samplingRatio"):
        client.update_queue(queue=tasks_v2.Queue(name=queue, stackdriver_logging_config=logging))


@pytest.mark.parametrize(
    "changes",
    [{"rate_limits": {"max_dispatches_per_second": 501}}, {"retry_config": {"max_attempts": -2}}],
)
def test_update_refuses_what_create_refuses_and_changes_nothing(
    client: tasks_v2.CloudTasksClient, queue: str, changes: dict[str, object]
) -> None:
    before = client.get_queue(name=queue)
    for name in (queue, OTHER):
        with pytest.raises(exceptions.InvalidArgument, match=r"must be"):
            client.update_queue(queue=tasks_v2.Queue({"name": name, **changes}))
    assert [*client.list_queues(parent=LOCATION)] == [before]


def test_create_queue_refuses_existing_name(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    with pytest.raises(exceptions.AlreadyExists) as refusal:
        client.create_queue(parent=LOCATION, queue=tasks_v2.Queue(name=queue))
    assert refusal.value.message == "Queue already exists"


@pytest.mark.parametrize("queue_id", ["with_underscore", "", "a" * 101, "a/b"])
def test_create_queue_refuses_malformed_name_with_a_link(client: tasks_v2.CloudTasksClient, queue_id: str) -> None:
    with pytest.raises(exceptions.InvalidArgument) as refusal:
        client.create_queue(parent=LOCATION, queue=tasks_v2.Queue(name=f"{LOCATION}/queues/{queue_id}"))
    assert refusal.value.message == (
        'Queue name must be formatted: "projects/<PROJECT_ID>/locations/<LOCATION_ID>/queues/<QUEUE_ID>".'
    )
    (detail,) = refusal.value.details
    assert isinstance(detail, error_details_pb2.Help)
    assert detail.links[0].description == "Definition of queue name"
    assert detail.links[0].url.endswith("#Queue.FIELDS.name")


def test_create_queue_refuses_parent_that_is_no_project(client: tasks_v2.CloudTasksClient) -> None:
    with pytest.raises(exceptions.PermissionDenied) as refusal:
        client.create_queue(parent="nonsense", queue=tasks_v2.Queue(name=OTHER))
    assert refusal.value.message == "Permission denied on resource project nonsense."
    assert refusal.value.reason == "CONSUMER_INVALID"


def test_create_queue_refuses_name_of_another_location(client: tasks_v2.CloudTasksClient) -> None:
    with pytest.raises(exceptions.InvalidArgument) as refusal:
        client.create_queue(parent="projects/local/locations/elsewhere", queue=tasks_v2.Queue(name=OTHER))
    assert refusal.value.message == f"{OTHER} must begin with projects/local/locations/elsewhere."


def test_create_queue_refuses_queue_level_routing(client: tasks_v2.CloudTasksClient) -> None:
    routed = tasks_v2.Queue(name=OTHER, http_target=tasks_v2.HttpTarget(http_method=tasks_v2.HttpMethod.PUT))
    with pytest.raises(exceptions.MethodNotImplemented, match=r"does not support Queue\.http_target"):
        client.create_queue(parent=LOCATION, queue=routed)


def test_name_of_deleted_queue_stays_taken_for_a_while(client: tasks_v2.CloudTasksClient, clock: ManualClock) -> None:
    client.create_queue(parent=LOCATION, queue=tasks_v2.Queue(name=OTHER))
    client.delete_queue(name=OTHER)
    with pytest.raises(exceptions.FailedPrecondition) as refusal:
        client.create_queue(parent=LOCATION, queue=tasks_v2.Queue(name=OTHER))
    assert refusal.value.message == TOO_RECENTLY
    with pytest.raises(exceptions.FailedPrecondition):
        client.update_queue(queue=tasks_v2.Queue(name=OTHER))
    clock.advance(timedelta(days=3).total_seconds())
    assert client.create_queue(parent=LOCATION, queue=tasks_v2.Queue(name=OTHER)).name == OTHER


def test_delete_queue_deletes_its_tasks(client: tasks_v2.CloudTasksClient, queue: str, target: Target) -> None:
    client.pause_queue(name=queue)
    task = client.create_task(parent=queue, task=tasks_v2.Task(http_request=tasks_v2.HttpRequest(url=target.url())))
    client.delete_queue(name=queue)
    with pytest.raises(exceptions.NotFound):
        client.get_task(name=task.name)


def test_calls_refuse_missing_queue(client: tasks_v2.CloudTasksClient) -> None:
    request = tasks_v2.HttpRequest(url="http://localhost/")
    for call in (
        lambda: client.get_queue(name=MISSING),
        lambda: client.pause_queue(name=MISSING),
        lambda: client.resume_queue(name=MISSING),
        lambda: client.purge_queue(name=MISSING),
        lambda: client.create_task(parent=MISSING, task=tasks_v2.Task(http_request=request)),
        lambda: client.list_tasks(parent=MISSING),
    ):
        with pytest.raises(exceptions.NotFound) as refusal:
            call()
        assert refusal.value.message == MISSING_TEXT


def test_delete_refuses_missing_queue_in_other_words(client: tasks_v2.CloudTasksClient) -> None:
    with pytest.raises(exceptions.NotFound) as refusal:
        client.delete_queue(name=MISSING)
    assert refusal.value.message == "Requested entity was not found."


def test_update_creates_missing_queue(client: tasks_v2.CloudTasksClient) -> None:
    asked = tasks_v2.Queue(name=OTHER, rate_limits=tasks_v2.RateLimits(max_dispatches_per_second=7))
    assert client.update_queue(queue=asked).rate_limits.max_dispatches_per_second == 7
    assert client.get_queue(name=OTHER).rate_limits.max_dispatches_per_second == 7


def test_update_changes_what_the_mask_names(client: tasks_v2.CloudTasksClient) -> None:
    before = tasks_v2.Queue(
        name=OTHER,
        rate_limits=tasks_v2.RateLimits(max_dispatches_per_second=7, max_concurrent_dispatches=2),
        retry_config=tasks_v2.RetryConfig(max_attempts=9),
    )
    client.create_queue(parent=LOCATION, queue=before)
    changed = client.update_queue(
        queue=tasks_v2.Queue(name=OTHER, rate_limits=tasks_v2.RateLimits(max_dispatches_per_second=50)),
        update_mask=field_mask_pb2.FieldMask(paths=["rate_limits.max_dispatches_per_second"]),
    )
    assert changed.rate_limits.max_dispatches_per_second == 50
    assert changed.rate_limits.max_concurrent_dispatches == 2
    assert changed.retry_config.max_attempts == 9


def test_update_resets_what_the_mask_names_and_the_queue_does_not(client: tasks_v2.CloudTasksClient) -> None:
    before = tasks_v2.Queue(name=OTHER, retry_config=tasks_v2.RetryConfig(max_attempts=9, min_backoff=seconds(5)))
    client.create_queue(parent=LOCATION, queue=before)
    changed = client.update_queue(
        queue=tasks_v2.Queue(name=OTHER), update_mask=field_mask_pb2.FieldMask(paths=["retry_config.min_backoff"])
    )
    assert changed.retry_config.min_backoff == timedelta(seconds=0.1)
    assert changed.retry_config.max_attempts == 9


def test_update_ignores_output_only_fields_in_the_mask(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    changed = client.update_queue(
        queue=tasks_v2.Queue(
            name=queue, state=tasks_v2.Queue.State.PAUSED, rate_limits=tasks_v2.RateLimits(max_burst_size=3)
        ),
        update_mask=field_mask_pb2.FieldMask(paths=["state", "rate_limits.max_burst_size"]),
    )
    assert changed.state == tasks_v2.Queue.State.RUNNING
    assert changed.rate_limits.max_burst_size == 100


def test_update_without_mask_replaces_every_setting_but_state(client: tasks_v2.CloudTasksClient) -> None:
    before = tasks_v2.Queue(name=OTHER, retry_config=tasks_v2.RetryConfig(max_attempts=9))
    client.create_queue(parent=LOCATION, queue=before)
    client.pause_queue(name=OTHER)
    client.purge_queue(name=OTHER)
    changed = client.update_queue(queue=tasks_v2.Queue(name=OTHER, state=tasks_v2.Queue.State.RUNNING))
    assert changed.retry_config.max_attempts == 100
    assert changed.state == tasks_v2.Queue.State.PAUSED
    assert changed.purge_time is not None


def test_update_refuses_unknown_field(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    with pytest.raises(exceptions.InvalidArgument, match="names a field that Queue does not have"):
        client.update_queue(
            queue=tasks_v2.Queue(name=queue), update_mask=field_mask_pb2.FieldMask(paths=["rate_limit"])
        )


def test_pause_and_resume_show_in_the_state(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    assert client.pause_queue(name=queue).state == tasks_v2.Queue.State.PAUSED
    assert client.get_queue(name=queue).state == tasks_v2.Queue.State.PAUSED
    assert client.resume_queue(name=queue).state == tasks_v2.Queue.State.RUNNING


def test_list_queues_pages_by_name_within_a_location(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    ids = ["zebra", "alpha", "mike", "alpha2"]
    for queue_id in ids:
        client.create_queue(parent=LOCATION, queue=tasks_v2.Queue(name=f"{LOCATION}/queues/{queue_id}"))
    elsewhere = "projects/local/locations/local2"
    client.create_queue(parent=elsewhere, queue=tasks_v2.Queue(name=f"{elsewhere}/queues/alpha"))
    listed = client.list_queues(tasks_v2.ListQueuesRequest(parent=LOCATION, page_size=2))
    pages = [[found.name.rpartition("/")[2] for found in page.queues] for page in listed.pages]
    assert pages == [["alpha", "alpha2"], ["default", "mike"], ["zebra"]]


def test_list_queues_refuses_filter(client: tasks_v2.CloudTasksClient) -> None:
    with pytest.raises(exceptions.MethodNotImplemented, match="filter"):
        client.list_queues(tasks_v2.ListQueuesRequest(parent=LOCATION, filter="state: PAUSED"))


def test_list_queues_refuses_token_of_another_list_or_time(
    client: tasks_v2.CloudTasksClient, clock: ManualClock
) -> None:
    client.create_queue(parent=LOCATION, queue=tasks_v2.Queue(name=OTHER))
    first = next(client.list_queues(tasks_v2.ListQueuesRequest(parent=LOCATION, page_size=1)).pages)
    elsewhere = "projects/local/locations/local2"
    for parent, token in ((elsewhere, first.next_page_token), (LOCATION, "nonsense"), (LOCATION, "bm9uc2Vuc2U=")):
        with pytest.raises(exceptions.InvalidArgument, match="page token"):
            client.list_queues(tasks_v2.ListQueuesRequest(parent=parent, page_token=token))
    clock.advance(timedelta(hours=2, seconds=1).total_seconds())
    with pytest.raises(exceptions.InvalidArgument, match="page token"):
        client.list_queues(tasks_v2.ListQueuesRequest(parent=LOCATION, page_token=first.next_page_token))


def test_methods_not_offered_say_so(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    with pytest.raises(exceptions.MethodNotImplemented) as refusal:
        client.get_iam_policy(iam_policy_pb2.GetIamPolicyRequest(resource=queue))
    assert refusal.value.message == "The local Cloud Tasks service does not support GetIamPolicy."


def test_queues_of_the_constructor_exist_at_start(cloud: LocalCloud, client: tasks_v2.CloudTasksClient) -> None:
    assert [found.name for found in client.list_queues(parent=LOCATION)] == [f"{LOCATION}/queues/default"]
