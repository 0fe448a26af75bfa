"""How long a slice may work, and how much it takes on at once."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final, final

from safedefer.core.limits import (
    BATCH_TIME,
    LARGE_ROWS_BATCH,
    MAX_BATCH_ROWS,
    MAX_SLICE,
    MIN_ITEM_RESERVE,
    READING_TIME,
)

_SLOWEST_ITEMS: Final = 3
_GROWTH: Final = 4
_TINY: Final = 1e-6
_FORGETTING: Final = 0.99
"""The slowest row fades with each faster one: after about 70 it counts for half."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The time of one slice, which began when its request came in.

    Attributes:
        limit_seconds: When somebody else would stop it.
    """

    limit_seconds: float

    def has_time(self, *, elapsed_seconds: float, slowest_ms: int, rows: int) -> bool:
        """Whether another row, or another page, may be begun.

        Args:
            rows: Finished in this slice. The first one is always begun: without it no slice would come any further.
        """
        return rows == 0 or elapsed_seconds < self.last_start(slowest_ms)

    def last_start(self, slowest_ms: int) -> float:
        """Seconds from the beginning after which nothing more is begun."""
        return min(self.limit_seconds - reserve_seconds(slowest_ms), MAX_SLICE.total_seconds())


def make_budget(deadline: timedelta, *, limit: timedelta | None = None) -> Budget:
    """The budget of a slice.

    Args:
        deadline: The dispatch deadline that was signed: no header tells it.
        limit: After which the platform, or the application's server, ends a request.
    """
    return Budget(limit_seconds=(deadline if limit is None else min(deadline, limit)).total_seconds())


def reserve_seconds(slowest_ms: int) -> float:
    """What is left of the time for a row that takes long, and for the last checkpoint."""
    return max(MIN_ITEM_RESERVE.total_seconds(), _SLOWEST_ITEMS * slowest_ms / 1000)


def slowest(slowest_ms: int, row_seconds: float, *, rows: int = 1) -> int:
    """The slowest recent row, after some more.

    Args:
        row_seconds: What one of them took, and none of them longer if that matters to the reserve.
        rows: How many.
    """
    return max(int(slowest_ms * _FORGETTING**rows), int(row_seconds * 1000))


def adapt_batch(batch_size: int, *, rows: int, seconds: float, reading_seconds: float = 0.0) -> int:
    """How many rows to read next: as many as take `BATCH_TIME`, but never more than four times as many as before.

    Args:
        rows: Finished of the last page.
        seconds: How long they took, with reading them.
        reading_seconds: How long reading took: rows that take long are large, or hard to find.
    """
    if rows == 0:
        return batch_size
    wanted = rows * BATCH_TIME.total_seconds() / max(seconds, _TINY)
    light = max(float(LARGE_ROWS_BATCH), rows * READING_TIME.total_seconds() / max(reading_seconds, _TINY))
    return max(1, int(min(wanted, light, _GROWTH * batch_size, MAX_BATCH_ROWS)))
