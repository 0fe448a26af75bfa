"""Time budget, batch sizes, and progress."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedefer.core.iteration.budget import Budget, adapt_batch, make_budget, reserve_seconds, slowest
from safedefer.core.iteration.progress import measure_progress
from safedefer.core.iteration.state import RunState
from tests.support.iterations import NOW, RUN, SHARD

TEN, FIVE, ONE = timedelta(minutes=10), timedelta(minutes=5), timedelta(minutes=1)


def last_start(budget: Budget, slowest_ms: int = 0) -> int:
    """The last second at which another row may be begun."""
    starts = [
        second for second in range(3_600) if budget.has_time(elapsed_seconds=second, slowest_ms=slowest_ms, rows=1)
    ]
    return max(starts, default=-1)


@pytest.mark.parametrize(
    ("budget", "end"),
    [
        (make_budget(TEN), 569),
        (make_budget(timedelta(minutes=30)), 569),
        (make_budget(FIVE), 289),
        (make_budget(TEN, limit=FIVE), 289),
        (make_budget(ONE, limit=FIVE), 49),
        (make_budget(FIVE, limit=ONE), 49),
    ],
)
def test_budget_is_the_smallest_limit_less_the_reserve(budget: Budget, end: int) -> None:
    assert last_start(budget) == end


@pytest.mark.parametrize(("slowest_ms", "reserve"), [(0, 10), (3_000, 10), (4_000, 12), (60_000, 180)])
def test_reserve_grows_with_the_slowest_row(slowest_ms: int, reserve: float) -> None:
    assert reserve_seconds(slowest_ms) == reserve
    assert last_start(make_budget(FIVE), slowest_ms) == 299 - reserve


def test_first_row_is_begun_however_short_the_time_is() -> None:
    budget = make_budget(timedelta(seconds=15))
    assert budget.has_time(elapsed_seconds=14, slowest_ms=60_000, rows=0)
    assert not budget.has_time(elapsed_seconds=0, slowest_ms=60_000, rows=1)


def test_slowest_row_fades() -> None:
    pace = slowest(0, 8.0)
    assert pace == 8_000
    for _ in range(100):
        pace = slowest(pace, 0.1)
    assert 100 < pace < 4_000
    assert abs(slowest(8_000, 0.1, rows=100) - pace) < 100


@pytest.mark.parametrize(
    ("rows", "seconds", "expected"),
    [(20, 5.0, 20), (20, 10.0, 10), (20, 4.0, 25), (20, 0.001, 80), (20, 0.0, 80), (1, 60.0, 1), (0, 0.0, 20)],
)
def test_batch_takes_about_five_seconds(rows: int, seconds: float, expected: int) -> None:
    assert adapt_batch(20, rows=rows, seconds=seconds) == expected


@given(st.integers(1, 20_000), st.integers(0, 20_000), st.floats(0, 1e4), st.floats(0, 1e4))
def test_batch_stays_in_bounds(size: int, rows: int, seconds: float, reading: float) -> None:
    assert 1 <= adapt_batch(size, rows=rows, seconds=seconds, reading_seconds=reading) <= 20_000


@pytest.mark.parametrize(("reading", "expected"), [(0.0, 8_000), (0.05, 4_000), (0.1, 2_000), (0.2, 1_000), (9.0, 500)])
def test_rows_that_take_long_to_read_come_in_smaller_pages(reading: float, expected: int) -> None:
    assert adapt_batch(2_000, rows=2_000, seconds=0.2, reading_seconds=reading) == expected


def test_progress_counts_shards_that_are_done_once() -> None:
    run = replace(RUN, processed=100, skipped=5, failed=7)
    done = replace(SHARD, index=1, processed=100, skipped=5, failed=7)
    shards = [replace(SHARD, index=0, processed=94), done, replace(SHARD, processed=50, skipped=1, failed=2)]
    progress = measure_progress(run, shards, now=NOW)
    assert (progress.rows, progress.skipped, progress.failed) == (250, 6, 9)
    assert (progress.shards_done, progress.shards) == (1, 3)
    assert (progress.percent, progress.rows_per_second, progress.seconds_left) == (25.0, 0.25, 3_000)


def test_progress_does_not_count_pauses() -> None:
    shards = [replace(SHARD, processed=250)]
    resumed = measure_progress(replace(RUN, idle_seconds=500), shards, now=NOW)
    assert (resumed.active_seconds, resumed.rows_per_second) == (500, 0.5)
    paused = replace(RUN, state=RunState.PAUSED, changed_at=NOW - 500)
    assert measure_progress(paused, shards, now=NOW + 9_999).active_seconds == 500


@pytest.mark.parametrize("total", [None, 999])
def test_progress_without_a_total_that_holds_says_rows_alone(total: int | None) -> None:
    progress = measure_progress(replace(RUN, estimated_total=total), [replace(SHARD, processed=1_000)], now=NOW)
    assert (progress.rows, progress.estimated_total, progress.percent, progress.seconds_left) == (
        1_000,
        None,
        None,
        None,
    )
    assert progress.rows_per_second == 1.0


def test_progress_before_the_first_row_knows_no_rate() -> None:
    progress = measure_progress(RUN, [SHARD], now=RUN.created_at)
    assert (progress.percent, progress.rows_per_second, progress.seconds_left) == (0.0, None, None)


@pytest.mark.parametrize(("processed", "total"), [(900, 1_000), (1_100, 1_000), (0, 0), (5, None)])
def test_progress_of_a_run_that_is_done_is_complete(processed: int, total: int | None) -> None:
    done = replace(RUN, state=RunState.DONE, open=frozenset(), processed=processed, estimated_total=total)
    progress = measure_progress(done, [], now=NOW)
    assert (progress.rows, progress.estimated_total, progress.percent) == (processed, processed, 100.0)
    assert progress.seconds_left is None
