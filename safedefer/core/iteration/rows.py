"""The records of an iteration: their keys, and their bytes."""

from itertools import pairwise
from typing import Final

from safedefer.core.iteration.state import ENDED, Run, RunState, Shard, ShardState
from safedefer.core.limits import ITERATION_AGE, ITERATION_KEPT, MAX_BATCH_ROWS, MAX_BODY_BYTES, MAX_SHARDS
from safedefer.core.names import TaskId, parse_task_id
from safedefer.core.records import MAX_RECORD_BYTES, Put, Record, RecordKey, RecordKind
from safedefer.core.wire import WireError, pack, unpack
from safedefer.errors import StoreUnavailableError

DIGEST_BYTES: Final = 32
MAX_POSITION_BYTES: Final = 16_384
"""Of an encoded key range or cursor."""

_MAX_INTEGER: Final = (1 << 63) - 1


def run_key(run_id: TaskId) -> RecordKey:
    """The record of a run."""
    return RecordKey(RecordKind.RUN, run_id.hex())


def shard_key(run_id: TaskId, index: int) -> RecordKey:
    """The record of a shard. One scan behind the run's id finds them all, in their order."""
    return RecordKey(RecordKind.SHARD, f"{run_id.hex()}-{index:04d}")


def open_shard_keys(run: Run) -> list[RecordKey]:
    """The records of the shards that are not done, in their order."""
    return [shard_key(run.id, index) for index in sorted(run.open)]


def plan_keys(run: Run) -> list[RecordKey]:
    """The records of the sealed plan, in their order.

    They are not the run's own: that one is read at each checkpoint, and written whenever a shard is done.
    """
    count = -(-run.plan_bytes // MAX_RECORD_BYTES)
    return [RecordKey(RecordKind.PLAN, f"{run.id.hex()}-{index:02d}") for index in range(count)]


def put_run(run: Run, now: float) -> Put:
    """The change that writes a run over the version that it was read with."""
    age = ITERATION_KEPT if run.state in ENDED else ITERATION_AGE
    return Put(
        key=run_key(run.id),
        data=_dump_run(run),
        expires_at=int(now + age.total_seconds()),
        expected=run.version or None,
    )


def put_shard(shard: Shard, now: float) -> Put:
    """The change that writes a shard over the version that it was read with."""
    return Put(
        key=shard_key(shard.run_id, shard.index),
        data=_dump_shard(shard),
        expires_at=int(now + ITERATION_AGE.total_seconds()),
        expected=shard.version or None,
    )


def put_plan(run: Run, envelope: bytes, now: float) -> list[Put]:
    """The changes that keep the sealed plan of a new run."""
    expires_at = int(now + ITERATION_AGE.total_seconds())
    keys = plan_keys(run)
    parts = [envelope[start : start + MAX_RECORD_BYTES] for start in range(0, len(envelope), MAX_RECORD_BYTES)]
    return [
        Put(key=key, data=part, expires_at=expires_at, expected=None) for key, part in zip(keys, parts, strict=True)
    ]


def _dump_run(run: Run) -> bytes:
    return pack(
        [
            run.state.value,
            run.plan_sha256,
            run.plan_bytes,
            run.shards,
            sorted(run.open),
            run.created_at,
            run.changed_at,
            run.idle_seconds,
            run.estimated_total,
            run.processed,
            run.skipped,
            run.failed,
        ]
    )


def parse_run(record: Record) -> Run:
    """Read a run.

    Raises:
        StoreUnavailableError: The row cannot be read; its tasks wait until somebody has looked.
    """
    try:
        state, sha256, size, shards, still_open, created_at, changed_at, idle, total, *counts = _fields(record.data, 12)
        processed, skipped, failed = (_integer(count) for count in counts)
        count = _integer(shards, MAX_SHARDS)
        return Run(
            id=_run_id(record.key.id),
            state=RunState(_text(state)),
            plan_sha256=_bytes(sha256, DIGEST_BYTES, DIGEST_BYTES),
            plan_bytes=_integer(size, MAX_BODY_BYTES),
            shards=count,
            open=_indexes(still_open, count),
            created_at=_integer(created_at),
            changed_at=_integer(changed_at),
            idle_seconds=_integer(idle),
            estimated_total=None if total is None else _integer(total),
            processed=processed,
            skipped=skipped,
            failed=failed,
            version=record.version,
        )
    except ValueError:
        raise StoreUnavailableError("the row of an iteration cannot be read") from None


def _dump_shard(shard: Shard) -> bytes:
    return pack(
        [
            shard.key_range,
            shard.cursor,
            shard.state.value,
            [shard.seq, shard.wake, shard.fence, shard.lease_until, shard.not_before, shard.heartbeat],
            [shard.processed, shard.skipped, shard.failed],
            [shard.poison_key, shard.poison_tries, shard.calling, shard.crashes, shard.careful],
            [shard.slowest_ms, shard.batch_size],
        ]
    )


def parse_shard(record: Record) -> Shard:
    """Read a shard.

    Raises:
        StoreUnavailableError: The row cannot be read; its tasks wait until somebody has looked.
    """
    try:
        key_range, cursor, state, lease, counts, trouble, pace = _fields(record.data, 7)
        seq, wake, fence, lease_until, not_before, heartbeat = (_integer(part) for part in _array(lease, 6))
        processed, skipped, failed = (_integer(count) for count in _array(counts, 3))
        poison_key, tries, calling, crashes, careful = _array(trouble, 5)
        slowest_ms, batch_size = (_integer(part) for part in _array(pace, 2))
        name, _, index = record.key.id.partition("-")
        if not isinstance(calling, bool):
            raise WireError("not a shard")
        return Shard(
            run_id=_run_id(name),
            index=int(index),
            key_range=_bytes(key_range, 0, MAX_POSITION_BYTES),
            cursor=None if cursor is None else _bytes(cursor, 0, MAX_POSITION_BYTES),
            state=ShardState(_text(state)),
            seq=seq,
            wake=wake,
            fence=fence,
            lease_until=lease_until,
            not_before=not_before,
            heartbeat=heartbeat,
            processed=processed,
            skipped=skipped,
            failed=failed,
            poison_key=None if poison_key is None else _bytes(poison_key, DIGEST_BYTES, DIGEST_BYTES),
            poison_tries=_integer(tries),
            calling=calling,
            crashes=_integer(crashes),
            careful=_integer(careful),
            slowest_ms=slowest_ms,
            batch_size=min(batch_size, MAX_BATCH_ROWS),
            version=record.version,
        )
    except ValueError:
        raise StoreUnavailableError("the row of a shard cannot be read") from None


def _run_id(name: str) -> TaskId:
    run_id = parse_task_id(bytes.fromhex(name))
    if run_id.hex() != name:
        raise WireError("not the id of a run")  # Its shards and its plan are kept under another one.
    return run_id


def _fields(data: bytes, count: int) -> list[object]:
    return _array(unpack(data), count)


def _array(value: object, length: int) -> list[object]:
    if not isinstance(value, list) or len(value) != length:
        raise WireError("not an array of the right length")
    return value


def _integer(value: object, most: int = _MAX_INTEGER) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise WireError("not a number in range")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise WireError("not a text")
    return value


def _bytes(value: object, least: int, most: int) -> bytes:
    if not isinstance(value, bytes) or not least <= len(value) <= most:
        raise WireError("not bytes of the right length")
    return value


def _indexes(value: object, count: int) -> frozenset[int]:
    if not isinstance(value, list):
        raise WireError("not a list of shards")
    indexes = [_integer(index, count - 1) for index in value]
    if any(one >= other for one, other in pairwise(indexes)):
        raise WireError("not in order")
    return frozenset(indexes)
