"""Pause, resume, cancel, sweep and finalize."""

from dataclasses import replace

import pytest

from safedefer.core.iteration.decisions import ACKNOWLEDGE, STOP, CreateFinalize, CreateSlice, Decision
from safedefer.core.iteration.operations import (
    cancel_run,
    finish_finalize,
    pause_run,
    resume_run,
    start_finalize,
    sweep_run,
    sweep_shard,
    wake_shard,
)
from safedefer.core.iteration.state import Run, RunState, Shard, ShardState
from safedefer.core.limits import ITERATION_SILENCE
from safedefer.errors import IterationError
from tests.support.iterations import NOW, RUN, SHARD, written

SILENCE = int(ITERATION_SILENCE.total_seconds())
PAUSED = replace(RUN, state=RunState.PAUSED, changed_at=NOW - 300, idle_seconds=50)
HALTED = replace(PAUSED, state=RunState.HALTED)
FINALIZING = replace(RUN, state=RunState.FINALIZING, open=frozenset(), changed_at=NOW - 5)
CANCELLED = replace(RUN, state=RunState.CANCELLED)
DONE = replace(FINALIZING, state=RunState.DONE)
HELD = replace(SHARD, state=ShardState.RUNNING, lease_until=NOW + 100)
FAILED = replace(SHARD, state=ShardState.FAILED, poison_key=bytes(32), poison_tries=3, not_before=NOW - 500)


def run_of(decision: Decision) -> Run:
    run = written(decision)[0]
    assert run is not None
    return run


def shard_of(decision: Decision) -> Shard:
    shard = written(decision)[1]
    assert shard is not None
    return shard


def test_pause_stops_a_run() -> None:
    decision = pause_run(RUN, now=NOW)
    assert (run_of(decision).state, run_of(decision).changed_at, decision.commands) == (RunState.PAUSED, NOW, ())


@pytest.mark.parametrize("run", [PAUSED, HALTED])
def test_pause_of_a_run_that_stands_still_changes_nothing(run: Run) -> None:
    assert pause_run(run, now=NOW) == Decision(run=run)


@pytest.mark.parametrize("run", [FINALIZING, DONE, CANCELLED])
def test_pause_refuses_a_run_without_open_work(run: Run) -> None:
    with pytest.raises(IterationError, match="cannot be paused"):
        pause_run(run, now=NOW)


@pytest.mark.parametrize("run", [PAUSED, HALTED])
def test_resume_counts_the_time_that_was_idle(run: Run) -> None:
    resumed = run_of(resume_run(run, now=NOW))
    assert (resumed.state, resumed.idle_seconds, resumed.changed_at) == (RunState.RUNNING, 350, NOW)


def test_resume_without_an_open_shard_finalizes() -> None:
    decision = resume_run(replace(PAUSED, open=frozenset()), now=NOW)
    assert run_of(decision).state is RunState.FINALIZING
    assert decision.commands == (CreateFinalize(),)


def test_resume_may_be_repeated() -> None:
    assert resume_run(RUN, now=NOW) == Decision(run=RUN)
    assert resume_run(FINALIZING, now=NOW) == Decision(commands=(CreateFinalize(again=NOW),), run=FINALIZING)


@pytest.mark.parametrize("run", [DONE, CANCELLED])
def test_resume_refuses_a_run_that_has_ended(run: Run) -> None:
    with pytest.raises(IterationError, match="cannot be resumed"):
        resume_run(run, now=NOW)


def test_woken_shard_gets_a_task_of_a_new_name() -> None:
    decision = wake_shard(RUN, replace(SHARD, not_before=NOW + 500), now=NOW)
    shard = shard_of(decision)
    assert (shard.wake, shard.seq, shard.not_before, shard.heartbeat) == (2, 5, 0, NOW)
    assert decision.commands == (CreateSlice(shard=2, seq=5, wake=2),)


def test_woken_shard_that_failed_is_tried_afresh() -> None:
    shard = shard_of(wake_shard(RUN, FAILED, now=NOW))
    assert (shard.state, shard.poison_tries, shard.wake) == (ShardState.READY, 0, 2)


def test_woken_shard_that_is_held_keeps_its_lease_and_gets_a_task_behind_it() -> None:
    decision = wake_shard(RUN, HELD, now=NOW)
    assert shard_of(decision) == replace(HELD, wake=2, version=8)
    assert decision.commands == (CreateSlice(shard=2, seq=5, wake=2, at=NOW + 130),)


@pytest.mark.parametrize("run", [PAUSED, HALTED, CANCELLED, FINALIZING])
def test_nothing_is_woken_in_a_run_that_stands_still(run: Run) -> None:
    assert wake_shard(run, SHARD, now=NOW) == Decision()
    assert sweep_shard(run, replace(SHARD, heartbeat=0), now=NOW) == Decision()


def test_shard_that_is_done_is_left_alone() -> None:
    done = replace(SHARD, state=ShardState.DONE, heartbeat=0)
    assert wake_shard(RUN, done, now=NOW) == sweep_shard(RUN, done, now=NOW) == Decision()


@pytest.mark.parametrize("run", [RUN, PAUSED, HALTED, FINALIZING])
def test_cancel_ends_a_run_without_finalizing(run: Run) -> None:
    decision = cancel_run(run, now=NOW)
    assert (run_of(decision).state, decision.commands) == (RunState.CANCELLED, ())
    assert run_of(decision).idle_seconds == (350 if run in (PAUSED, HALTED) else 0)


def test_cancel_may_be_repeated_but_not_undo_an_end() -> None:
    assert cancel_run(CANCELLED, now=NOW) == Decision(run=CANCELLED)
    with pytest.raises(IterationError, match="done"):
        cancel_run(DONE, now=NOW)


@pytest.mark.parametrize("shard", [SHARD, HELD, FAILED])
def test_sweep_leaves_a_shard_that_gives_signs_of_life(shard: Shard) -> None:
    assert sweep_shard(RUN, shard, now=NOW + SILENCE - 11) == Decision()


@pytest.mark.parametrize("shard", [SHARD, FAILED, replace(SHARD, not_before=NOW - 1)])
def test_sweep_wakes_a_silent_shard(shard: Shard) -> None:
    now = NOW + SILENCE
    decision = sweep_shard(RUN, shard, now=now)
    woken = shard_of(decision)
    assert (woken.state, woken.wake, woken.heartbeat) == (ShardState.READY, 2, now)
    assert decision.commands == (CreateSlice(shard=2, seq=5, wake=2, at=woken.not_before),)


def test_sweep_waits_for_backoff_and_lease() -> None:
    assert sweep_shard(RUN, replace(SHARD, heartbeat=0, not_before=NOW + 9), now=NOW + SILENCE) == Decision()
    assert sweep_shard(RUN, replace(HELD, heartbeat=0), now=NOW + SILENCE + 99) == Decision()
    assert sweep_shard(RUN, replace(HELD, heartbeat=0), now=NOW + SILENCE + 100).commands


def test_second_sweep_finds_the_sign_of_life_of_the_first() -> None:
    woken = shard_of(sweep_shard(RUN, SHARD, now=NOW + SILENCE))
    assert sweep_shard(RUN, woken, now=NOW + SILENCE + 60) == Decision()


def test_sweep_creates_a_finalize_that_was_lost_under_another_name() -> None:
    assert sweep_run(FINALIZING, now=NOW) == Decision()
    (command,) = sweep_run(FINALIZING, now=NOW + SILENCE).commands
    assert isinstance(command, CreateFinalize)
    assert command.again > 0
    assert sweep_run(FINALIZING, now=NOW + 3 * SILENCE).commands != (command,)


@pytest.mark.parametrize("run", [RUN, PAUSED, DONE, CANCELLED])
def test_sweep_creates_no_finalize_for_other_runs(run: Run) -> None:
    assert sweep_run(run, now=NOW + SILENCE) == Decision()


def test_finalize_runs_where_every_shard_is_done() -> None:
    assert start_finalize(FINALIZING).commands == ()


@pytest.mark.parametrize("run", [DONE, CANCELLED])
def test_finalize_of_a_run_that_has_ended_ends(run: Run) -> None:
    assert start_finalize(run).commands == (ACKNOWLEDGE,)


@pytest.mark.parametrize("run", [RUN, PAUSED, HALTED])
def test_finalize_waits_for_a_run_that_a_restored_store_has_set_back(run: Run) -> None:
    assert start_finalize(run).commands == (STOP,)


def test_finalized_run_is_done() -> None:
    decision = finish_finalize(FINALIZING, now=NOW)
    assert (run_of(decision).state, run_of(decision).changed_at) == (RunState.DONE, NOW)
    assert decision.commands == (ACKNOWLEDGE,)


@pytest.mark.parametrize("run", [DONE, CANCELLED])
def test_finalized_run_that_has_ended_stays_as_it_is(run: Run) -> None:
    assert finish_finalize(run, now=NOW) == Decision(commands=(ACKNOWLEDGE,), run=run)
