"""Batch creates: one call, many tasks, an operation that has to be asked for."""

import uuid

import grpc
import pytest
from google.api_core import exceptions, operation
from google.cloud import tasks_v2
from google.longrunning import operations_pb2  # type: ignore[import-untyped]

from safedefer.emulator import LocalCloud
from tests.integration.emulator.targets import Target


def batch(queue: str, *tasks: tasks_v2.Task, request_id: str = "") -> tasks_v2.BatchCreateTasksRequest:
    requests = [tasks_v2.CreateTaskRequest(parent=queue, task=task) for task in tasks]
    return tasks_v2.BatchCreateTasksRequest(parent=queue, requests=requests, request_id=request_id)


def http_task(name: str = "", body: bytes = b"", url: str = "http://127.0.0.1:1/") -> tasks_v2.Task:
    return tasks_v2.Task(name=name, http_request=tasks_v2.HttpRequest(url=url, body=body))


def created(made: operation.Operation) -> list[tasks_v2.Task]:
    result = made.result(timeout=60)  # type: ignore[no-untyped-call]  # The class predates annotations.
    assert isinstance(result, tasks_v2.BatchCreateTasksResponse)
    return list(result.tasks)


def metadata_of(made: operation.Operation) -> tasks_v2.BatchCreateTasksMetadata:
    metadata = made.metadata
    assert isinstance(metadata, tasks_v2.BatchCreateTasksMetadata)
    return metadata


def test_batch_creates_every_task(
    client: tasks_v2.CloudTasksClient, cloud: LocalCloud, queue: str, target: Target
) -> None:
    made = client.batch_create_tasks(batch(queue, *(http_task(url=target.url(f"/{n}")) for n in range(100))))
    tasks = created(made)
    assert len({task.name for task in tasks}) == 100
    assert metadata_of(made).state == tasks_v2.BatchCreateTasksMetadata.State.SUCCEEDED
    assert cloud.tasks.wait_attempts(100, 20)
    assert {request.path for request in target.received} == {f"/{n}" for n in range(100)}


def test_largest_legal_batch_arrives(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    client.pause_queue(name=queue)
    body = b"x" * 1_048_000
    made = client.batch_create_tasks(batch(queue, *(http_task(body=body) for _ in range(100))))
    assert len(created(made)) == 100


def test_batch_runs_until_it_is_asked_for(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    client.pause_queue(name=queue)
    made = client.batch_create_tasks(batch(queue, http_task()))
    assert not made.operation.done
    assert not made.operation.HasField("response")
    assert metadata_of(made).state == tasks_v2.BatchCreateTasksMetadata.State.RUNNING
    assert made.done()  # type: ignore[no-untyped-call]  # As above.
    assert metadata_of(made).state == tasks_v2.BatchCreateTasksMetadata.State.SUCCEEDED


def test_batch_measures_each_task_to_the_byte(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    client.pause_queue(name=queue)
    task = http_task(f"{queue}/tasks/a", b"x" * 1_048_000)
    full = tasks_v2.CreateTaskRequest(parent=queue, task=task, response_view=tasks_v2.Task.View.FULL)
    stored = tasks_v2.Task.pb(client.create_task(full))
    stored.ClearField("view")  # It says what was asked for and is not stored.
    room = 1_048_569 - stored.ByteSize()
    made = client.batch_create_tasks(
        batch(
            queue,
            http_task(f"{queue}/tasks/b", b"x" * (1_048_000 + room)),
            http_task(f"{queue}/tasks/c", b"x" * (1_048_001 + room)),
        )
    )
    assert [task.name for task in created(made)] == [f"{queue}/tasks/b"]
    failed = metadata_of(made).failed_requests
    assert {index: status.message for index, status in failed.items()} == {1: "Task size too large"}
    assert failed[1].code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


def test_operation_can_be_fetched_again(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    client.pause_queue(name=queue)
    made = client.batch_create_tasks(batch(queue, http_task()))
    name = made.operation.name
    assert name.startswith("projects/local/locations/local1/operations/")
    created(made)
    assert client.get_operation(operations_pb2.GetOperationRequest(name=name)) == made.operation
    with pytest.raises(exceptions.NotFound) as refusal:
        client.get_operation(operations_pb2.GetOperationRequest(name=f"{name}0"))
    assert refusal.value.message == "Requested entity was not found."


def test_partial_success_tells_which_request_failed_and_why(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    client.pause_queue(name=queue)
    taken = f"{queue}/tasks/taken"
    made = client.batch_create_tasks(
        batch(queue, http_task(taken), http_task(taken), http_task(f"{queue}/tasks/no good"))
    )
    assert [task.name for task in created(made)] == [taken]
    metadata = metadata_of(made)
    assert metadata.state == tasks_v2.BatchCreateTasksMetadata.State.PARTIALLY_SUCCEEDED
    assert sorted(metadata.failed_requests) == [1, 2]
    assert metadata.failed_requests[1].code == grpc.StatusCode.ALREADY_EXISTS.value[0]
    assert metadata.failed_requests[1].message == "Requested entity already exists"
    assert metadata.failed_requests[2].details[0].type_url.endswith("google.rpc.Help")


def test_batch_of_failures_ends_in_an_error(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    made = client.batch_create_tasks(batch(queue, http_task(url="nonsense")))
    with pytest.raises(exceptions.GoogleAPICallError, match="None of the requests succeeded"):
        created(made)
    assert made.operation.error.code == grpc.StatusCode.ABORTED.value[0]
    assert metadata_of(made).state == tasks_v2.BatchCreateTasksMetadata.State.FAILED


def test_repeated_request_id_creates_nothing_more(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    client.pause_queue(name=queue)
    request = batch(queue, http_task(), http_task(), request_id=str(uuid.uuid4()))
    first = client.batch_create_tasks(request)
    second = client.batch_create_tasks(request)
    assert second.operation == first.operation
    assert created(second) == created(first)
    assert len(list(client.list_tasks(parent=queue))) == 2


@pytest.mark.parametrize("count", [0, 101])
def test_batch_of_wrong_size_is_refused(client: tasks_v2.CloudTasksClient, queue: str, count: int) -> None:
    with pytest.raises(exceptions.InvalidArgument, match="must hold 1 to 100 requests"):
        client.batch_create_tasks(batch(queue, *(http_task() for _ in range(count))))


def test_batch_across_queues_is_refused(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    request = batch(queue, http_task())
    request.requests[0].parent = f"{queue}2"
    with pytest.raises(exceptions.InvalidArgument, match="must be the same as BatchCreateTasksRequest"):
        client.batch_create_tasks(request)


def test_batch_refuses_missing_queue(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    with pytest.raises(exceptions.NotFound, match="Queue does not exist"):
        client.batch_create_tasks(batch(f"{queue}2", http_task()))


def test_batch_delete_is_not_offered(client: tasks_v2.CloudTasksClient, queue: str) -> None:
    with pytest.raises(exceptions.MethodNotImplemented, match="BatchDeleteTasks"):
        client.batch_delete_tasks(tasks_v2.BatchDeleteTasksRequest(parent=queue, names=[f"{queue}/tasks/one"]))
