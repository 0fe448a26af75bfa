"""What is kept of an iteration: one run, its sealed plan, and one shard for each key range.

Trust: none of it is signed. Who can write the store can make rows be skipped or repeated, and an iteration stand still;
what is called, and with which arguments, is in the sealed plan, which every slice verifies.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, final

from safedefer.core.names import TaskId


@final
class RunState(StrEnum):
    """How far an iteration is."""

    RUNNING = "running"
    PAUSED = "paused"
    HALTED = "halted"
    """A row failed for the last time, and its iteration asks for a person."""
    FINALIZING = "finalizing"
    """Every shard is done."""
    DONE = "done"
    CANCELLED = "cancelled"


ENDED: Final = frozenset({RunState.DONE, RunState.CANCELLED})
RESUMABLE: Final = frozenset({RunState.PAUSED, RunState.HALTED})


@final
class ShardState(StrEnum):
    """How far a shard is."""

    READY = "ready"
    """A slice is to come."""
    RUNNING = "running"
    """A slice has the lease, or died with it."""
    DONE = "done"
    FAILED = "failed"
    """Halted at a row."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One iteration.

    Attributes:
        id: Task id of its plan.
        plan_sha256: Of the sealed plan envelope, which every slice's claims carry too.
        plan_bytes: Its size.
        shards: How many it was cut into.
        open: Indexes of those that are not done.
        created_at: Seconds since 1970, as every time here.
        changed_at: When it came into its state.
        idle_seconds: Time spent paused or halted, without the present pause.
        estimated_total: Rows, as counted or guessed when it was planned.
        processed: Rows that were called for, in the shards that are done.
        skipped: Rows given up, likewise.
        failed: Calls that failed, likewise.
        version: Of its record; 0 where it has none yet.
    """

    id: TaskId
    state: RunState
    plan_sha256: bytes = field(repr=False)
    plan_bytes: int
    shards: int
    open: frozenset[int]
    created_at: int
    changed_at: int
    idle_seconds: int = 0
    estimated_total: int | None = None
    processed: int = 0
    skipped: int = 0
    failed: int = 0
    version: int = 0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One key range of an iteration.

    Keys are data of the application, which no log may show.

    Attributes:
        run_id: Its run.
        index: Its place among the shards.
        key_range: Encoded by whoever reads the pages.
        cursor: Place of the last row finished, likewise; None at the start.
        seq: Number of the slice that is to come, or is running.
        wake: Grows when that slice needs a new task.
        fence: Grows with each claim; a write with an old one fails.
        lease_until: Until then nobody else may claim it.
        not_before: When a slice that was put off may begin.
        heartbeat: Last sign of life.
        processed: Rows that were called for.
        skipped: Rows given up.
        failed: Calls that failed.
        poison_key: Digest of the row that failed last.
        poison_tries: How often it did.
        calling: `poison_key` is being called now, and was named before the call.
        crashes: Leases in a row that ended without a checkpoint.
        careful: So many rows are to be called one by one, each named before.
        slowest_ms: The slowest recent row.
        batch_size: Rows of the next page.
        version: Of its record; 0 where it has none yet.
    """

    run_id: TaskId
    index: int
    key_range: bytes = field(repr=False)
    cursor: bytes | None = field(default=None, repr=False)
    state: ShardState = ShardState.READY
    seq: int = 0
    wake: int = 0
    fence: int = 0
    lease_until: int = 0
    not_before: int = 0
    heartbeat: int
    processed: int = 0
    skipped: int = 0
    failed: int = 0
    poison_key: bytes | None = field(default=None, repr=False)
    poison_tries: int = 0
    calling: bool = False
    crashes: int = 0
    careful: int = 0
    slowest_ms: int = 0
    batch_size: int
    version: int = 0
