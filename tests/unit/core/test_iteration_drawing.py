"""Progress as text."""

from dataclasses import replace

from safedefer.core.iteration.drawing import MOST_SHARDS, describe_progress, draw_frame
from safedefer.core.iteration.progress import measure_progress
from safedefer.core.iteration.state import Run, RunState, Shard, ShardState
from tests.support.iterations import NOW, RUN, SHARD

TOTAL = 20_000
HALF_AWAY = replace(RUN, shards=4, open=frozenset({0, 1, 2}), estimated_total=TOTAL, processed=5_000, created_at=NOW)


def shards_of(*processed: int) -> dict[int, Shard]:
    return {
        index: replace(SHARD, index=index, state=ShardState.RUNNING, processed=rows)
        for index, rows in enumerate(processed)
    }


def bar(filled: int) -> str:
    return f"[{'#' * filled}{'.' * (30 - filled)}]"


def test_frame_has_the_pace_a_bar_for_each_shard_and_the_total() -> None:
    frame = draw_frame(HALF_AWAY, shards_of(2_500, 1_000, 500), now=NOW + 3)
    assert frame.lines == (
        "running, 1 of 4 shards done, 3,000 a second, 4 s left",
        f"shard 0 {bar(15)}  50 %  2,500 rows running",
        f"shard 1 {bar(6)}  20 %  1,000 rows running",
        f"shard 2 {bar(3)}  10 %  500 rows running",
        f"shard 3 {bar(30)} 100 %  done",
        f"total   {bar(13)}  45 %  9,000 of about 20,000 rows",
    )
    assert not frame.ended
    assert max(map(len, frame.lines)) < 80


def test_summary_is_one_line_of_the_same() -> None:
    shards = shards_of(2_500, 1_000, 500)
    frame = draw_frame(HALF_AWAY, shards, now=NOW + 3)
    assert frame.summary == describe_progress(measure_progress(HALF_AWAY, shards.values(), now=NOW + 3))
    assert frame.summary == (
        f"running    {bar(13)}  45 %  9,000 of about 20,000 rows, 1 of 4 shards, 3,000 a second, 4 s left"
    )


def test_shard_that_is_not_done_never_looks_done() -> None:
    line = draw_frame(HALF_AWAY, shards_of(7_000), now=NOW).lines[1]
    assert line == f"shard 0 {bar(29)}  99 %  7,000 rows running"


def test_bars_say_that_the_total_is_not_known() -> None:
    lines = draw_frame(replace(HALF_AWAY, estimated_total=None), shards_of(10), now=NOW + 3).lines
    assert lines[1] == f"shard 0 [{'?' * 30}]   ? %  10 rows running"
    assert lines[-1] == f"total   [{'?' * 30}]   ? %  5,010 rows"


def test_troubles_of_a_shard_are_named() -> None:
    shard = replace(SHARD, state=ShardState.FAILED, processed=10, skipped=2, failed=5, poison_tries=3)
    assert (
        draw_frame(HALF_AWAY, {0: shard}, now=NOW)
        .lines[1]
        .endswith("12 rows failed, 2 skipped, 5 failed calls, failing 3 times")
    )


def test_frame_of_many_shards_shows_some_that_are_open() -> None:
    run = replace(HALF_AWAY, shards=1_000, open=frozenset(range(900, 1_000)))
    lines = draw_frame(run, {}, now=NOW).lines
    assert len(lines) == MOST_SHARDS + 3
    assert lines[1].startswith("shard 900 ")
    assert lines[-2] == "... and 984 shards more"


def test_ended_run_has_an_ended_frame() -> None:
    done = replace(HALF_AWAY, open=frozenset(), state=RunState.DONE, processed=TOTAL, changed_at=NOW + 10)
    frame = draw_frame(done, {}, now=NOW + 99)
    assert frame.ended
    assert frame.lines[0] == "done, 4 of 4 shards done, 2,000 a second"
    assert frame.lines[-1] == f"total   {bar(30)} 100 %  20,000 of about 20,000 rows"


def test_run_without_a_row_is_drawn() -> None:
    empty: Run = replace(RUN, shards=0, open=frozenset(), estimated_total=0, state=RunState.DONE)
    assert draw_frame(empty, {}, now=NOW).lines[-1] == f"total   {bar(30)} 100 %  0 of about 0 rows"
