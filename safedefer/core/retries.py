"""How often a failing task is tried again, and how long after one another."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final, final

from safedefer.errors import InvalidOptionError

DEFAULT_MIN_BACKOFF: Final = timedelta(milliseconds=100)
DEFAULT_MAX_BACKOFF: Final = timedelta(hours=1)
DEFAULT_MAX_DOUBLINGS: Final = 16
"""What Cloud Tasks gives a queue that says nothing."""

_MAX_ATTEMPTS: Final = 1_000_000
_MAX_DOUBLINGS: Final = 1_000
_MAX_TIME: Final = timedelta(days=31)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RetryOptions:
    """The retry policy of one task, or of all tasks of a deferrable.

    The backoff is Cloud Tasks' own: the first `max_doublings` delays double, the following ones grow by the last step.
    Giving up is the handler's: it keeps the call as a dead letter, which a queue would not.

    Attributes:
        max_attempts: Executions until it is given up, the first included; None means no bound but the expiry.
        min_backoff: Delay before the second attempt; by default 0.1 s.
        max_backoff: Longest delay; by default 1 h.
        max_doublings: How often the delay doubles; by default 16.
        max_duration: Since it could first run. Beside `max_attempts`, both have to be spent, as in Cloud Tasks.
    Raises:
        InvalidOptionError: A value of the wrong type or out of range.
    """

    max_attempts: int | None = None
    min_backoff: timedelta | None = None
    max_backoff: timedelta | None = None
    max_doublings: int | None = None
    max_duration: timedelta | None = None

    def __post_init__(self) -> None:
        _check_count("max_attempts", self.max_attempts, 1, _MAX_ATTEMPTS)
        _check_count("max_doublings", self.max_doublings, 0, _MAX_DOUBLINGS)
        for name in ("min_backoff", "max_backoff", "max_duration"):
            _check_time(name, getattr(self, name))
        if self.shortest > self.longest:
            raise InvalidOptionError("RetryOptions: min_backoff is longer than max_backoff")

    @property
    def shortest(self) -> timedelta:
        """The delay before the second attempt."""
        default = DEFAULT_MIN_BACKOFF if self.max_backoff is None else min(DEFAULT_MIN_BACKOFF, self.max_backoff)
        return default if self.min_backoff is None else self.min_backoff

    @property
    def longest(self) -> timedelta:
        """The longest delay."""
        default = DEFAULT_MAX_BACKOFF if self.min_backoff is None else max(DEFAULT_MAX_BACKOFF, self.min_backoff)
        return default if self.max_backoff is None else self.max_backoff

    @property
    def doublings(self) -> int:
        """How often the delay doubles."""
        return DEFAULT_MAX_DOUBLINGS if self.max_doublings is None else self.max_doublings

    def is_spent(self, *, attempts: int, age: timedelta) -> bool:
        """Whether a task that has failed is to be given up.

        Args:
            attempts: Executions so far.
            age: Time since it could first run.
        """
        if self.max_attempts is None:
            return self.max_duration is not None and age >= self.max_duration
        return attempts >= self.max_attempts and (self.max_duration is None or age >= self.max_duration)


def _check_count(name: str, value: object, least: int, most: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidOptionError(f"RetryOptions: {name} is an int from {least} to {most:,}, or None")


def _check_time(name: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, timedelta):
        raise InvalidOptionError(f"RetryOptions: {name} is a timedelta or None, not {type(value).__name__}")
    if not timedelta(milliseconds=1) <= value <= _MAX_TIME:
        raise InvalidOptionError(f"RetryOptions: {name} is from 1 ms to {_MAX_TIME.days} days")
