"""Time for the local cloud: the system's clock, that clock moved on, and one that moves only when a test moves it."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

_MOST_DIGITS = 10


class Clock(Protocol):
    """What the local cloud asks of time. One clock may serve several servers.

    `now` returns the present time, aware, in UTC. `wait` blocks on `changed`, which the caller holds, until it is
    notified or `until` is reached; it may return early, so the caller looks again at what it waits for.
    """

    def now(self) -> datetime: ...
    def wait(self, changed: threading.Condition, *, until: datetime | None) -> None: ...


class SystemClock:
    """The machine's clock."""

    _LONGEST_WAIT = timedelta(seconds=30)
    """An upper bound for one wait, so that a wall clock set forward is noticed soon."""

    def now(self) -> datetime:
        """Return the present time, aware, in UTC."""
        return datetime.now(UTC)

    def wait(self, changed: threading.Condition, *, until: datetime | None) -> None:
        """Block on `changed` until it is notified, `until` is reached, or half a minute has gone by."""
        if until is None:
            changed.wait()
            return
        left = min(until - self.now(), self._LONGEST_WAIT)
        if left > timedelta(0):
            changed.wait(left.total_seconds())


class FileClock(SystemClock):
    """The machine's clock, moved on by the seconds that a file holds: a whole number, below ten digits.

    Processes that read one file have one time. It never runs backwards: what is not there, or cannot be read, leaves it
    as it is.
    """

    _LONGEST_WAIT = timedelta(milliseconds=100)
    """The file tells nobody that it was written."""

    def __init__(self, path: Path) -> None:
        """Follow this file, which need not be there yet."""
        self._path = path
        self._ahead = timedelta()

    def now(self) -> datetime:
        """Return the present time, aware, in UTC."""
        return super().now() + self._read()

    def _read(self) -> timedelta:
        try:
            text = self._path.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return self._ahead
        if text.isdecimal() and len(text) < _MOST_DIGITS:
            self._ahead = max(self._ahead, timedelta(seconds=int(text)))
        return self._ahead


class ManualClock:
    """A clock that stands still until `advance` is called. It wakes everything that waits for the new time."""

    def __init__(self, start: datetime) -> None:
        """Start at `start`, which must be aware."""
        if start.tzinfo is None:
            raise ValueError("A ManualClock needs an aware datetime to start from.")
        self._now = start.astimezone(UTC)
        self._lock = threading.Lock()
        self._waiting: list[threading.Condition] = []

    def now(self) -> datetime:
        """Return the time that was last set."""
        with self._lock:
            return self._now

    def advance(self, seconds: float) -> None:
        """Move forward by `seconds` and wake whoever waits.

        Raises:
            ValueError: `seconds` is negative; time does not run backwards here.
        """
        if seconds < 0:
            raise ValueError("A ManualClock only moves forward.")
        with self._lock:
            self._now += timedelta(seconds=seconds)
            waiting = list(self._waiting)
        # The clock's own lock is free again here: a waiter holds its condition when it asks for the time, so taking
        # the two locks in the other order could stop both threads for good.
        for changed in waiting:
            with changed:
                changed.notify_all()

    def wait(self, changed: threading.Condition, *, until: datetime | None) -> None:
        """Block on `changed` until it is notified, by its owner or by `advance`."""
        with self._lock:
            if until is not None and self._now >= until:
                return
            # Registered under the same lock that `advance` takes, and `changed` is held until the wait begins:
            # an advance either is seen by the comparison above or finds this waiter and notifies it.
            self._waiting.append(changed)
        try:
            changed.wait()
        finally:
            with self._lock:
                self._waiting.remove(changed)
