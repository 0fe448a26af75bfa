"""The start of an iteration: a run and all of its shards come into being in one commit, or not at all."""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

from safedefer.core.iteration.decisions import ACKNOWLEDGE, Command, CreateFinalize, Decision, slice_of
from safedefer.core.iteration.rows import MAX_POSITION_BYTES, put_plan, put_run, put_shard
from safedefer.core.iteration.state import Run, RunState, Shard, ShardState
from safedefer.core.limits import FIRST_BATCH_ROWS, MAX_SHARDS
from safedefer.core.names import TaskId
from safedefer.core.records import Put
from safedefer.errors import InvalidKeyRangesError

_MAX_COMMIT_BYTES: Final = 9_000_000
"""What a RecordStore takes in one commit."""


def plan_run(
    run_id: TaskId,
    envelope: bytes,
    key_ranges: Sequence[bytes],
    *,
    estimated_total: int | None,
    now: float,
    batch_size: int = FIRST_BATCH_ROWS,
) -> Decision:
    """Begin an iteration: without a key range it is done but for its finalize.

    Args:
        envelope: The sealed plan, as it was verified.
        key_ranges: Of the shards, in their order.
    Raises:
        InvalidKeyRangesError: Too many, or too long for one commit.
    """
    if len(key_ranges) > MAX_SHARDS:
        raise InvalidKeyRangesError(f"{len(key_ranges)} key ranges, {MAX_SHARDS} at most")
    if any(len(key_range) > MAX_POSITION_BYTES for key_range in key_ranges):
        raise InvalidKeyRangesError(f"an encoded key range takes {MAX_POSITION_BYTES:,} bytes at most")
    run = Run(
        id=run_id,
        state=RunState.RUNNING if key_ranges else RunState.FINALIZING,
        plan_sha256=sha256(envelope).digest(),
        plan_bytes=len(envelope),
        shards=len(key_ranges),
        open=frozenset(range(len(key_ranges))),
        created_at=int(now),
        changed_at=int(now),
        estimated_total=estimated_total,
    )
    shards = [
        Shard(run_id=run_id, index=index, key_range=key_range, heartbeat=int(now), batch_size=batch_size)
        for index, key_range in enumerate(key_ranges)
    ]
    changes: list[Put] = [
        put_run(run, now),
        *put_plan(run, envelope, now),
        *(put_shard(shard, now) for shard in shards),
    ]
    if sum(len(change.data) for change in changes) > _MAX_COMMIT_BYTES:
        raise InvalidKeyRangesError(f"key ranges take {_MAX_COMMIT_BYTES:,} bytes at most, with the sealed plan")
    return Decision(changes=tuple(changes), commands=repeat_plan(run, shards).commands)


def repeat_plan(run: Run, shards: Iterable[Shard]) -> Decision:
    """A plan that is delivered again only creates the tasks that the rows ask for."""
    commands: list[Command] = []
    if run.state is RunState.FINALIZING:
        commands.append(CreateFinalize())
    elif run.state is RunState.RUNNING:
        commands += [slice_of(shard) for shard in shards if shard.state is ShardState.READY]
    return Decision(commands=(*commands, ACKNOWLEDGE))
