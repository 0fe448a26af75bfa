"""Batches that end in other ways than a real one on the local cloud does: in each it is told for each task."""

from collections.abc import Callable
from typing import Any

import pytest
from google.api_core.operation import Operation
from google.api_core.retry import Retry
from google.auth.exceptions import DefaultCredentialsError
from google.cloud import tasks_v2
from google.longrunning import operations_pb2  # type: ignore[import-untyped]
from google.rpc import code_pb2, status_pb2  # type: ignore[import-untyped]

from safedefer.errors import QueueUnavailableError, TaskRefusedError
from safedefer.gcp import batches
from safedefer.gcp.batches import create_batch

PARENT = "projects/p/locations/l/queues/q"


class Client:
    """Answers every batch with one operation."""

    def __init__(self, message: operations_pb2.Operation) -> None:
        self.message = message

    def batch_create_tasks(self, **_: Any) -> Any:
        """The operation, which stays as it is."""
        return Operation(  # type: ignore[no-untyped-call]
            self.message,
            lambda **_: self.message,
            lambda: None,
            tasks_v2.BatchCreateTasksResponse,
            metadata_type=tasks_v2.BatchCreateTasksMetadata,
        )


def create(make_client: Callable[[], Any], count: int = 2) -> list[object]:
    tasks = [tasks_v2.Task(name=f"{PARENT}/tasks/{number}") for number in range(count)]
    return list(create_batch(make_client, PARENT, tasks, Retry(), ""))


def ended(message: operations_pb2.Operation) -> list[object]:
    return create(lambda: Client(message))


def kinds(outcomes: list[object]) -> list[object]:
    return [outcome if isinstance(outcome, bool) else type(outcome) for outcome in outcomes]


def test_batch_that_does_not_end_may_or_may_not_have_been_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_WAIT_SECONDS", 0.1)
    assert kinds(ended(operations_pb2.Operation(name="o"))) == [QueueUnavailableError] * 2


def test_batch_without_metadata_was_made() -> None:
    message = operations_pb2.Operation(name="o", done=True)
    message.response.Pack(tasks_v2.BatchCreateTasksResponse.pb()())
    assert ended(message) == [True, True]


def test_batch_that_failed_says_nothing_of_what_it_does_not_name() -> None:
    metadata = tasks_v2.BatchCreateTasksMetadata.pb()()
    metadata.failed_requests[0].CopyFrom(status_pb2.Status(code=code_pb2.ALREADY_EXISTS))
    message = operations_pb2.Operation(name="o", done=True, error=status_pb2.Status(code=code_pb2.CANCELLED))
    message.metadata.Pack(metadata)
    assert kinds(ended(message)) == [QueueUnavailableError] * 2


def test_each_failure_of_a_batch_that_failed_as_a_whole_is_told() -> None:
    metadata = tasks_v2.BatchCreateTasksMetadata.pb()()
    metadata.failed_requests[0].CopyFrom(status_pb2.Status(code=code_pb2.ALREADY_EXISTS))
    metadata.failed_requests[1].CopyFrom(status_pb2.Status(code=code_pb2.PERMISSION_DENIED))
    message = operations_pb2.Operation(name="o", done=True, error=status_pb2.Status(code=code_pb2.ABORTED))
    message.metadata.Pack(metadata)
    assert kinds(ended(message)) == [False, TaskRefusedError]


def test_missing_credentials_are_told_for_each_task() -> None:
    def none() -> Any:
        raise DefaultCredentialsError("none")

    assert kinds(create(none)) == [TaskRefusedError] * 2
