"""What a person, a sweep or the finalize task does to an iteration as a whole."""

from dataclasses import replace

from safedefer.core.iteration.decisions import ACKNOWLEDGE, STOP, CreateFinalize, Decision, decide, slice_of
from safedefer.core.iteration.slices import lease_end
from safedefer.core.iteration.state import ENDED, RESUMABLE, Run, RunState, Shard, ShardState
from safedefer.core.limits import ITERATION_SILENCE
from safedefer.errors import IterationError

_SILENCE = int(ITERATION_SILENCE.total_seconds())


def pause_run(run: Run, *, now: float) -> Decision:
    """Let no slice begin, and end those under way at their next checkpoint.

    Raises:
        IterationError: It has ended, or is finalizing.
    """
    if run.state in RESUMABLE:
        return Decision(run=run)
    if run.state is not RunState.RUNNING:
        raise IterationError(f"an iteration that is {run.state.value} cannot be paused")
    return decide(now, run=replace(run, state=RunState.PAUSED, changed_at=int(now)))


def resume_run(run: Run, *, now: float) -> Decision:
    """End a pause or a halt; `wake_shard` for each open shard follows.

    It may be repeated on a run that goes on already: a resume before may have been stopped before it woke the shards,
    or created the finalize task.

    Raises:
        IterationError: It has ended.
    """
    if run.state is RunState.RUNNING:
        return Decision(run=run)
    if run.state is RunState.FINALIZING:
        # Under a name of its own: a queue that has dropped the task keeps its name for a while.
        return Decision(commands=(CreateFinalize(again=int(now)),), run=run)
    if run.state not in RESUMABLE:
        raise IterationError(f"an iteration that is {run.state.value} cannot be resumed")
    run = replace(
        run,
        state=RunState.RUNNING if run.open else RunState.FINALIZING,
        idle_seconds=run.idle_seconds + max(0, int(now) - run.changed_at),
        changed_at=int(now),
    )
    commands = () if run.open else (CreateFinalize(),)
    return decide(now, *commands, run=run)


def cancel_run(run: Run, *, now: float) -> Decision:
    """End an iteration without finalizing it; slices under way end at their next checkpoint.

    Raises:
        IterationError: It is done.
    """
    if run.state is RunState.CANCELLED:
        return Decision(run=run)
    if run.state is RunState.DONE:
        raise IterationError("an iteration that is done cannot be cancelled")
    idle = max(0, int(now) - run.changed_at) if run.state in RESUMABLE else 0
    cancelled = replace(run, state=RunState.CANCELLED, changed_at=int(now), idle_seconds=run.idle_seconds + idle)
    return decide(now, run=cancelled)


def wake_shard(run: Run, shard: Shard, *, now: float) -> Decision:
    """Give a shard's slice a new task, after a resume: the former one has ended, or waits for its backoff.

    A row that halted its shard is tried afresh.
    """
    if run.state is not RunState.RUNNING or shard.state is ShardState.DONE:
        return Decision()
    if shard.state is ShardState.RUNNING:
        # Its holder goes on, unless it is dead: then this task takes over.
        woken = replace(shard, wake=shard.wake + 1)
        return decide(now, slice_of(woken, at=max(int(now), lease_end(shard))), shard=woken)
    woken = replace(
        shard, state=ShardState.READY, wake=shard.wake + 1, not_before=0, heartbeat=int(now), poison_tries=0
    )
    return decide(now, slice_of(woken), shard=woken)


def sweep_run(run: Run, *, now: float) -> Decision:
    """Create the finalize task of a run that has waited long for its end, once more."""
    if run.state is not RunState.FINALIZING or now - run.changed_at < _SILENCE:
        return Decision()
    return Decision(commands=(CreateFinalize(again=int(now) // _SILENCE),))


def sweep_shard(run: Run, shard: Shard, *, now: float) -> Decision:
    """Give a shard without a sign of life a new task.

    A queue has dropped the former one, nobody created it, or a resume was stopped before it came to this shard.
    """
    if run.state is not RunState.RUNNING or shard.state is ShardState.DONE:
        return Decision()
    if now - max(shard.heartbeat, shard.not_before, shard.lease_until) < _SILENCE:
        return Decision()
    if shard.state is ShardState.FAILED:
        return wake_shard(run, shard, now=now)
    woken = replace(shard, wake=shard.wake + 1, heartbeat=int(now))
    return decide(now, slice_of(woken), shard=woken)


def start_finalize(run: Run) -> Decision:
    """What becomes of a finalize task that was delivered: no commands means that it is to be run."""
    if run.state in ENDED:
        return Decision(commands=(ACKNOWLEDGE,), run=run)
    # A store that was restored may have lost the commit that this task was created behind: it waits for the end.
    return Decision(commands=() if run.state is RunState.FINALIZING else (STOP,), run=run)


def finish_finalize(run: Run, *, now: float) -> Decision:
    """Keep that a run has ended; cancelled in between, it stays so."""
    if run.state in ENDED:
        return Decision(commands=(ACKNOWLEDGE,), run=run)
    return decide(now, ACKNOWLEDGE, run=replace(run, state=RunState.DONE, changed_at=int(now)))
