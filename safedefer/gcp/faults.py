"""Errors of the Google clients -> errors of ours. No other module catches them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import grpc
from google.api_core import exceptions
from google.auth import exceptions as auth_exceptions

from safedefer.errors import (
    PayloadTooLargeError,
    QueueNotFoundError,
    QueueRefusedError,
    QueueUnavailableError,
    StoreUnavailableError,
    TaskRefusedError,
)

# The service's own text, with no details beside it.
_TOO_LARGE: Final = "Task size too large"
_REFUSALS: Final = (
    exceptions.InvalidArgument,
    exceptions.PermissionDenied,
    exceptions.Unauthenticated,
    exceptions.MethodNotImplemented,
)


class TaskAlreadyExists(Exception):  # noqa: N818  # An answer rather than an error: the caller decides.
    """A task of that name exists, or existed too recently."""


@contextmanager
def creating_task(queue: str, size_bytes: int, limit_bytes: int, *, advice: str = "") -> Iterator[None]:
    """Translate what creating a task can raise.

    Args:
        advice: What to do when the service does not answer.

    Raises:
        TaskAlreadyExists: See there.
        QueueNotFoundError: No such queue. Said by Cloud Tasks also of a queue that is very new.
        PayloadTooLargeError: The service finds the task too large.
        TaskRefusedError: The service refuses it for good.
        QueueUnavailableError: Anything else: it did not answer, or not in time.
    """
    try:
        yield
    except exceptions.AlreadyExists:
        raise TaskAlreadyExists from None
    except (exceptions.NotFound, exceptions.FailedPrecondition) as error:
        raise QueueNotFoundError(
            f"Cloud Tasks has no queue {queue}, or not yet; create it, and see that PROJECT and LOCATION are right "
            "and that the service account exists"
        ) from error
    except _REFUSALS as error:
        if _TOO_LARGE in str(error.message):
            raise PayloadTooLargeError(
                f"Cloud Tasks finds a task of {size_bytes:,} bytes too large",
                size_bytes=size_bytes,
                limit_bytes=limit_bytes,
            ) from error
        raise TaskRefusedError(f"Cloud Tasks refused a task for queue {queue}: {error.message}") from error
    except auth_exceptions.DefaultCredentialsError as error:
        raise TaskRefusedError(f"there are no Google credentials to create tasks with: {error}") from error
    except (exceptions.GoogleAPIError, auth_exceptions.GoogleAuthError, grpc.RpcError) as error:
        raise QueueUnavailableError(
            f"Cloud Tasks did not take a task for queue {queue} ({type(error).__name__}); "
            f"it may or may not exist{advice}"
        ) from error


class QueueMissing(QueueRefusedError):  # noqa: N818  # Likewise.
    """There is no queue of that name."""


class QueueExists(QueueRefusedError):  # noqa: N818  # Likewise.
    """A queue of that name was there first."""


@contextmanager
def managing_queue(queue: str) -> Iterator[None]:
    """Translate what reading, creating or updating a queue can raise.

    Raises:
        QueueMissing, QueueExists: See there.
        QueueRefusedError: The service refuses it for good, or there are no credentials to ask with.
        QueueUnavailableError: Anything else: it did not answer, or not in time.
    """
    try:
        yield
    except exceptions.NotFound:
        raise QueueMissing(f"Cloud Tasks does not know {queue}; see that PROJECT and LOCATION are right") from None
    except exceptions.AlreadyExists:
        raise QueueExists(f"Cloud Tasks has a queue {queue} already") from None
    except (*_REFUSALS, exceptions.FailedPrecondition) as error:
        raise QueueRefusedError(
            f"Cloud Tasks refused to manage {queue} ({type(error).__name__}): {error.message}"
        ) from error
    except auth_exceptions.DefaultCredentialsError as error:
        raise QueueRefusedError(f"there are no Google credentials to manage queues with: {error}") from error
    except (exceptions.GoogleAPIError, auth_exceptions.GoogleAuthError, grpc.RpcError) as error:
        raise QueueUnavailableError(f"Cloud Tasks did not answer for {queue} ({type(error).__name__})") from error


class EntityExists(Exception):  # noqa: N818  # An answer rather than an error: the caller decides.
    """An entity that was to be inserted exists."""


class CommitAborted(Exception):  # noqa: N818  # Likewise.
    """The service aborted a transaction: nothing was changed, and all of it can be run again."""


class AmbiguousCommit(Exception):  # noqa: N818  # Likewise.
    """A commit ended without an answer: it may have been made."""


_UNANSWERED: Final = (
    exceptions.ServiceUnavailable,
    exceptions.DeadlineExceeded,
    exceptions.InternalServerError,
    exceptions.Cancelled,
    exceptions.Unknown,
    exceptions.RetryError,
)


@contextmanager
def calling_store(what: str, *, ambiguous: bool = False) -> Iterator[None]:
    """Translate what a call to Datastore can raise.

    Args:
        what: The call, for the message.
        ambiguous: Whether the call changes something, so that no answer means neither yes nor no.
    Raises:
        EntityExists, CommitAborted, AmbiguousCommit: Only where `ambiguous`; see there.
        StoreUnavailableError: Anything else that keeps the store from answering.
    """
    try:
        yield
    except exceptions.AlreadyExists:
        if ambiguous:
            raise EntityExists from None
        raise
    except exceptions.Aborted as error:
        if ambiguous:
            raise CommitAborted from error
        raise StoreUnavailableError(f"Datastore aborted a {what}") from error
    except (CommitAborted, AmbiguousCommit) as error:
        raise StoreUnavailableError(f"Datastore did not take a {what} ({type(error).__name__})") from error
    except _UNANSWERED as error:
        if ambiguous:
            raise AmbiguousCommit from error
        raise StoreUnavailableError(f"Datastore did not answer a {what} ({type(error).__name__})") from error
    except (exceptions.GoogleAPIError, auth_exceptions.GoogleAuthError, grpc.RpcError) as error:
        raise StoreUnavailableError(f"Datastore refused a {what} ({type(error).__name__})") from error
