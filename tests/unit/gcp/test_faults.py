"""Errors of Google's clients become errors of ours, and say who has to act."""

from typing import Any

import grpc
import pytest
from google.api_core import exceptions as api_exceptions
from google.auth import exceptions as google_auth_exceptions

from safedefer.errors import (
    ConfigurationError,
    PayloadTooLargeError,
    QueueNotFoundError,
    QueueUnavailableError,
    SafeDeferError,
    StoreUnavailableError,
    TaskRefusedError,
    UnavailableError,
)
from safedefer.gcp.faults import (
    AmbiguousCommit,
    CommitAborted,
    EntityExists,
    TaskAlreadyExists,
    calling_store,
    creating_task,
)

# Their constructors are untyped.
exceptions: Any = api_exceptions
auth_exceptions: Any = google_auth_exceptions
QUEUE = "projects/acme/locations/europe-west1/queues/billing"


def error_of_create(error: Exception, advice: str = "") -> BaseException:
    """What creating a task raises where Google's client raises `error`."""
    with pytest.raises(Exception) as caught, creating_task(QUEUE, 1_048_577, 1_000_000, advice=advice):  # noqa: PT011
        raise error
    return caught.value


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (exceptions.NotFound("Queue does not exist."), QueueNotFoundError),
        (exceptions.FailedPrecondition("Queue is disabled."), QueueNotFoundError),
        (exceptions.InvalidArgument("HttpRequest.url must start with https"), TaskRefusedError),
        (exceptions.PermissionDenied("lacks iam.serviceAccounts.actAs"), TaskRefusedError),
        (exceptions.Unauthenticated("no credentials"), TaskRefusedError),
        (exceptions.MethodNotImplemented("not here"), TaskRefusedError),
        (auth_exceptions.DefaultCredentialsError("none were found"), TaskRefusedError),
        (exceptions.ServiceUnavailable("try later"), QueueUnavailableError),
        (exceptions.DeadlineExceeded("too late"), QueueUnavailableError),
        (exceptions.ResourceExhausted("quota"), QueueUnavailableError),
        (exceptions.InternalServerError("oops"), QueueUnavailableError),
        (exceptions.Aborted("again"), QueueUnavailableError),
        (exceptions.Cancelled("cancelled"), QueueUnavailableError),
        (exceptions.Unknown("unknown"), QueueUnavailableError),
        (exceptions.RetryError("gave up", None), QueueUnavailableError),
        (auth_exceptions.TransportError("no token server"), QueueUnavailableError),
        (auth_exceptions.RefreshError("no token"), QueueUnavailableError),
        (grpc.RpcError(), QueueUnavailableError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_error_of_a_create_is_ours_with_the_services_as_its_cause(error: Exception, ours: type[Exception]) -> None:
    raised = error_of_create(error)
    assert type(raised) is ours
    assert raised.__cause__ is error
    assert QUEUE in str(raised) or isinstance(error, auth_exceptions.DefaultCredentialsError)


@pytest.mark.parametrize(
    "error", [exceptions.InvalidArgument("HttpRequest.url is wrong"), exceptions.PermissionDenied("lacks actAs")]
)
def test_refusal_says_what_the_service_said(error: Any) -> None:
    assert str(error.message) in str(error_of_create(error))


def test_task_that_the_service_finds_too_large_is_an_error_of_size() -> None:
    raised = error_of_create(exceptions.InvalidArgument("Task size too large"))
    assert isinstance(raised, PayloadTooLargeError)
    assert (raised.size_bytes, raised.limit_bytes) == (1_048_577, 1_000_000)


def test_name_that_is_taken_is_an_answer_and_no_error_of_the_service() -> None:
    raised = error_of_create(exceptions.AlreadyExists("a task of that name"))
    assert isinstance(raised, TaskAlreadyExists)
    assert not isinstance(raised, SafeDeferError)
    assert raised.__suppress_context__


def test_no_answer_says_that_the_task_may_exist_and_what_to_do() -> None:
    text = str(error_of_create(exceptions.ServiceUnavailable("down"), advice="; start it"))
    assert "may or may not exist; start it" in text


def test_error_that_nobody_foresaw_is_not_translated() -> None:
    error = KeyError("ours")
    assert error_of_create(error) is error


def error_of_store(error: Exception, *, ambiguous: bool) -> BaseException:
    """What a call to the store raises where Google's client raises `error`."""
    with pytest.raises(Exception) as caught, calling_store("commit", ambiguous=ambiguous):  # noqa: PT011
        raise error
    return caught.value


UNANSWERED = [
    exceptions.ServiceUnavailable("down"),
    exceptions.DeadlineExceeded("late"),
    exceptions.InternalServerError("oops"),
    exceptions.Cancelled("cancelled"),
    exceptions.Unknown("unknown"),
]
REFUSED = [
    exceptions.PermissionDenied("no"),
    exceptions.InvalidArgument("no"),
    exceptions.NotFound("no database"),
    exceptions.ResourceExhausted("quota"),
    auth_exceptions.TransportError("no token server"),
    grpc.RpcError(),
]


@pytest.mark.parametrize("error", UNANSWERED, ids=lambda error: type(error).__name__)
def test_write_without_an_answer_may_have_been_made(error: Exception) -> None:
    assert isinstance(error_of_store(error, ambiguous=True), AmbiguousCommit)
    assert isinstance(error_of_store(error, ambiguous=False), StoreUnavailableError)


@pytest.mark.parametrize("error", REFUSED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("ambiguous", [True, False])
def test_store_that_refuses_is_unavailable(error: Exception, ambiguous: bool) -> None:
    raised = error_of_store(error, ambiguous=ambiguous)
    assert type(raised) is StoreUnavailableError
    assert raised.__cause__ is error


def test_answers_of_a_commit_are_told_apart() -> None:
    assert isinstance(error_of_store(exceptions.AlreadyExists("it"), ambiguous=True), EntityExists)
    assert isinstance(error_of_store(exceptions.Aborted("it"), ambiguous=True), CommitAborted)
    assert isinstance(error_of_store(exceptions.Aborted("it"), ambiguous=False), StoreUnavailableError)
    for answer in (CommitAborted(), AmbiguousCommit()):
        assert isinstance(error_of_store(answer, ambiguous=False), StoreUnavailableError)


def test_each_error_has_the_branch_of_who_has_to_act() -> None:
    assert issubclass(QueueNotFoundError, ConfigurationError)
    assert issubclass(TaskRefusedError, ConfigurationError)
    assert issubclass(QueueUnavailableError, UnavailableError)
    assert issubclass(StoreUnavailableError, UnavailableError)
