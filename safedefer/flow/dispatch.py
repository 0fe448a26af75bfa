"""One HTTP request to the handler: its form, its body, and what its headers say once they may be believed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

from safedefer.core.envelope import CONTENT_TYPE
from safedefer.errors import Reason, RequestRefusedError

_MAX_LENGTH_DIGITS: Final = 10
_MAX_COUNT_DIGITS: Final = 9


@final
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Dispatch:
    """One HTTP request to the handler, as it came.

    Trust: everything here comes from the network. The X-CloudTasks headers are believed only once the identity token
    has been verified: Cloud Tasks sets them, whatever the creator of the task asked for.

    Attributes:
        method: HTTP method.
        content_type: The header's value, or None.
        content_length: The header's value, or None.
        authorization: The header's value, or None.
        queue: X-CloudTasks-QueueName.
        task_name: X-CloudTasks-TaskName.
        retry_count: X-CloudTasks-TaskRetryCount.
        execution_count: X-CloudTasks-TaskExecutionCount.
        read: Reads the given number of bytes of the body, or fewer where it ends.
    """

    method: str
    content_type: str | None
    content_length: str | None
    authorization: str | None
    queue: str | None
    task_name: str | None
    retry_count: str | None
    execution_count: str | None
    read: Callable[[int], bytes]

    @property
    def retries(self) -> int | None:
        """Failed dispatches of the task before this one."""
        return _count(self.retry_count)

    @property
    def executions(self) -> int | None:
        """Those of them that were answered, and with no 5xx."""
        return _count(self.execution_count)


def check_form(dispatch: Dispatch, most_bytes: int) -> int:
    """The length of the body of a request that has the form of a dispatch.

    Raises:
        RequestRefusedError: `METHOD_NOT_ALLOWED`, `CONTENT_TYPE_WRONG`, `LENGTH_MISSING`, `LENGTH_WRONG` or
            `BODY_TOO_LARGE`.
    """
    if dispatch.method != "POST":
        raise RequestRefusedError(Reason.METHOD_NOT_ALLOWED)
    if dispatch.content_type != CONTENT_TYPE:
        raise RequestRefusedError(Reason.CONTENT_TYPE_WRONG)
    text = dispatch.content_length
    if not text:
        raise RequestRefusedError(Reason.LENGTH_MISSING)
    if not (text.isascii() and text.isdigit()):
        raise RequestRefusedError(Reason.LENGTH_WRONG)
    if len(text) > _MAX_LENGTH_DIGITS or int(text) > most_bytes:
        raise RequestRefusedError(Reason.BODY_TOO_LARGE)
    return int(text)


def read_exactly(dispatch: Dispatch, length: int) -> bytes:
    """The body, as long as it said it is.

    Raises:
        RequestRefusedError: `LENGTH_WRONG`.
    """
    parts: list[bytes] = []
    missing = length
    while missing > 0:
        try:
            part = dispatch.read(missing)
        except OSError:  # The connection broke off in the middle.
            part = b""
        if not part:
            raise RequestRefusedError(Reason.LENGTH_WRONG)
        parts.append(part)
        missing -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _count(text: str | None) -> int | None:
    if text and text.isascii() and text.isdigit() and len(text) <= _MAX_COUNT_DIGITS:
        return int(text)
    return None
