"""Errors of the Google clients -> errors of ours. No other module catches them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import grpc
from google.api_core import exceptions
from google.auth import exceptions as auth_exceptions

from safedefer.errors import PayloadTooLargeError, QueueNotFoundError, QueueUnavailableError, TaskRefusedError

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
def creating_task(queue: str, size_bytes: int, limit_bytes: int) -> Iterator[None]:
    """Translate what creating a task can raise.

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
            f"Cloud Tasks did not take a task for queue {queue} ({type(error).__name__}); it may or may not exist"
        ) from error
