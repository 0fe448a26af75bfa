"""Progress as text: one line of a whole iteration, and a frame with a bar for each shard."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

from safedefer.core.iteration.progress import Progress, measure_progress
from safedefer.core.iteration.state import ENDED, Run, Shard, ShardState

MOST_SHARDS: Final = 16
"""In one frame. Of a run that has more, those that are not done."""

_BAR: Final = 30
_ALMOST: Final = 99.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What is to be shown of an iteration at one moment.

    Attributes:
        summary: One line, for where nothing can be drawn over.
        lines: The same with bars: state and pace, the shards, and the total. They fit into 80 columns, troubles aside.
        ended: Whether nothing more will happen.
    """

    summary: str
    lines: tuple[str, ...]
    ended: bool


def shown_shards(run: Run) -> list[int]:
    """The shards that a frame shows: all, or the first open ones."""
    shards = range(run.shards) if run.shards <= MOST_SHARDS else sorted(run.open)
    return list(shards)[:MOST_SHARDS]


def draw_frame(run: Run, shards: Mapping[int, Shard], *, now: float) -> Frame:
    """Draw an iteration.

    Args:
        shards: The open ones, and of the others those that a frame shows; by index.
    """
    progress = measure_progress(run, shards.values(), now=now)
    width = len(str(max(run.shards, 1) - 1))
    label = max(len("total"), len("shard ") + width)
    lines = [
        _draw_shard(run, shards.get(index), f"{f'shard {index:>{width}}':<{label}}") for index in shown_shards(run)
    ]
    if hidden := run.shards - len(lines):
        lines.append(f"... and {hidden} shards more")
    head = f"{progress.state.value}, {_shards(progress)} done{_pace(progress)}"
    total = f"{'total':<{label}} {_bar(progress.percent)}  {_rows(progress)}"
    return Frame(summary=describe_progress(progress), lines=(head, *lines, total), ended=run.state in ENDED)


def describe_progress(progress: Progress) -> str:
    """One line of how far an iteration is."""
    return (
        f"{progress.state.value:<10} {_bar(progress.percent)}  {_rows(progress)}, {_shards(progress)}{_pace(progress)}"
    )


def _draw_shard(run: Run, shard: Shard | None, label: str) -> str:
    if shard is None:
        return f"{label} {_bar(100.0)}  done"
    rows = shard.processed + shard.skipped
    percent = _percent_of_shard(run, shard, rows)
    skipped = f", {shard.skipped:,} skipped" if shard.skipped else ""
    failed = f", {shard.failed:,} failed calls" if shard.failed else ""
    failing = f", failing {shard.poison_tries} times" if shard.poison_tries else ""
    return f"{label} {_bar(percent)}  {rows:,} rows {shard.state.value}{skipped}{failed}{failing}"


def _percent_of_shard(run: Run, shard: Shard, rows: int) -> float | None:
    """Of an equal part of the estimated total: how many rows a shard really has is known when it is done."""
    if shard.state is ShardState.DONE:
        return 100.0
    if not run.estimated_total:
        return None
    return min(_ALMOST, 100.0 * rows * run.shards / run.estimated_total)


def _bar(percent: float | None) -> str:
    if percent is None:
        return f"[{'?' * _BAR}]   ? %"
    return f"[{'#' * int(percent / 100 * _BAR):.<{_BAR}}] {int(percent):>3} %"


def _rows(progress: Progress) -> str:
    total = "" if progress.estimated_total is None else f" of about {progress.estimated_total:,}"
    skipped = f", {progress.skipped:,} skipped" if progress.skipped else ""
    failed = f", {progress.failed:,} failed calls" if progress.failed else ""
    return f"{progress.rows:,}{total} rows{skipped}{failed}"


def _shards(progress: Progress) -> str:
    return f"{progress.shards_done} of {progress.shards} shards"


def _pace(progress: Progress) -> str:
    rate = "" if progress.rows_per_second is None else f", {progress.rows_per_second:,.0f} a second"
    left = "" if progress.seconds_left is None else f", {progress.seconds_left:,.0f} s left"
    return rate + left
