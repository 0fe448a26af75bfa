"""Tasks through the real client: the stored form, names, views, pages, and every refusal."""

from datetime import UTC, datetime, timedelta

import pytest
from google.api_core import exceptions
from google.cloud import tasks_v2
from google.protobuf import timestamp_pb2
from google.rpc import error_details_pb2  # type: ignore[import-untyped]

from safedefer.emulator import LocalCloud, ManualClock
from tests.integration.emulator.targets import Target

URL = "http://127.0.0.1:1/handler"
NOT_FOUND = "Requested entity was not found."
GONE = (
    "The task no longer exists, though a task with this name existed recently. "
    "The task either successfully completed or was deleted."
)
TOO_RECENTLY = (
    "The task cannot be created because a task with this name existed too recently. For more information about task "
    "de-duplication see https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues.tasks/create"
    "#body.request_body.FIELDS.task."
)


@pytest.fixture(autouse=True)
def _paused(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    client.pause_queue(name=queue)


def http_task(name: str = "", **fields: object) -> tasks_v2.Task:
    return tasks_v2.Task(name=name, http_request=tasks_v2.HttpRequest({"url": URL, **fields}))


def at(moment: datetime) -> timestamp_pb2.Timestamp:
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp


def refused(client: tasks_v2.CloudTasksClient, queue: str, task: tasks_v2.Task) -> str:
    with pytest.raises(exceptions.InvalidArgument) as refusal:
        client.create_task(parent=queue, task=task)
    assert list(client.list_tasks(parent=queue)) == []
    return str(refusal.value.message)


def test_task_reads_back_in_its_stored_form(client: tasks_v2.CloudTasksClient, queue: str, clock: ManualClock) -> None:
    asked = http_task(headers={"x-lower": "1", "USER-AGENT": "mine"}, body=b"payload")
    asked.dispatch_count = 7
    created = client.create_task(parent=queue, task=asked)
    assert dict(created.http_request.headers) == {"x-lower": "1", "User-Agent": "Google-Cloud-Tasks"}
    assert created.http_request.http_method == tasks_v2.HttpMethod.POST
    raw = tasks_v2.Task.pb(created)
    assert raw.dispatch_deadline.ToTimedelta() == timedelta(minutes=10)
    assert raw.create_time.ToDatetime(tzinfo=UTC) == clock.now().replace(microsecond=0)
    assert raw.schedule_time.ToDatetime(tzinfo=UTC) == clock.now()
    assert created.dispatch_count == 0
    assert client.get_task(name=created.name) == created


def test_server_makes_ids_of_digits(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    names = {client.create_task(parent=queue, task=http_task()).name for _ in range(5)}
    assert len(names) == 5
    for name in names:
        parent, _, task_id = name.rpartition("/tasks/")
        assert parent == queue
        assert task_id.isdigit()
        assert 18 <= len(task_id) <= 20


def test_basic_view_lacks_the_body_and_nothing_else(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    asked = http_task(
        body=b"secret", headers={"X-Kept": "yes"}, oidc_token=tasks_v2.OidcToken(service_account_email="a@local")
    )
    basic = client.create_task(parent=queue, task=asked)
    assert basic.view == tasks_v2.Task.View.BASIC
    assert basic.http_request.body == b""
    assert basic.http_request.headers["X-Kept"] == "yes"
    assert basic.http_request.oidc_token.service_account_email == "a@local"
    full = client.get_task(tasks_v2.GetTaskRequest(name=basic.name, response_view=tasks_v2.Task.View.FULL))
    assert full.view == tasks_v2.Task.View.FULL
    assert full.http_request.body == b"secret"
    asked_full = tasks_v2.CreateTaskRequest(parent=queue, task=asked, response_view=tasks_v2.Task.View.FULL)
    assert client.create_task(asked_full).http_request.body == b"secret"


def test_schedule_time_in_the_past_means_now(client: tasks_v2.CloudTasksClient, queue: str, clock: ManualClock) -> None:
    task = http_task()
    task.schedule_time = at(clock.now() - timedelta(hours=1))
    created = tasks_v2.Task.pb(client.create_task(parent=queue, task=task))
    assert created.schedule_time.ToDatetime(tzinfo=UTC) == clock.now()


def test_create_refuses_name_of_live_task(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    client.create_task(parent=queue, task=http_task(f"{queue}/tasks/one"))
    with pytest.raises(exceptions.AlreadyExists) as refusal:
        client.create_task(parent=queue, task=http_task(f"{queue}/tasks/one"))
    assert refusal.value.message == "Requested entity already exists"


def test_create_refuses_name_of_deleted_task_until_it_is_forgotten(
    client: tasks_v2.CloudTasksClient, queue: str, clock: ManualClock
) -> None:
    name = f"{queue}/tasks/one"
    client.create_task(parent=queue, task=http_task(name))
    client.delete_task(name=name)
    clock.advance(timedelta(hours=24).total_seconds() - 1)
    with pytest.raises(exceptions.AlreadyExists) as refusal:
        client.create_task(parent=queue, task=http_task(name))
    assert refusal.value.message == TOO_RECENTLY
    clock.advance(1)
    assert client.create_task(parent=queue, task=http_task(name)).name == name


def test_create_refuses_name_of_purged_task(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    name = f"{queue}/tasks/one"
    client.create_task(parent=queue, task=http_task(name))
    client.purge_queue(name=queue)
    assert list(client.list_tasks(parent=queue)) == []
    with pytest.raises(exceptions.AlreadyExists) as refusal:
        client.create_task(parent=queue, task=http_task(name))
    assert refusal.value.message == TOO_RECENTLY


def test_create_refuses_name_of_completed_task(
    client: tasks_v2.CloudTasksClient, cloud: LocalCloud, queue: str, target: Target
) -> None:
    name = f"{queue}/tasks/one"
    client.resume_queue(name=queue)
    client.create_task(parent=queue, task=http_task(name, url=target.url()))
    assert cloud.tasks.wait_idle(10)
    with pytest.raises(exceptions.AlreadyExists) as refusal:
        client.create_task(parent=queue, task=http_task(name, url=target.url()))
    assert refusal.value.message == TOO_RECENTLY
    with pytest.raises(exceptions.NotFound) as missing:
        client.get_task(name=name)
    assert missing.value.message == GONE
    assert len(target.received) == 1


def test_tombstone_length_can_be_chosen(clock: ManualClock, target: Target, queue: str) -> None:
    from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

    from tests.support.channels import open_channel

    with (
        LocalCloud(clock=clock, queues=[queue], task_name_memory=timedelta(seconds=2)) as cloud,
        open_channel(cloud.tasks.address) as channel,
    ):
        client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
        for _ in range(2):
            client.create_task(parent=queue, task=http_task(f"{queue}/tasks/one", url=target.url()))
            assert cloud.tasks.wait_idle(10)
            clock.advance(2)
    assert len(target.received) == 2


@pytest.mark.parametrize("task_id", ["", "with space", "a" * 501, "dot.dot", "a/b"])
def test_create_refuses_task_id(client: tasks_v2.CloudTasksClient, queue: str, task_id: str) -> None:
    with pytest.raises(exceptions.InvalidArgument) as refusal:
        client.create_task(parent=queue, task=http_task(f"{queue}/tasks/{task_id}"))
    assert refusal.value.message == (
        f'Task ID "{task_id}" can contain only letters ([A-Za-z]), numbers ([0-9]), hyphens (-), or underscores (_). '
        "Task ID must between 1 and 500 characters."
    )
    (detail,) = refusal.value.details
    assert isinstance(detail, error_details_pb2.Help)
    assert detail.links[0].description == "Definition of task ID"
    assert detail.links[0].url.endswith("#Task.FIELDS.name")


def test_create_refuses_name_in_another_queue(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    other = "projects/local/locations/local1/queues/other"
    assert refused(client, queue, http_task(f"{other}/tasks/one")) == (
        f"The queue name from request ('{queue}') must be the same as the queue name in the named task ('{other}')."
    )


def test_create_refuses_name_that_is_no_path(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    assert refused(client, queue, http_task("one")).startswith("Task name must be formatted: ")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", "HttpRequest.url is required."),
        ("localhost/handler", "HttpTarget.url must start with 'http://' or 'https://'."),
        ("ftp://localhost/", "HttpTarget.url must start with 'http://' or 'https://'."),
        ("http://localhost/" + "a" * 2067, "HttpRequest.url must be at most 2083 characters."),
        ("http://localhost/" + "\u00e9" * 400, "HttpRequest.url must be at most 2083 characters."),
    ],
)
def test_create_refuses_url(client: tasks_v2.CloudTasksClient, queue: str, url: str, text: str) -> None:
    assert refused(client, queue, http_task(url=url)) == text


def test_create_accepts_longest_url_and_undecodable_escape(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    for url in ("http://localhost/" + "a" * 2066, "http://localhost/%zz"):
        assert client.create_task(parent=queue, task=http_task(url=url)).http_request.url == url


@pytest.mark.parametrize("seconds", [0, 14.999, 1800.001, -1])
def test_create_refuses_dispatch_deadline(client: tasks_v2.CloudTasksClient, queue: str, seconds: float) -> None:
    task = http_task()
    tasks_v2.Task.pb(task).dispatch_deadline.FromTimedelta(timedelta(seconds=seconds))
    assert refused(client, queue, task) == "Task.dispatchDeadline must be between [15s, 30m]."


@pytest.mark.parametrize(("seconds", "kept"), [(15, 15), (1800, 1800), (20.0005, 20.0)])
def test_create_keeps_dispatch_deadline_to_the_millisecond(
    client: tasks_v2.CloudTasksClient, queue: str, seconds: float, kept: float
) -> None:
    task = http_task()
    tasks_v2.Task.pb(task).dispatch_deadline.FromTimedelta(timedelta(seconds=seconds))
    created = tasks_v2.Task.pb(client.create_task(parent=queue, task=task))
    assert created.dispatch_deadline.ToTimedelta() == timedelta(seconds=kept)


def test_create_refuses_schedule_time_beyond_thirty_days(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    task = http_task()
    task.schedule_time = at(datetime(2100, 1, 2, 11, 4, 5, tzinfo=UTC))
    assert refused(client, queue, task) == (
        "The Task.scheduleTime, 2100-01-02T03:04:05-08:00, is too far in the future. "
        "Schedule time must be no more than 720h in the future."
    )


def test_create_accepts_schedule_time_thirty_days_ahead(
    client: tasks_v2.CloudTasksClient, queue: str, clock: ManualClock
) -> None:
    task = http_task()
    task.schedule_time = at(clock.now() + timedelta(days=30))
    assert client.create_task(parent=queue, task=task).name


def padded_task(queue: str, clock: ManualClock, size: int) -> tasks_v2.Task:
    """Return a task whose stored form has `size` bytes."""
    task = http_task(f"{queue}/tasks/one", body=b"x" * (size - 1000))
    stored = tasks_v2.Task.pb(tasks_v2.Task(task))
    stored.http_request.headers["User-Agent"] = "Google-Cloud-Tasks"
    stored.http_request.http_method = 1
    stored.create_time.FromDatetime(clock.now().replace(microsecond=0))
    stored.schedule_time.FromDatetime(clock.now())
    stored.dispatch_deadline.FromSeconds(600)
    task.http_request.body += b"x" * (size - stored.ByteSize())
    return task


def test_create_measures_the_stored_task_to_the_byte(
    client: tasks_v2.CloudTasksClient, queue: str, clock: ManualClock
) -> None:
    assert refused(client, queue, padded_task(queue, clock, 1_048_570)) == "Task size too large"
    assert client.create_task(parent=queue, task=padded_task(queue, clock, 1_048_569)).name


def test_create_refuses_headers_of_eighty_kilobytes(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    most = 80 * 1024
    assert refused(client, queue, http_task(headers={"k": "v" * (most - 1)})) == (
        "HttpRequest.headers must be smaller than 80KB."
    )
    assert client.create_task(parent=queue, task=http_task(headers={"k": "v" * (most - 2)})).name


@pytest.mark.parametrize(
    "method",
    [
        tasks_v2.HttpMethod.GET,
        tasks_v2.HttpMethod.HEAD,
        tasks_v2.HttpMethod.DELETE,
        tasks_v2.HttpMethod.OPTIONS,
    ],
    ids=lambda method: str(method.name),
)
def test_create_refuses_body_where_the_method_has_none(
    client: tasks_v2.CloudTasksClient, queue: str, method: tasks_v2.HttpMethod
) -> None:
    task = http_task(http_method=method, body=b"x")
    assert refused(client, queue, task) == (
        f"HttpRequest.body is not allowed with {method.name}, only with POST, PUT and PATCH."
    )


def test_create_refuses_unknown_method(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    task = http_task()
    tasks_v2.Task.pb(task).http_request.http_method = 99
    assert refused(client, queue, task) == "HttpRequest.httpMethod is not a known method."


def test_create_refuses_task_without_target(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    assert refused(client, queue, tasks_v2.Task()) == "Task.message_type is required: set http_request."


def test_create_refuses_token_without_account(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    task = http_task(oidc_token=tasks_v2.OidcToken(audience="x"))
    assert refused(client, queue, task) == "OidcToken.serviceAccountEmail is required."


def test_create_refuses_own_retry_config_in_the_words_of_a_queue(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    task = http_task()
    task.retry_config = tasks_v2.RetryConfig(max_attempts=-2)
    assert refused(client, queue, task) == "RetryConfig.maxAttempts must be greater or equal to -1."


def test_create_refuses_time_that_no_calendar_has(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    task = http_task()
    tasks_v2.Task.pb(task).schedule_time.seconds = 2**60
    assert refused(client, queue, task) == "Task.scheduleTime is not a valid timestamp."


def test_targets_and_tokens_not_offered_say_what_is(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    app_engine = tasks_v2.Task(app_engine_http_request=tasks_v2.AppEngineHttpRequest(relative_uri="/"))
    with pytest.raises(exceptions.MethodNotImplemented, match=r"App Engine targets. Use an HTTP target"):
        client.create_task(parent=queue, task=app_engine)
    access_token = http_task(oauth_token=tasks_v2.OAuthToken(service_account_email="a@local"))
    with pytest.raises(exceptions.MethodNotImplemented, match=r"oauth_token\. Use oidc_token"):
        client.create_task(parent=queue, task=access_token)


def test_get_refuses_task_that_never_was(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    for name in (f"{queue}/tasks/never", "projects/local/locations/local1/queues/missing/tasks/never"):
        with pytest.raises(exceptions.NotFound) as refusal:
            client.get_task(name=name)
        assert refusal.value.message == NOT_FOUND


def test_get_tells_deleted_task_from_one_that_never_was(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    created = client.create_task(parent=queue, task=http_task())
    client.delete_task(name=created.name)
    with pytest.raises(exceptions.NotFound) as refusal:
        client.get_task(name=created.name)
    assert refusal.value.message == GONE


def test_delete_and_run_refuse_unknown_task(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    for call in (client.delete_task, client.run_task):
        with pytest.raises(exceptions.NotFound) as refusal:
            call(name=f"{queue}/tasks/never")
        assert refusal.value.message == NOT_FOUND


def test_list_tasks_pages_through_all(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    names = [client.create_task(parent=queue, task=http_task(body=b"x")).name for _ in range(5)]
    client.delete_task(name=names.pop(1))
    pages = list(client.list_tasks(tasks_v2.ListTasksRequest(parent=queue, page_size=3)).pages)
    assert [[task.name for task in page.tasks] for page in pages] == [names[:3], names[3:]]
    assert all(task.http_request.body == b"" for page in pages for task in page.tasks)
    full = tasks_v2.ListTasksRequest(parent=queue, response_view=tasks_v2.Task.View.FULL)
    assert {task.http_request.body for task in client.list_tasks(full)} == {b"x"}


def test_list_tasks_goes_on_when_the_page_has_gone(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    names = [client.create_task(parent=queue, task=http_task()).name for _ in range(4)]
    first = next(client.list_tasks(tasks_v2.ListTasksRequest(parent=queue, page_size=2)).pages)
    for name in names[:2]:
        client.delete_task(name=name)
    rest = client.list_tasks(tasks_v2.ListTasksRequest(parent=queue, page_token=first.next_page_token))
    assert [task.name for task in rest] == names[2:]


def test_list_tasks_refuses_negative_page_size(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    with pytest.raises(exceptions.InvalidArgument, match="page size"):
        client.list_tasks(tasks_v2.ListTasksRequest(parent=queue, page_size=-1))


def test_call_deadline_of_more_than_thirty_seconds_is_refused(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    with pytest.raises(exceptions.InvalidArgument) as refusal:
        client.create_task(parent=queue, task=http_task(), timeout=31)
    assert refusal.value.message.startswith("The request deadline is 20")
    assert refusal.value.message.endswith(". The deadline cannot be more than 30s in the future.")
    assert client.create_task(parent=queue, task=http_task(), timeout=29).name


def test_tasks_are_dropped_after_thirty_one_days(
    client: tasks_v2.CloudTasksClient, queue: str, clock: ManualClock
) -> None:
    client.create_task(parent=queue, task=http_task())
    clock.advance(timedelta(days=30).total_seconds())
    assert len(list(client.list_tasks(parent=queue))) == 1
    clock.advance(timedelta(days=1).total_seconds())
    assert list(client.list_tasks(parent=queue)) == []
