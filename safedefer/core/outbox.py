"""The outbox: calls written in the caller's own transaction, so that what has committed is sent whatever dies."""

import threading
from dataclasses import dataclass, field
from datetime import timedelta
from typing import final


@final
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class WaitingCall:
    """A sealed call that waits to be sent.

    Trust: read from a table; only what its envelope proves counts.

    Attributes:
        using: Alias of the database that it waits in.
        task_id: Its task id in hex: the key of its row.
        envelope: The sealed call.
        created_at: Seconds since 1970.
    """

    using: str
    task_id: str
    envelope: bytes
    created_at: int

    def __repr__(self) -> str:
        return f"<WaitingCall {self.task_id} on {self.using}>"


@final
@dataclass(slots=True)
class SweepMemory:
    """Which sweeps this process has seen to, and when it may try again after one could not be made."""

    buckets: dict[timedelta, int] = field(default_factory=dict)
    looked: int = 0
    not_before: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def is_new(self, length: timedelta, bucket: int) -> bool:
        """Whether a bucket's sweep was not seen to; from now on it is."""
        with self.lock:
            if self.buckets.get(length) == bucket:
                return False
            self.buckets[length] = bucket
            return True

    def forget(self, length: timedelta) -> None:
        """See to the bucket again next time."""
        with self.lock:
            self.buckets.pop(length, None)
