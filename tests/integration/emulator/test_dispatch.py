"""Dispatch over real sockets on a clock that stands still: headers, retries, limits, deadlines, forced runs."""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from google.api_core import exceptions
from google.cloud import tasks_v2
from google.protobuf import timestamp_pb2

from safedefer.emulator import LocalCloud, ManualClock
from tests.integration.emulator.targets import Reply, Target

LOCATION = "projects/local/locations/local1"
TIMEOUT = 20.0
"""Far more than any of these waits takes; only a broken test uses it up."""

Create = Callable[..., tasks_v2.Task]


@pytest.fixture
def create(client: tasks_v2.CloudTasksClient, queue: str, target: Target) -> Create:
    """Create a task that is sent to the target. `at` schedules it; other arguments are fields of the request."""

    def create(
        *, parent: str = queue, name: str = "", at: datetime | None = None, retry: object = None, **fields: object
    ) -> tasks_v2.Task:
        task = tasks_v2.Task(name=name and f"{parent}/tasks/{name}")
        task.http_request = tasks_v2.HttpRequest({"url": target.url("/handler"), **fields})
        if retry is not None:
            task.retry_config = tasks_v2.RetryConfig(retry)
        if at is not None:
            task.schedule_time = timestamp_pb2.Timestamp(seconds=int(at.timestamp()), nanos=at.microsecond * 1000)
        return client.create_task(parent=parent, task=task)

    return create


def make_queue(client: tasks_v2.CloudTasksClient, queue_id: str, **settings: object) -> str:
    name = f"{LOCATION}/queues/{queue_id}"
    client.create_queue(parent=LOCATION, queue=tasks_v2.Queue({"name": name, **settings}))
    return name


def delays_of(cloud: LocalCloud, clock: ManualClock, step: float, attempts: int) -> list[float]:
    """Let attempts happen, `step` seconds at a time, and return the seconds from each failure to the next attempt."""
    while len(cloud.tasks.attempts) < attempts:
        assert cloud.tasks.wait_settled(TIMEOUT)
        clock.advance(step)
    assert cloud.tasks.wait_settled(TIMEOUT)
    made = cloud.tasks.attempts[:attempts]
    return [(after.dispatched_at - before.finished_at).total_seconds() for before, after in itertools.pairwise(made)]


def test_first_attempt_carries_exactly_the_headers_of_the_service(
    create: Create, cloud: LocalCloud, clock: ManualClock, target: Target
) -> None:
    create(name="one", body=b"payload", headers={"X-Mine": "\u00fc"})
    assert cloud.tasks.wait_idle(TIMEOUT)
    (request,) = target.received
    assert request.method == "POST"
    assert request.path == "/handler"
    assert request.body == b"payload"
    assert dict(request.headers) == {
        "Host": target.url("").removeprefix("http://"),
        "User-Agent": "Google-Cloud-Tasks",
        "X-CloudTasks-QueueName": "default",
        "X-CloudTasks-TaskName": "one",
        "X-CloudTasks-TaskRetryCount": "0",
        "X-CloudTasks-TaskExecutionCount": "0",
        "X-CloudTasks-TaskETA": f"{clock.now().timestamp():.6f}",
        "X-Mine": "\u00fc".encode().decode("latin-1"),
        "Content-Length": "7",
    }


@pytest.mark.parametrize("method", list(tasks_v2.HttpMethod)[1:], ids=lambda method: str(method.name))
def test_every_method_arrives(create: Create, cloud: LocalCloud, target: Target, method: tasks_v2.HttpMethod) -> None:
    create(http_method=method, url=target.url("/a%20b?c=d#fragment"))
    assert cloud.tasks.wait_idle(TIMEOUT)
    (request,) = target.received
    assert (request.method, request.path) == (method.name, "/a%20b?c=d")
    has_length = method.name in {"POST", "PUT", "PATCH"}
    assert request.header("Content-Length") == ("0" if has_length else None)


def test_url_is_encoded_on_the_way(create: Create, cloud: LocalCloud, target: Target) -> None:
    create(url=target.url("/with space/\u00e9?q=\u00e9"))
    assert cloud.tasks.wait_idle(TIMEOUT)
    assert target.received[0].path == "/with%20space/%C3%A9?q=%C3%A9"


def test_reserved_headers_of_the_caller_never_arrive(create: Create, cloud: LocalCloud, target: Target) -> None:
    forged = {
        "host": "evil.example",
        "content-length": "999",
        "TRANSFER-ENCODING": "chunked",
        "Connection": "Upgrade",
        "user-agent": "mine",
        "x-google-internal": "1",
        "X-AppEngine-QueueName": "forged",
        "x-cloudtasks-queuename": "forged",
        "X-CLOUDTASKS-TaskPreviousResponse": "200",
    }
    create(headers={**forged, "X-Mine": "kept"}, body=b"payload")
    assert cloud.tasks.wait_idle(TIMEOUT)
    (request,) = target.received
    assert request.header("Host") == target.url("").removeprefix("http://")
    assert request.header("Content-Length") == "7"
    assert request.header("User-Agent") == "Google-Cloud-Tasks"
    assert request.header("X-CloudTasks-QueueName") == "default"
    assert request.header("X-Mine") == "kept"
    for name in (
        "Transfer-Encoding",
        "Connection",
        "X-Google-Internal",
        "X-AppEngine-QueueName",
        "X-CloudTasks-TaskPreviousResponse",
    ):
        assert request.header(name) is None


@pytest.mark.parametrize("headers", [{"X-Mine": "a\r\nX-Forged: b"}, {"X-Mine\r\nX-Forged": "b"}])
def test_header_that_cannot_be_sent_fails_the_attempt(
    create: Create, cloud: LocalCloud, target: Target, headers: dict[str, str]
) -> None:
    create(headers=headers)
    assert cloud.tasks.wait_attempts(1, TIMEOUT)
    assert list(target.received) == []
    assert cloud.tasks.attempts[0].outcome == "unreachable"


def test_undecodable_escape_fails_the_attempt(create: Create, cloud: LocalCloud, target: Target) -> None:
    create(url=target.url("/%zz"))
    assert cloud.tasks.wait_attempts(1, TIMEOUT)
    assert list(target.received) == []
    assert cloud.tasks.attempts[0].status is None


def test_task_waits_for_its_time(create: Create, cloud: LocalCloud, clock: ManualClock, target: Target) -> None:
    due = clock.now() + timedelta(seconds=100)
    create(at=due)
    clock.advance(99.9)
    assert cloud.tasks.wait_settled(TIMEOUT)
    assert list(target.received) == []
    clock.advance(0.1)
    assert cloud.tasks.wait_idle(TIMEOUT)
    assert target.received[0].header("X-CloudTasks-TaskETA") == f"{due.timestamp():.6f}"


def test_counts_follow_the_recorded_sequence_of_answers(
    create: Create, cloud: LocalCloud, clock: ManualClock, target: Target
) -> None:
    target.reply(503, 404, 429, 500, 302, 200)
    create()
    for _ in range(6):
        assert cloud.tasks.wait_settled(TIMEOUT)
        clock.advance(60)
    assert cloud.tasks.wait_settled(TIMEOUT)
    assert [request.header("X-CloudTasks-TaskRetryCount") for request in target.received] == list("012345")
    assert [request.header("X-CloudTasks-TaskExecutionCount") for request in target.received] == list("001223")
    previous = [request.header("X-CloudTasks-TaskPreviousResponse") for request in target.received]
    assert previous == [None, "503", "404", "429", "500", "302"]
    reasons = [request.header("X-CloudTasks-TaskRetryReason") for request in target.received]
    assert reasons == [None, "", "", "", "", ""]
    assert [attempt.status for attempt in cloud.tasks.attempts] == [503, 404, 429, 500, 302, 200]
    assert [attempt.attempt for attempt in cloud.tasks.attempts] == [1, 2, 3, 4, 5, 6]


def test_redirect_is_a_failed_attempt_and_not_followed(
    create: Create, cloud: LocalCloud, clock: ManualClock, target: Target
) -> None:
    target.reply(Reply(status=307, headers={"Location": target.url("/elsewhere")}))
    create()
    assert cloud.tasks.wait_settled(TIMEOUT)
    clock.advance(1)
    assert cloud.tasks.wait_idle(TIMEOUT)
    assert [request.path for request in target.received] == ["/handler", "/handler"]


@pytest.mark.parametrize(
    ("retry", "delays"),
    [
        (
            {"min_backoff": timedelta(seconds=10), "max_backoff": timedelta(seconds=300), "max_doublings": 3},
            [10, 20, 40, 80, 160, 240, 300, 300],
        ),
        (
            {"min_backoff": timedelta(seconds=10), "max_backoff": timedelta(seconds=40), "max_doublings": 1},
            [10, 20, 40, 40],
        ),
    ],
)
def test_backoff_doubles_then_grows_linearly_then_stays(
    *,
    client: tasks_v2.CloudTasksClient,
    create: Create,
    cloud: LocalCloud,
    clock: ManualClock,
    target: Target,
    retry: dict[str, object],
    delays: list[float],
) -> None:
    target.reply(*[500] * 10)
    create(parent=make_queue(client, "slow", retry_config=retry))
    assert delays_of(cloud, clock, 10, len(delays) + 1) == delays


def test_retry_config_of_the_task_overrides_that_of_the_queue(
    client: tasks_v2.CloudTasksClient, create: Create, cloud: LocalCloud, clock: ManualClock, target: Target
) -> None:
    target.reply(500, 500, 500)
    slow = make_queue(client, "slow", retry_config={"min_backoff": timedelta(seconds=100), "max_attempts": 2})
    create(parent=slow, retry={"min_backoff": timedelta(seconds=1), "max_attempts": 3})
    assert delays_of(cloud, clock, 1, 3) == [1, 2]
    assert list(client.list_tasks(parent=slow)) == []


def test_task_is_dropped_after_its_attempts(
    client: tasks_v2.CloudTasksClient, create: Create, cloud: LocalCloud, clock: ManualClock, target: Target
) -> None:
    target.reply(500, 500, 500)
    task = create(parent=make_queue(client, "brief", retry_config={"max_attempts": 2}))
    assert cloud.tasks.wait_settled(TIMEOUT)
    clock.advance(3600)
    assert cloud.tasks.wait_attempts(2, TIMEOUT)
    with pytest.raises(exceptions.NotFound, match="either successfully completed or was deleted"):
        client.get_task(name=task.name)
    clock.advance(3600)
    assert cloud.tasks.wait_settled(TIMEOUT)
    assert len(target.received) == 2


def test_duration_lengthens_the_run_beyond_the_attempts(
    client: tasks_v2.CloudTasksClient, create: Create, cloud: LocalCloud, clock: ManualClock, target: Target
) -> None:
    target.reply(*[500] * 20)
    retry = {
        "max_attempts": 2,
        "max_retry_duration": timedelta(seconds=35),
        "min_backoff": timedelta(seconds=10),
        "max_backoff": timedelta(seconds=10),
    }
    create(parent=make_queue(client, "long", retry_config=retry))
    for _ in range(10):
        assert cloud.tasks.wait_settled(TIMEOUT)
        clock.advance(10)
    assert cloud.tasks.wait_settled(TIMEOUT)
    # At 0, 10, 20, 30 and 40 seconds: the last is the first to fail with both limits spent.
    assert len(target.received) == 5


@pytest.mark.parametrize(
    ("reply", "delay"),
    [
        (Reply(status=500, headers={"Retry-After": "30"}), 1),
        (Reply(status=429), 2),
        (Reply(status=503), 2),
        (Reply(status=503, headers={"Retry-After": "30"}), 30),
        (Reply(status=429, headers={"Retry-After": "1"}), 2),
        (Reply(status=429, headers={"Retry-After": "soon"}), 2),
    ],
)
def test_throttling_answers_raise_the_backoff(
    *,
    client: tasks_v2.CloudTasksClient,
    create: Create,
    cloud: LocalCloud,
    clock: ManualClock,
    target: Target,
    reply: Reply,
    delay: float,
) -> None:
    target.reply(reply)
    create(parent=make_queue(client, "slow", retry_config={"min_backoff": timedelta(seconds=1)}))
    assert delays_of(cloud, clock, 1, 2) == [delay]


def test_retry_after_may_be_a_date(
    create: Create, cloud: LocalCloud, client: tasks_v2.CloudTasksClient, clock: ManualClock, target: Target
) -> None:
    asked = (clock.now() + timedelta(minutes=5)).replace(microsecond=0)
    target.reply(Reply(status=503, headers={"Retry-After": asked.strftime("%a, %d %b %Y %H:%M:%S GMT")}))
    task = create()
    assert cloud.tasks.wait_settled(TIMEOUT)
    found = tasks_v2.Task.pb(client.get_task(name=task.name))
    assert found.schedule_time.ToDatetime(tzinfo=UTC) == asked


def test_unreachable_target_fails_the_attempt(
    create: Create, cloud: LocalCloud, client: tasks_v2.CloudTasksClient, clock: ManualClock, target: Target
) -> None:
    closed = Target()
    closed.stop()
    task = create(url=closed.url())
    assert cloud.tasks.wait_attempts(1, TIMEOUT)
    found = client.get_task(name=task.name)
    assert (found.dispatch_count, found.response_count) == (1, 0)
    assert found.last_attempt.response_status.code == 14


def test_attempts_show_in_the_task(
    create: Create, cloud: LocalCloud, client: tasks_v2.CloudTasksClient, clock: ManualClock, target: Target
) -> None:
    start = clock.now()
    target.reply(500, 404)
    task = create()
    assert cloud.tasks.wait_settled(TIMEOUT)
    clock.advance(0.1)
    assert cloud.tasks.wait_attempts(2, TIMEOUT)
    found = tasks_v2.Task.pb(client.get_task(name=task.name))
    assert (found.dispatch_count, found.response_count) == (2, 2)
    assert found.first_attempt.dispatch_time.ToDatetime(tzinfo=UTC) == start
    assert not found.first_attempt.HasField("response_time")
    last = found.last_attempt
    assert last.schedule_time.ToDatetime(tzinfo=UTC) == last.dispatch_time.ToDatetime(tzinfo=UTC) == clock.now()
    assert last.response_time.ToDatetime(tzinfo=UTC) == clock.now()
    assert (last.response_status.code, last.response_status.message) == (5, "HTTP status code 404")
    assert found.schedule_time.ToDatetime(tzinfo=UTC) == clock.now() + timedelta(seconds=0.2)


def test_passed_deadline_cuts_the_attempt_off(
    create: Create, cloud: LocalCloud, client: tasks_v2.CloudTasksClient, clock: ManualClock, target: Target
) -> None:
    target.reply(Reply(after=target.gate()))
    task = create()
    assert target.wait_received(1)
    assert client.get_task(name=task.name).last_attempt.response_time is None
    clock.advance(599)
    assert list(cloud.tasks.attempts) == []
    clock.advance(1)
    assert cloud.tasks.wait_attempts(1, TIMEOUT)
    assert cloud.tasks.attempts[0].outcome == "deadline"
    found = client.get_task(name=task.name)
    assert (found.dispatch_count, found.response_count) == (1, 0)
    assert found.last_attempt.response_status.code == 4
    clock.advance(1)
    assert cloud.tasks.wait_idle(TIMEOUT)
    retry = target.received[-1]
    assert retry.header("X-CloudTasks-TaskPreviousResponse") == "504"
    assert retry.header("X-CloudTasks-TaskRetryCount") == "1"
    assert retry.header("X-CloudTasks-TaskExecutionCount") == "0"


def test_paused_queue_dispatches_after_resuming(
    client: tasks_v2.CloudTasksClient, create: Create, cloud: LocalCloud, target: Target, queue: str
) -> None:
    client.pause_queue(name=queue)
    create()
    assert cloud.tasks.wait_idle(TIMEOUT)
    assert list(target.received) == []
    client.resume_queue(name=queue)
    assert cloud.tasks.wait_attempts(1, TIMEOUT)
    assert len(target.received) == 1


def test_purge_drops_waiting_tasks_and_keeps_later_ones(
    client: tasks_v2.CloudTasksClient, create: Create, cloud: LocalCloud, target: Target, queue: str
) -> None:
    client.pause_queue(name=queue)
    create(url=target.url("/before"))
    assert client.purge_queue(name=queue).purge_time is not None
    create(url=target.url("/after"))
    client.resume_queue(name=queue)
    assert cloud.tasks.wait_idle(TIMEOUT)
    assert [request.path for request in target.received] == ["/after"]


def test_answer_for_a_task_deleted_meanwhile_changes_nothing(
    client: tasks_v2.CloudTasksClient, create: Create, cloud: LocalCloud, clock: ManualClock, target: Target
) -> None:
    gate = target.gate()
    target.reply(Reply(status=500, after=gate))
    task = create()
    assert cloud.tasks.wait_in_flight(1, TIMEOUT)
    client.delete_task(name=task.name)
    gate.set()
    assert cloud.tasks.wait_attempts(1, TIMEOUT)
    clock.advance(3600)
    assert cloud.tasks.wait_settled(TIMEOUT)
    assert len(target.received) == 1


def test_rate_lets_a_burst_through_and_then_one_by_one(
    client: tasks_v2.CloudTasksClient, create: Create, cloud: LocalCloud, clock: ManualClock, target: Target
) -> None:
    slow = make_queue(client, "slow", rate_limits={"max_dispatches_per_second": 2})
    client.pause_queue(name=slow)
    for _ in range(14):
        create(parent=slow)
    client.resume_queue(name=slow)
    counts = []
    for _ in range(6):
        assert cloud.tasks.wait_settled(TIMEOUT)
        counts.append(len(target.received))
        clock.advance(0.5)
    assert counts == [10, 11, 12, 13, 14, 14]


def test_retries_spend_tokens_too(
    client: tasks_v2.CloudTasksClient, create: Create, cloud: LocalCloud, clock: ManualClock, target: Target
) -> None:
    target.reply(*[500] * 100)
    slow = make_queue(
        client,
        "slow",
        rate_limits={"max_dispatches_per_second": 0.1},
        retry_config={"max_backoff": timedelta(seconds=0.1)},
    )
    create(parent=slow)
    for _ in range(20):
        assert cloud.tasks.wait_settled(TIMEOUT)
        clock.advance(0.1)
    assert cloud.tasks.wait_settled(TIMEOUT)
    assert len(target.received) == 10


def test_concurrency_bounds_attempts_in_flight(
    client: tasks_v2.CloudTasksClient, create: Create, cloud: LocalCloud, target: Target
) -> None:
    gate = target.gate()
    target.reply(*[Reply(after=gate)] * 5)
    narrow = make_queue(client, "narrow", rate_limits={"max_concurrent_dispatches": 2})
    for _ in range(5):
        create(parent=narrow)
    assert cloud.tasks.wait_in_flight(2, TIMEOUT)
    dispatched = [task.dispatch_count for task in client.list_tasks(parent=narrow)]
    assert sum(dispatched) == 2
    assert not cloud.tasks.wait_in_flight(3, 0.1)
    gate.set()
    assert cloud.tasks.wait_idle(TIMEOUT)
    assert len(target.received) == 5


def test_change_of_limits_holds_for_waiting_tasks(
    client: tasks_v2.CloudTasksClient, create: Create, cloud: LocalCloud, target: Target
) -> None:
    gate = target.gate()
    target.reply(*[Reply(after=gate)] * 3)
    narrow = make_queue(client, "narrow", rate_limits={"max_concurrent_dispatches": 1})
    for _ in range(3):
        create(parent=narrow)
    assert cloud.tasks.wait_in_flight(1, TIMEOUT)
    wider = tasks_v2.Queue(name=narrow, rate_limits=tasks_v2.RateLimits(max_concurrent_dispatches=3))
    client.update_queue(queue=wider)
    assert cloud.tasks.wait_in_flight(3, TIMEOUT)


def test_run_dispatches_ahead_of_time_and_from_a_paused_queue(
    *,
    client: tasks_v2.CloudTasksClient,
    create: Create,
    cloud: LocalCloud,
    clock: ManualClock,
    target: Target,
    queue: str,
) -> None:
    client.pause_queue(name=queue)
    gate = target.gate()
    target.reply(Reply(after=gate))
    task = create(at=clock.now() + timedelta(days=1), body=b"payload")
    returned = client.run_task(name=task.name)
    assert returned.dispatch_count == 1
    assert returned.response_count == 0
    assert returned.http_request.body == b""
    gate.set()
    assert cloud.tasks.wait_idle(TIMEOUT)
    assert target.received[0].body == b"payload"
    clock.advance(timedelta(days=2).total_seconds())
    assert cloud.tasks.wait_settled(TIMEOUT)
    assert len(target.received) == 1


def test_run_dispatches_a_task_that_is_running(
    client: tasks_v2.CloudTasksClient, create: Create, cloud: LocalCloud, target: Target
) -> None:
    gate = target.gate()
    target.reply(Reply(after=gate), Reply(after=gate))
    task = create()
    assert cloud.tasks.wait_in_flight(1, TIMEOUT)
    client.run_task(name=task.name)
    assert cloud.tasks.wait_in_flight(2, TIMEOUT)
    gate.set()
    assert cloud.tasks.wait_idle(TIMEOUT)
    assert len(target.received) == 2


def test_failed_run_counts_its_delay_from_the_call(
    client: tasks_v2.CloudTasksClient, create: Create, cloud: LocalCloud, clock: ManualClock, target: Target
) -> None:
    gate = target.gate()
    target.reply(Reply(status=500, after=gate))
    slow = make_queue(client, "slow", retry_config={"min_backoff": timedelta(seconds=100)})
    task = create(parent=slow, at=clock.now() + timedelta(hours=1))
    called_at = clock.now()
    client.run_task(name=task.name)
    clock.advance(30)
    gate.set()
    assert cloud.tasks.wait_attempts(1, TIMEOUT)
    found = tasks_v2.Task.pb(client.get_task(name=task.name))
    assert found.schedule_time.ToDatetime(tzinfo=UTC) == called_at + timedelta(seconds=100)


def test_answer_that_breaks_off_is_no_answer(create: Create, cloud: LocalCloud, target: Target) -> None:
    target.reply(Reply(status=200, headers={"Content-Length": "1000", "Connection": "close"}, body=b"short"))
    create()
    assert cloud.tasks.wait_attempts(1, TIMEOUT)
    assert cloud.tasks.attempts[0].outcome == "unreachable"


def test_deadline_that_passes_within_the_answer_fails_the_attempt(
    create: Create, cloud: LocalCloud, clock: ManualClock, target: Target
) -> None:
    # No length: only the end of the connection ends this body, and the cut must not be taken for it.
    target.reply(Reply(status=200, headers={"Connection": "close"}, endless=target.gate()))
    create()
    assert target.wait_received(1)
    clock.advance(600)
    assert cloud.tasks.wait_attempts(1, TIMEOUT)
    assert cloud.tasks.attempts[0].outcome == "deadline"


def test_next_address_of_a_host_is_tried(create: Create, cloud: LocalCloud, target: Target) -> None:
    # On most machines this is ::1 first, where nobody listens.
    create(url=target.url("/").replace("127.0.0.1", "localhost"))
    assert cloud.tasks.wait_idle(TIMEOUT)
    assert target.received[0].header("Host") == target.url("").replace("http://127.0.0.1", "localhost")
