"""Protobuf times and durations as datetime and timedelta, and back."""

from datetime import UTC, datetime, timedelta

from safedefer.emulator.cloud_tasks.errors import invalid_argument
from safedefer.emulator.cloud_tasks.messages import Duration, Timestamp


def parse_time(timestamp: Timestamp, field: str) -> datetime:
    """Read a time, cut to microseconds.

    Raises:
        CallError: INVALID_ARGUMENT; the message can hold times that no calendar has.
    """
    try:
        return timestamp.ToDatetime(tzinfo=UTC)
    except (OverflowError, ValueError) as error:
        raise invalid_argument(f"{field} is not a valid timestamp.") from error


def parse_duration(duration: Duration, field: str) -> timedelta:
    """Read a duration, cut to microseconds.

    Raises:
        CallError: INVALID_ARGUMENT; the message can hold more than a timedelta can.
    """
    try:
        return duration.ToTimedelta()
    except (OverflowError, ValueError) as error:
        raise invalid_argument(f"{field} is not a valid duration.") from error


def timestamp(moment: datetime) -> Timestamp:
    """Write a time."""
    written = Timestamp()
    written.FromDatetime(moment)
    return written


def duration(length: timedelta) -> Duration:
    """Write a duration."""
    written = Duration()
    written.FromTimedelta(length)
    return written
