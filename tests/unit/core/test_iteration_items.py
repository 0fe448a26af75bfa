"""Rows that fail."""

from dataclasses import replace

import pytest

from safedefer.core.iteration.decisions import ACKNOWLEDGE, CreateSlice, Decision
from safedefer.core.iteration.ids import item_digest
from safedefer.core.iteration.items import (
    Item,
    ItemPolicy,
    OnError,
    announce_item,
    backoff_seconds,
    fail_item,
    fail_page,
    judge_item,
    postpone_item,
    stop_at_item,
)
from safedefer.core.iteration.slices import NO_WORK, Work
from safedefer.core.iteration.state import Run, RunState, Shard, ShardState
from tests.support.iterations import NOW, RUN, RUN_ID, SHARD, written

HELD = replace(SHARD, state=ShardState.RUNNING, fence=3, lease_until=NOW + 600, cursor=b"before", processed=50)
ROW = Item(digest=item_digest(RUN_ID, b"row"), cursor=b"row")
WORK = Work(cursor=b"just before", processed=4)
TWICE = replace(HELD, poison_key=ROW.digest, poison_tries=2, failed=2)
SPENT = replace(TWICE, poison_tries=3, failed=3)


def fail(shard: Shard, on_error: OnError = OnError.RETRY, run: Run = RUN) -> Decision:
    return fail_item(run, shard, WORK, ROW, ItemPolicy(on_error=on_error), now=NOW)


@pytest.mark.parametrize("on_error", list(OnError))
def test_first_failure_keeps_what_came_before_and_waits(on_error: OnError) -> None:
    decision = fail(HELD, on_error)
    run, shard = written(decision)
    assert run is None
    assert shard is not None
    assert (shard.cursor, shard.processed, shard.failed) == (b"just before", 54, 1)
    assert (shard.poison_key, shard.poison_tries) == (ROW.digest, 1)
    assert (shard.state, shard.seq, shard.lease_until, shard.not_before) == (ShardState.READY, 6, 0, NOW + 10)
    assert decision.commands == (CreateSlice(shard=2, seq=6, wake=1, at=NOW + 10), ACKNOWLEDGE)


@pytest.mark.parametrize(("careful", "expected"), [(0, 40), (50, 50)])
def test_failed_call_for_many_rows_has_them_go_one_by_one_and_blames_none(careful: int, expected: int) -> None:
    decision = fail_page(replace(TWICE, careful=careful), replace(WORK, processed=0), rows=40, now=NOW)
    shard = decision.shard
    assert shard is not None
    assert (shard.cursor, shard.failed, shard.careful) == (b"just before", 3, expected)
    assert (shard.poison_key, shard.poison_tries) == (ROW.digest, 2)
    assert (shard.state, shard.seq, shard.not_before) == (ShardState.READY, 6, NOW + 10)
    assert decision.commands == (CreateSlice(shard=2, seq=6, wake=1, at=NOW + 10), ACKNOWLEDGE)


@pytest.mark.parametrize("on_error", list(OnError))
def test_row_that_asks_for_another_time_has_not_failed_until_its_last_attempt(on_error: OnError) -> None:
    policy, later = ItemPolicy(on_error=on_error), NOW + 3_600
    first = postpone_item(RUN, HELD, WORK, ROW, policy, not_before=later, now=NOW)
    _, shard = written(first)
    assert shard is not None
    assert (shard.cursor, shard.processed, shard.failed, shard.skipped) == (b"just before", 54, 0, 0)
    assert (shard.poison_key, shard.poison_tries, shard.not_before) == (ROW.digest, 1, later)
    assert first.commands == (CreateSlice(shard=2, seq=6, wake=1, at=later), ACKNOWLEDGE)
    last = postpone_item(RUN, TWICE, WORK, ROW, policy, not_before=later, now=NOW)
    if on_error is OnError.RETRY:
        assert last.shard is not None
        assert (last.shard.poison_tries, last.shard.failed, last.shard.not_before) == (3, 2, later)
    else:
        assert last == fail_item(RUN, TWICE, WORK, ROW, policy, now=NOW)


@pytest.mark.parametrize("on_error", list(OnError))
def test_row_without_a_place_is_never_skipped(on_error: OnError) -> None:
    policy = ItemPolicy(on_error=on_error)
    first = stop_at_item(RUN, HELD, WORK, ROW, policy, now=NOW)
    assert first == fail_item(RUN, HELD, WORK, ROW, policy, now=NOW)
    last = stop_at_item(RUN, TWICE, WORK, ROW, policy, now=NOW)
    assert last.shard is not None
    assert (last.shard.cursor, last.shard.skipped) == (b"just before", 0)
    assert (last.run is None) is (on_error is OnError.RETRY)
    assert last.run is None or last.run.state is RunState.HALTED


def test_failure_of_another_row_counts_from_one() -> None:
    shard = fail(replace(TWICE, poison_key=bytes(32))).shard
    assert shard is not None
    assert (shard.poison_key, shard.poison_tries, shard.failed) == (ROW.digest, 1, 3)


@pytest.mark.parametrize(("tries", "seconds"), [(1, 10), (2, 20), (4, 80), (7, 600), (10_000, 600)])
def test_backoff_doubles_up_to_its_limit(tries: int, seconds: float) -> None:
    assert backoff_seconds(tries) == seconds


def test_retry_goes_on_after_the_last_attempt() -> None:
    decision = fail(replace(SPENT, poison_tries=99), OnError.RETRY)
    assert decision.commands == (CreateSlice(shard=2, seq=6, wake=1, at=NOW + 600), ACKNOWLEDGE)


def test_skip_leaves_the_row_behind_after_its_last_attempt_and_goes_on() -> None:
    decision = fail(TWICE, OnError.SKIP)
    run, shard = written(decision)
    assert run is None
    assert shard is not None
    assert (shard.cursor, shard.processed, shard.skipped, shard.failed) == (b"row", 54, 1, 3)
    assert (shard.state, shard.seq, shard.poison_key) == (ShardState.RUNNING, 5, None)
    assert decision.commands == ()


def test_halt_stops_shard_and_run_in_one_commit() -> None:
    decision = fail(TWICE, OnError.HALT)
    run, shard = written(decision)
    assert run is not None
    assert shard is not None
    assert (run.state, run.changed_at, run.open) == (RunState.HALTED, NOW, RUN.open)
    assert (shard.state, shard.cursor, shard.lease_until) == (ShardState.FAILED, b"just before", 0)
    assert decision.commands == (ACKNOWLEDGE,)


def test_halt_in_a_pause_keeps_when_it_began() -> None:
    run = written(fail(TWICE, OnError.HALT, replace(RUN, state=RunState.PAUSED, changed_at=NOW - 60)))[0]
    assert run is not None
    assert (run.state, run.changed_at) == (RunState.HALTED, NOW - 60)


@pytest.mark.parametrize("state", [RunState.HALTED, RunState.CANCELLED])
def test_halt_of_a_run_that_stands_still_fails_the_shard_alone(state: RunState) -> None:
    decision = fail(TWICE, OnError.HALT, replace(RUN, state=state))
    run, shard = written(decision)
    assert run is None
    assert shard is not None
    assert shard.state is ShardState.FAILED


@pytest.mark.parametrize("on_error", list(OnError))
def test_row_with_attempts_left_is_called_for(on_error: OnError) -> None:
    policy = ItemPolicy(on_error=on_error)
    assert judge_item(RUN, TWICE, NO_WORK, ROW, policy, now=NOW) is None
    other = replace(SPENT, poison_key=bytes(32))
    assert judge_item(RUN, other, NO_WORK, ROW, policy, now=NOW) is None


def test_row_that_stopped_its_workers_is_skipped_without_another_call() -> None:
    decision = judge_item(RUN, SPENT, WORK, ROW, ItemPolicy(on_error=OnError.SKIP), now=NOW)
    assert decision is not None
    shard = written(decision)[1]
    assert shard is not None
    assert (shard.cursor, shard.processed, shard.skipped, shard.failed) == (b"row", 54, 1, 3)


def test_row_that_stopped_its_workers_halts_without_another_call() -> None:
    decision = judge_item(RUN, SPENT, WORK, ROW, ItemPolicy(on_error=OnError.HALT), now=NOW)
    assert decision is not None
    assert decision.commands == (ACKNOWLEDGE,)


def test_row_that_stopped_its_workers_is_called_for_again_under_retry() -> None:
    assert judge_item(RUN, SPENT, WORK, ROW, ItemPolicy(), now=NOW) is None


def test_announced_row_is_named_before_its_call() -> None:
    shard = written(announce_item(replace(HELD, careful=5), WORK, ROW.digest, now=NOW))[1]
    assert shard is not None
    assert (shard.poison_key, shard.poison_tries, shard.calling) == (ROW.digest, 0, True)
    assert (shard.cursor, shard.careful, shard.state) == (b"just before", 1, ShardState.RUNNING)


def test_announced_row_keeps_the_attempts_it_has() -> None:
    shard = written(announce_item(TWICE, NO_WORK, ROW.digest, now=NOW))[1]
    assert shard is not None
    assert (shard.poison_tries, shard.calling) == (2, True)


def test_one_attempt_gives_up_at_the_first_failure() -> None:
    policy = ItemPolicy(max_attempts=1, on_error=OnError.SKIP)
    shard = fail_item(RUN, HELD, NO_WORK, ROW, policy, now=NOW).shard
    assert shard is not None
    assert shard.skipped == 1
