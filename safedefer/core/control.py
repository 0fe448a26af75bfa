"""What a deferred function may raise to say what becomes of its task."""

from datetime import timedelta
from typing import final

from safedefer.errors import InvalidOptionError

_MAX_AFTER = timedelta(days=30)
_MAX_REASON = 200


@final
class Retry(Exception):  # noqa: N818  # No error: the function is not done yet.
    """Run this call again later: the same sealed call, as a new task at that time.

    Nothing is slowed down, nothing is reported as failed. It counts as an attempt.

    Args:
        after: Seconds, or a timedelta, to wait; at most 30 days.
    Raises:
        InvalidOptionError: `after` is no such duration.
    """

    def __init__(self, after: float | timedelta) -> None:
        if isinstance(after, bool) or not isinstance(after, int | float | timedelta):
            raise InvalidOptionError(f"Retry: after is seconds or a timedelta, not {type(after).__name__}")
        self.after: timedelta = after if isinstance(after, timedelta) else timedelta(seconds=after)
        if not timedelta(0) <= self.after <= _MAX_AFTER:
            raise InvalidOptionError(f"Retry: after is from 0 to {_MAX_AFTER.days} days")
        super().__init__(f"again after {self.after}")


@final
class Drop(Exception):  # noqa: N818  # No error: there is nothing to do.
    """End this task: it is not tried again, and is no dead letter.

    Args:
        reason: For the audit event, at most 200 characters; it should hold no argument.
    """

    def __init__(self, reason: str) -> None:
        text = "".join(letter for letter in str(reason) if letter.isprintable())
        self.reason: str = text[:_MAX_REASON]
        super().__init__(self.reason)
