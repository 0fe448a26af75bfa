"""Rows that fail: what came before them is kept, attempts are counted in the shard, and then a policy decides."""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import final

from safedefer.core.iteration.decisions import ACKNOWLEDGE, Decision, decide, slice_of
from safedefer.core.iteration.slices import Work, advance, release
from safedefer.core.iteration.state import ENDED, Run, RunState, Shard, ShardState
from safedefer.core.limits import MAX_ITEM_BACKOFF, MIN_ITEM_BACKOFF


@final
class OnError(StrEnum):
    """What becomes of a row whose attempts are spent."""

    RETRY = "retry"
    """It is called for again and again, until its code is mended. Its shard waits."""
    SKIP = "skip"
    """It is counted, and left behind."""
    HALT = "halt"
    """The whole iteration stands still until somebody resumes it."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ItemPolicy:
    """How often a row is tried, and what follows; from the signed plan."""

    max_attempts: int = 3
    on_error: OnError = OnError.RETRY


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One row.

    Attributes:
        digest: Of its key; see `ids.item_digest`.
        cursor: Its place: where the cursor stands once it is finished.
    """

    digest: bytes
    cursor: bytes = field(repr=False)


def is_spent(shard: Shard, digest: bytes, policy: ItemPolicy) -> bool:
    """Whether a row has failed so often that it is not to be called for again."""
    spent = shard.poison_key == digest and shard.poison_tries >= policy.max_attempts
    return spent and policy.on_error is not OnError.RETRY


def judge_item(run: Run, shard: Shard, work: Work, item: Item, policy: ItemPolicy, *, now: float) -> Decision | None:
    """What becomes of a row before its call: None where it is to be called for.

    It may be spent already, because workers were stopped in its call.
    """
    if not is_spent(shard, item.digest, policy):
        return None
    return _give_up(run, advance(shard, work, now), item, policy, now)


def announce_item(shard: Shard, work: Work, digest: bytes, *, now: float) -> Decision:
    """Name a row before its call, so that a worker that is stopped in it leaves its name behind."""
    shard = advance(shard, work, now)
    tries = shard.poison_tries if shard.poison_key == digest else 0
    return decide(now, shard=replace(shard, poison_key=digest, poison_tries=tries, calling=True))


def fail_item(run: Run, shard: Shard, work: Work, item: Item, policy: ItemPolicy, *, now: float) -> Decision:
    """A row's call has raised: keep what came before it, count, then wait, leave it behind, or halt.

    Args:
        work: What was finished before this row, since the last write.
    """
    shard = advance(shard, work, now)
    tries = shard.poison_tries + 1 if shard.poison_key == item.digest else 1
    shard = replace(shard, poison_key=item.digest, poison_tries=tries, failed=shard.failed + 1)
    if is_spent(shard, item.digest, policy):
        return _give_up(run, shard, item, policy, now)
    released = release(shard, not_before=int(now + backoff_seconds(tries)))
    return decide(now, slice_of(released), ACKNOWLEDGE, shard=released)


def postpone_item(
    run: Run, shard: Shard, work: Work, item: Item, policy: ItemPolicy, *, not_before: int, now: float
) -> Decision:
    """A row's call asks to be made again later: an attempt, but no failure unless it was the last one.

    Args:
        work: What was finished before this row, since the last write.
        not_before: When its shard goes on.
    """
    tries = shard.poison_tries + 1 if shard.poison_key == item.digest else 1
    counted = replace(advance(shard, work, now), poison_key=item.digest, poison_tries=tries)
    if is_spent(counted, item.digest, policy):
        return fail_item(run, shard, work, item, policy, now=now)
    released = release(counted, not_before)
    return decide(now, slice_of(released), ACKNOWLEDGE, shard=released)


def stop_at_item(run: Run, shard: Shard, work: Work, item: Item, policy: ItemPolicy, *, now: float) -> Decision:
    """A row without a place has failed: no cursor can stand behind it, so that a person is asked instead of skipping.

    Args:
        item: With the cursor of the row before it, or none.
    """
    if policy.on_error is OnError.SKIP:
        policy = replace(policy, on_error=OnError.HALT)
    return fail_item(run, shard, work, item, policy, now=now)


def fail_page(shard: Shard, work: Work, *, rows: int, now: float) -> Decision:
    """A call for several rows at once has raised: from the next slice on they go one by one.

    It counts against none of them: which one it was, if it was one, is found then.

    Args:
        work: What was finished before these rows, since the last write.
        rows: How many they were.
    """
    shard = advance(shard, work, now)
    shard = replace(shard, failed=shard.failed + 1, careful=max(shard.careful, rows))
    released = release(shard, not_before=int(now + backoff_seconds(1)))
    return decide(now, slice_of(released), ACKNOWLEDGE, shard=released)


def backoff_seconds(tries: int) -> float:
    """How long to wait after that many failures of one row."""
    shortest, longest = MIN_ITEM_BACKOFF.total_seconds(), MAX_ITEM_BACKOFF.total_seconds()
    return min(longest, shortest * 2.0 ** min(tries - 1, 16))


def _give_up(run: Run, shard: Shard, item: Item, policy: ItemPolicy, now: float) -> Decision:
    if policy.on_error is OnError.SKIP:
        skipped = replace(
            shard,
            cursor=item.cursor,
            skipped=shard.skipped + 1,
            crashes=0,
            careful=max(0, shard.careful - 1),
            poison_key=None,
            poison_tries=0,
        )
        return decide(now, shard=skipped)
    failed = replace(shard, state=ShardState.FAILED, seq=shard.seq + 1, lease_until=0)
    if run.state in ENDED or run.state is RunState.HALTED:
        return decide(now, ACKNOWLEDGE, shard=failed)
    # A pause that was asked for before becomes a halt: its idle time began when it was asked for.
    changed_at = run.changed_at if run.state is RunState.PAUSED else int(now)
    run = replace(run, state=RunState.HALTED, changed_at=changed_at)
    return decide(now, ACKNOWLEDGE, run=run, shard=failed)
