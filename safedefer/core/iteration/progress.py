"""How far an iteration is, for people."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from safedefer.core.iteration.state import ENDED, RESUMABLE, Run, RunState, Shard


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Rows, and the time they take.

    Attributes:
        rows: Processed or skipped.
        failed: Calls that failed.
        estimated_total: None where it is not known, or has turned out too small.
        percent: 0 to 100, where the total is known.
        rows_per_second: While it was running; None before the first row.
        seconds_left: At that rate, where the total is known.
        active_seconds: Since it began, without its pauses.
    """

    state: RunState
    shards: int
    shards_done: int
    rows: int
    skipped: int
    failed: int
    estimated_total: int | None
    percent: float | None
    rows_per_second: float | None
    seconds_left: float | None
    active_seconds: int


def measure_progress(run: Run, shards: Iterable[Shard], *, now: float) -> Progress:
    """How far a run is.

    Args:
        shards: Its rows; those that are done count in the run already.
    """
    still_open = [shard for shard in shards if shard.index in run.open]
    skipped = run.skipped + sum(shard.skipped for shard in still_open)
    rows = run.processed + sum(shard.processed for shard in still_open) + skipped
    active = _active_seconds(run, now)
    rate = rows / active if rows and active else None
    total = run.estimated_total
    if run.state in {RunState.FINALIZING, RunState.DONE}:
        total = rows
    elif total is not None and rows > total:
        total = None
    return Progress(
        state=run.state,
        shards=run.shards,
        shards_done=run.shards - len(run.open),
        rows=rows,
        skipped=skipped,
        failed=run.failed + sum(shard.failed for shard in still_open),
        estimated_total=total,
        percent=None if total is None else 100.0 if rows == total else 100.0 * rows / total,
        rows_per_second=rate,
        seconds_left=None if total is None or rate is None or run.state in ENDED else (total - rows) / rate,
        active_seconds=active,
    )


def _active_seconds(run: Run, now: float) -> int:
    until = run.changed_at if run.state in ENDED | RESUMABLE else int(now)
    return max(0, until - run.created_at - run.idle_seconds)
