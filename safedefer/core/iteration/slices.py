"""One slice of one shard: claim, checkpoint, end. Whoever has the fencing number writes, and nobody else."""

from dataclasses import dataclass, field, replace
from typing import Final, final

from safedefer.core.iteration.decisions import (
    ACKNOWLEDGE,
    STOP,
    CreateFinalize,
    Decision,
    Reissue,
    decide,
    slice_of,
)
from safedefer.core.iteration.state import ENDED, Run, RunState, Shard, ShardState
from safedefer.core.limits import CLOCK_SKEW
from safedefer.errors import LeaseLostError, StoreUnavailableError

_CRASHES_BEFORE_CARE: Final = 2


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a slice has finished since its last write.

    Attributes:
        cursor: Place of the last row finished; None where there was none.
        processed: Rows that were called for.
        slowest_ms: The slowest recent row, from `budget.slowest`.
        batch_size: Rows of the next page, from `budget.adapt_batch`; None leaves it.
    """

    cursor: bytes | None = field(default=None, repr=False)
    processed: int = 0
    slowest_ms: int = 0
    batch_size: int | None = None


NO_WORK: Final = Work()


def claim_shard(run: Run, shard: Shard | None, *, index: int, seq: int, now: float, lease_seconds: int) -> Decision:
    """What becomes of a slice that was delivered.

    Args:
        shard: Its row; None where it has none (any more).
        seq: The slice's own number, from its claims.
        lease_seconds: Longer than the dispatch deadline, as in the ledger.
    Raises:
        StoreUnavailableError: The row of an open shard is missing.
    """
    if over := leave_shard(run, index):
        return over
    if shard is None:
        raise StoreUnavailableError("the row of an open shard is missing")
    if shard.seq < seq:
        return Decision(commands=(STOP,))  # No row is older than a task made from it, except in a restored store.
    if shard.seq > seq:
        # The task of the slice that follows may never have been created.
        return Decision(commands=(slice_of(shard), ACKNOWLEDGE))
    if shard.state is ShardState.RUNNING and now < shard.lease_until:
        # In a pause, too: if the holder is dead, this is the task that finds out.
        return Decision(commands=(Reissue(at=lease_end(shard)),))
    if run.state is not RunState.RUNNING or shard.state is ShardState.FAILED:
        return Decision(commands=(ACKNOWLEDGE,))  # Resuming wakes every open shard with a task of a new name.
    return decide(now, shard=_claimed(shard, int(now), lease_seconds))


def leave_shard(run: Run, index: int) -> Decision | None:
    """What becomes of a slice that was delivered behind the end of its shard; None where it has not ended."""
    if run.state is RunState.FINALIZING:
        # Whoever finished the last shard may have died before it created this task.
        return Decision(commands=(CreateFinalize(), ACKNOWLEDGE))
    if run.state in ENDED or index not in run.open:
        return Decision(commands=(ACKNOWLEDGE,))
    return None


def _claimed(shard: Shard, now: int, lease_seconds: int) -> Shard:
    claimed = replace(
        shard, state=ShardState.RUNNING, fence=shard.fence + 1, lease_until=now + lease_seconds, heartbeat=now
    )
    if shard.state is ShardState.READY:
        return claimed
    # A lease that ended without a release: its holder was stopped. The row that it named has failed; where it named
    # none again, the page may have been too much for it.
    crashes = shard.crashes + 1
    return replace(
        claimed,
        crashes=crashes,
        batch_size=max(1, shard.batch_size // 2) if crashes >= _CRASHES_BEFORE_CARE else shard.batch_size,
        careful=max(shard.careful, shard.batch_size) if crashes >= _CRASHES_BEFORE_CARE else shard.careful,
        poison_tries=shard.poison_tries + shard.calling,
        failed=shard.failed + shard.calling,
        calling=False,
    )


def lease_end(shard: Shard) -> int:
    """A little later than the lease ends, so that no clock finds it still held."""
    return shard.lease_until + int(CLOCK_SKEW.total_seconds())


def is_careful(shard: Shard) -> bool:
    """Whether each row is to be named before its call: workers were stopped here again and again."""
    return shard.careful > 0


def page_size(shard: Shard) -> int:
    """How many rows are to be read, and finished before the next checkpoint."""
    return 1 if is_careful(shard) else max(1, shard.batch_size)


def is_stopping(run: Run) -> bool:
    """Whether a slice has to end after its checkpoint."""
    return run.state is not RunState.RUNNING


def advance(shard: Shard, work: Work, now: float) -> Shard:
    """The shard with the work of its lease's holder."""
    shard = replace(
        shard,
        heartbeat=int(now),
        calling=False,
        slowest_ms=work.slowest_ms if work.cursor is not None else shard.slowest_ms,
        batch_size=shard.batch_size if work.batch_size is None else work.batch_size,
    )
    if work.cursor is None:
        return shard
    return replace(
        shard,
        cursor=work.cursor,
        processed=shard.processed + work.processed,
        crashes=0,
        careful=max(0, shard.careful - work.processed),
    )


def checkpoint(shard: Shard, work: Work, *, now: float) -> Decision:
    """Keep what has been done, and go on."""
    return decide(now, shard=advance(shard, work, now))


def end_slice(shard: Shard, work: Work, *, now: float, not_before: int = 0) -> Decision:
    """Keep what has been done, release the shard, and leave the rest to the next slice.

    That one is created in a pause as well, and ends at once: whether the pause is over is decided by it, on fresh rows.
    """
    released = release(advance(shard, work, now), not_before)
    return decide(now, slice_of(released), ACKNOWLEDGE, shard=released)


def release(shard: Shard, not_before: int = 0) -> Shard:
    """The shard as it waits for its next slice."""
    return replace(shard, state=ShardState.READY, seq=shard.seq + 1, lease_until=0, not_before=not_before, crashes=0)


def finish_shard(run: Run, shard: Shard, work: Work, *, now: float) -> Decision:
    """Keep that every row of the shard is done; the last one takes its run to FINALIZING in the same commit."""
    shard = replace(advance(shard, work, now), state=ShardState.DONE, lease_until=0)
    still_open = run.open - {shard.index}
    last = not still_open and run.state is RunState.RUNNING
    run = replace(
        run,
        open=still_open,
        state=RunState.FINALIZING if last else run.state,
        changed_at=int(now) if last else run.changed_at,
        processed=run.processed + shard.processed,
        skipped=run.skipped + shard.skipped,
        failed=run.failed + shard.failed,
    )
    commands = (CreateFinalize(), ACKNOWLEDGE) if last else (ACKNOWLEDGE,)
    return decide(now, *commands, run=run, shard=shard)


def is_made(decision: Decision, stored: Shard | None) -> bool:
    """Whether a commit whose answer was lost has been made, by the row of the shard that it wrote."""
    wrote = decision.shard
    if wrote is None or stored is None:
        return False
    return (wrote.fence, wrote.state, wrote.seq, wrote.cursor, wrote.calling, wrote.skipped) == (
        stored.fence,
        stored.state,
        stored.seq,
        stored.cursor,
        stored.calling,
        stored.skipped,
    )


def keep_lease(mine: Shard, stored: Shard | None) -> Shard:
    """The holder's own row over the one that is stored, which may have been woken since.

    Args:
        mine: The shard as its holder last wrote it.
    Raises:
        LeaseLostError: The lease was over and another worker has claimed the shard.
    """
    if stored is None or stored.fence != mine.fence or stored.state is not ShardState.RUNNING:
        raise LeaseLostError("another worker has claimed the shard")
    return replace(mine, wake=stored.wake, version=stored.version)
