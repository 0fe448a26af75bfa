"""A slice's claim, its checkpoints and its end."""

from dataclasses import replace

import pytest

from safedefer.core.iteration.decisions import (
    ACKNOWLEDGE,
    STOP,
    Command,
    CreateFinalize,
    CreateSlice,
    Decision,
    Reissue,
)
from safedefer.core.iteration.slices import (
    NO_WORK,
    Work,
    checkpoint,
    claim_shard,
    end_slice,
    finish_shard,
    is_careful,
    is_made,
    is_stopping,
    keep_lease,
    page_size,
)
from safedefer.core.iteration.state import Run, RunState, Shard, ShardState
from safedefer.errors import LeaseLostError, StoreUnavailableError
from tests.support.iterations import NOW, RUN, SHARD, written

HELD = replace(SHARD, state=ShardState.RUNNING, fence=3, lease_until=NOW + 600)
WORK = Work(cursor=b"there", processed=10, slowest_ms=700, batch_size=40)


def claim(run: Run = RUN, shard: Shard | None = SHARD, *, seq: int = 5, now: float = NOW) -> Decision:
    return claim_shard(run, shard, index=2, seq=seq, now=now, lease_seconds=660)


def refusal(decision: Decision) -> tuple[Command, ...]:
    """The commands of a decision that claims nothing."""
    assert decision.changes == ()
    return decision.commands


def test_claim_takes_the_lease_with_the_next_fencing_number() -> None:
    decision = claim(now=NOW + 0.9)
    shard = written(decision)[1]
    assert shard is not None
    assert shard == decision.shard
    assert shard == replace(SHARD, state=ShardState.RUNNING, fence=1, lease_until=NOW + 660, heartbeat=NOW, version=8)
    assert decision.commands == ()
    assert decision.changes[0].expected == 7


def test_claim_of_a_held_shard_comes_again_after_the_lease() -> None:
    assert refusal(claim(shard=HELD, now=NOW + 599.9)) == (Reissue(at=NOW + 630),)


def test_claim_of_a_held_shard_comes_again_in_a_pause_too() -> None:
    assert refusal(claim(replace(RUN, state=RunState.PAUSED), HELD)) == (Reissue(at=NOW + 630),)


def test_claim_after_the_lease_takes_it_and_counts_a_crash() -> None:
    shard = claim(shard=HELD, now=NOW + 600).shard
    assert shard is not None
    assert (shard.fence, shard.lease_until, shard.crashes, shard.careful) == (4, NOW + 1_260, 1, 0)
    assert page_size(shard) == 20
    assert shard.failed == 0


def test_second_crash_at_one_cursor_goes_row_by_row() -> None:
    shard = claim(shard=replace(HELD, crashes=1), now=NOW + 600).shard
    assert shard is not None
    assert (shard.crashes, shard.careful) == (2, 20)
    assert is_careful(shard)
    assert page_size(shard) == 1
    assert shard.batch_size == 10, "the page may have been too much for the worker"
    smallest = claim(shard=replace(HELD, crashes=1, batch_size=1), now=NOW + 600).shard
    assert smallest is not None
    assert smallest.batch_size == 1


def test_crash_in_the_call_of_a_named_row_is_a_failure_of_it() -> None:
    crashed = replace(HELD, crashes=2, careful=20, poison_key=bytes(32), poison_tries=1, calling=True)
    shard = claim(shard=crashed, now=NOW + 600).shard
    assert shard is not None
    assert (shard.poison_tries, shard.failed, shard.calling, shard.careful) == (2, 1, False, 20)


def test_older_slice_hands_over_to_the_present_one() -> None:
    assert refusal(claim(seq=4)) == (CreateSlice(shard=2, seq=5, wake=1), ACKNOWLEDGE)
    waiting = replace(SHARD, not_before=NOW + 50)
    assert refusal(claim(shard=waiting, seq=0)) == (CreateSlice(shard=2, seq=5, wake=1, at=NOW + 50), ACKNOWLEDGE)
    assert refusal(claim(shard=HELD, seq=4))[-1] is ACKNOWLEDGE


def test_slice_that_is_ahead_of_its_row_stays_in_the_queue() -> None:
    assert refusal(claim(seq=6)) == (STOP,)


@pytest.mark.parametrize("seq", [4, 5, 6])
def test_slice_of_a_finalizing_run_creates_its_finalize(seq: int) -> None:
    run = replace(RUN, state=RunState.FINALIZING, open=frozenset())
    assert refusal(claim(run, replace(SHARD, state=ShardState.DONE), seq=seq)) == (CreateFinalize(), ACKNOWLEDGE)


@pytest.mark.parametrize("shard", [replace(SHARD, state=ShardState.DONE), None])
def test_slice_of_a_shard_that_is_done_has_nothing_to_do(shard: Shard | None) -> None:
    assert refusal(claim(replace(RUN, open=frozenset({0})), shard)) == (ACKNOWLEDGE,)


def test_slice_without_the_row_of_its_open_shard_waits_for_somebody() -> None:
    with pytest.raises(StoreUnavailableError):
        claim(shard=None)


@pytest.mark.parametrize("state", [RunState.PAUSED, RunState.HALTED, RunState.CANCELLED, RunState.DONE])
def test_slice_of_a_run_that_stands_still_ends(state: RunState) -> None:
    assert refusal(claim(replace(RUN, state=state))) == (ACKNOWLEDGE,)


def test_slice_of_a_failed_shard_ends() -> None:
    assert refusal(claim(shard=replace(SHARD, state=ShardState.FAILED))) == (ACKNOWLEDGE,)


def test_checkpoint_keeps_the_lease_and_the_work() -> None:
    mine = replace(HELD, crashes=1, careful=25, calling=True)
    decision = checkpoint(mine, WORK, now=NOW)
    assert written(decision)[1] == replace(
        mine,
        cursor=b"there",
        processed=10,
        slowest_ms=700,
        batch_size=40,
        heartbeat=NOW,
        crashes=0,
        careful=15,
        calling=False,
        version=8,
    )
    assert decision.commands == ()
    assert written(decision)[0] is None


def test_checkpoint_without_work_leaves_cursor_and_pace() -> None:
    mine = replace(HELD, cursor=b"here", slowest_ms=50, crashes=1)
    shard = checkpoint(mine, NO_WORK, now=NOW).shard
    assert shard is not None
    assert (shard.cursor, shard.slowest_ms, shard.batch_size, shard.crashes) == (b"here", 50, 20, 1)


def test_end_of_a_slice_releases_the_shard_and_creates_the_next() -> None:
    decision = end_slice(HELD, WORK, now=NOW)
    shard = written(decision)[1]
    assert shard is not None
    assert (shard.state, shard.seq, shard.lease_until, shard.fence) == (ShardState.READY, 6, 0, 3)
    assert (shard.cursor, shard.processed) == (b"there", 10)
    assert decision.commands == (CreateSlice(shard=2, seq=6, wake=1), ACKNOWLEDGE)


def test_slice_that_is_put_off_creates_the_next_for_later() -> None:
    decision = end_slice(HELD, NO_WORK, now=NOW, not_before=NOW + 99)
    assert decision.commands[0] == CreateSlice(shard=2, seq=6, wake=1, at=NOW + 99)


def test_shard_that_is_done_leaves_the_open_ones() -> None:
    decision = finish_shard(replace(RUN, processed=100, failed=1), replace(HELD, skipped=2, failed=3), WORK, now=NOW)
    run, shard = written(decision)
    assert run is not None
    assert shard is not None
    assert len(decision.changes) == 2
    assert (run.state, run.open, run.processed, run.skipped, run.failed) == (
        RunState.RUNNING,
        frozenset({0}),
        110,
        2,
        4,
    )
    assert (shard.state, shard.lease_until, shard.cursor) == (ShardState.DONE, 0, b"there")
    assert decision.commands == (ACKNOWLEDGE,)


def test_last_shard_takes_the_run_to_finalizing_in_the_same_commit() -> None:
    decision = finish_shard(replace(RUN, open=frozenset({2})), HELD, NO_WORK, now=NOW)
    run, shard = written(decision)
    assert run is not None
    assert shard is not None
    assert (run.state, run.open, run.changed_at, shard.state) == (RunState.FINALIZING, frozenset(), NOW, "done")
    assert decision.commands == (CreateFinalize(), ACKNOWLEDGE)


@pytest.mark.parametrize("state", [RunState.PAUSED, RunState.HALTED, RunState.CANCELLED])
def test_last_shard_of_a_run_that_stands_still_does_not_finalize(state: RunState) -> None:
    decision = finish_shard(replace(RUN, open=frozenset({2}), state=state), HELD, NO_WORK, now=NOW)
    run = written(decision)[0]
    assert run is not None
    assert (run.state, run.open, run.changed_at) == (state, frozenset(), RUN.changed_at)
    assert decision.commands == (ACKNOWLEDGE,)


def test_lease_is_kept_over_a_row_that_was_woken() -> None:
    kept = keep_lease(replace(HELD, processed=3), replace(HELD, wake=2, version=9, heartbeat=NOW + 5))
    assert kept == replace(HELD, processed=3, wake=2, version=9)


@pytest.mark.parametrize(
    "stored",
    [
        None,
        replace(HELD, fence=4),
        replace(HELD, fence=4, lease_until=0, state=ShardState.READY),
        replace(HELD, state=ShardState.READY, seq=6),
        replace(HELD, state=ShardState.DONE),
        replace(HELD, state=ShardState.FAILED),
    ],
)
def test_lease_is_lost_where_the_row_has_moved_on(stored: Shard | None) -> None:
    with pytest.raises(LeaseLostError):
        keep_lease(HELD, stored)


@pytest.mark.parametrize("wake", [1, 2])
def test_commit_without_an_answer_is_recognised(wake: int) -> None:
    decision = end_slice(HELD, WORK, now=NOW)
    assert decision.shard is not None
    assert is_made(decision, replace(decision.shard, wake=wake, version=9))


@pytest.mark.parametrize(
    "change",
    [
        {"fence": 4},
        {"seq": 5},
        {"cursor": b"elsewhere"},
        {"state": ShardState.RUNNING},
        {"calling": True},
        {"skipped": 1},
    ],
)
def test_commit_is_not_taken_for_another(change: dict[str, object]) -> None:
    decision = end_slice(HELD, WORK, now=NOW)
    assert decision.shard is not None
    assert not is_made(decision, replace(decision.shard, **change))  # type: ignore[arg-type]
    assert not is_made(decision, None)
    assert not is_made(Decision(), decision.shard)


@pytest.mark.parametrize("state", list(RunState))
def test_slice_goes_on_while_its_run_is_running(state: RunState) -> None:
    assert is_stopping(replace(RUN, state=state)) == (state is not RunState.RUNNING)
