"""Valid rows of an iteration, for tests that change one thing in them."""

from hashlib import sha256

from safedefer.core.iteration.decisions import Decision
from safedefer.core.iteration.rows import parse_run, parse_shard, run_key, shard_key
from safedefer.core.iteration.state import Run, RunState, Shard
from safedefer.core.names import TaskId
from safedefer.core.records import Put, Record

RUN_ID = TaskId(bytes(range(16)))
NOW = 1_000_000
PLAN = b"sealed plan"
RUN = Run(
    id=RUN_ID,
    state=RunState.RUNNING,
    plan_sha256=sha256(PLAN).digest(),
    plan_bytes=len(PLAN),
    shards=3,
    open=frozenset({0, 2}),
    created_at=NOW - 1_000,
    changed_at=NOW - 1_000,
    estimated_total=1_000,
    version=4,
)
SHARD = Shard(run_id=RUN_ID, index=2, key_range=b"from to", seq=5, wake=1, heartbeat=NOW - 10, batch_size=20, version=7)


def written(decision: Decision) -> tuple[Run | None, Shard | None]:
    """The rows of a decision as the store has them after its commit."""
    run = shard = None
    for change in decision.changes:
        assert isinstance(change, Put)
        version = change.version
        record = Record(key=change.key, version=version, data=change.data, expires_at=change.expires_at)
        if change.key == run_key(RUN_ID):
            run = parse_run(record)
        elif change.key == shard_key(RUN_ID, 2):
            shard = parse_shard(record)
    return run, shard


def record_of(change: object) -> Record:
    """A change as the record that it makes."""
    assert isinstance(change, Put)
    return Record(key=change.key, version=change.version, data=change.data, expires_at=change.expires_at)
