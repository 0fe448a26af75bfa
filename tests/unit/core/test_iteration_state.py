"""The rows of an iteration, as values and as bytes."""

from dataclasses import replace
from typing import Any

import pytest

from safedefer.core.iteration.ids import finalize_task_id, item_digest, slice_task_id
from safedefer.core.iteration.rows import (
    open_shard_keys,
    parse_run,
    parse_shard,
    plan_keys,
    put_plan,
    put_run,
    put_shard,
    run_key,
    shard_key,
)
from safedefer.core.iteration.state import RunState, ShardState
from safedefer.core.limits import ITERATION_AGE, ITERATION_KEPT
from safedefer.core.names import TaskId
from safedefer.core.records import MAX_RECORD_BYTES, MAX_RECORD_ID, Record, RecordKind
from safedefer.core.wire import pack, unpack
from safedefer.errors import StoreUnavailableError
from safedefer.testing.fakes import MemoryRecords
from tests.support.iterations import NOW, RUN, RUN_ID, SHARD, record_of

TROUBLED = replace(
    SHARD,
    cursor=b"here",
    state=ShardState.RUNNING,
    fence=3,
    lease_until=NOW + 660,
    not_before=NOW,
    processed=100,
    skipped=1,
    failed=4,
    poison_key=bytes(32),
    poison_tries=2,
    calling=True,
    crashes=2,
    careful=20,
    slowest_ms=1_500,
)


@pytest.mark.parametrize("state", list(RunState))
def test_run_comes_back_as_it_was(state: RunState) -> None:
    run = replace(RUN, state=state, idle_seconds=7, processed=10, skipped=2, failed=3)
    assert parse_run(record_of(put_run(run, NOW))) == replace(run, version=5)


def test_run_without_an_estimate_comes_back() -> None:
    run = replace(RUN, estimated_total=None, open=frozenset(), shards=0)
    assert parse_run(record_of(put_run(run, NOW))) == replace(run, version=5)


@pytest.mark.parametrize("shard", [SHARD, TROUBLED, replace(SHARD, index=999)])
def test_shard_comes_back_as_it_was(shard: Any) -> None:
    assert parse_shard(record_of(put_shard(shard, NOW))) == replace(shard, version=8)


def test_first_write_expects_nothing_and_the_next_what_was_read() -> None:
    assert put_run(replace(RUN, version=0), NOW).expected is None
    assert put_shard(replace(SHARD, version=0), NOW).expected is None
    assert put_run(RUN, NOW).expected == 4
    assert put_shard(SHARD, NOW).expected == 7


@pytest.mark.parametrize(("state", "age"), [(RunState.PAUSED, ITERATION_AGE), (RunState.DONE, ITERATION_KEPT)])
def test_run_is_kept_longer_while_it_is_open(state: RunState, age: Any) -> None:
    assert put_run(replace(RUN, state=state), NOW).expires_at == NOW + age.total_seconds()


def test_plan_of_no_possible_size_is_refused_before_it_is_looked_for() -> None:
    with pytest.raises(StoreUnavailableError):
        parse_run(record_of(put_run(replace(RUN, plan_bytes=10**12), NOW)))


def changed(data: bytes, path: tuple[int, ...], value: object) -> bytes:
    """The same row with one field of another value."""
    tree = unpack(data)
    inner: Any = tree
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return pack(tree)


RUN_DATA = put_run(RUN, NOW).data
SHARD_DATA = put_shard(TROUBLED, NOW).data
WRONG_RUNS = {
    "nothing": b"",
    "no msgpack": b"\xc1",
    "no array": pack({}),
    "a field less": pack([]),
    "an unknown state": changed(RUN_DATA, (0,), "lost"),
    "a state that is no text": changed(RUN_DATA, (0,), 1),
    "a short digest": changed(RUN_DATA, (1,), bytes(31)),
    "too many shards": changed(RUN_DATA, (3,), 1_001),
    "an open shard beyond the last": changed(RUN_DATA, (4,), [0, 3]),
    "a repeated open shard": changed(RUN_DATA, (4,), [0, 0]),
    "open shards out of order": changed(RUN_DATA, (4,), [2, 0]),
    "open shards that are no list": changed(RUN_DATA, (4,), {}),
    "a negative time": changed(RUN_DATA, (5,), -1),
    "a time that is no integer": changed(RUN_DATA, (5,), 1.5),
    "a count that is a bool": changed(RUN_DATA, (9,), True),
    "a count beyond 63 bits": changed(RUN_DATA, (9,), 1 << 63),
}
WRONG_SHARDS = {
    "nothing": b"",
    "a field less": pack([]),
    "a key range that is text": changed(SHARD_DATA, (0,), "from to"),
    "a key range that is too long": changed(SHARD_DATA, (0,), bytes(16_385)),
    "a cursor that is a number": changed(SHARD_DATA, (1,), 1),
    "an unknown state": changed(SHARD_DATA, (2,), "lost"),
    "a negative number": changed(SHARD_DATA, (3, 0), -1),
    "a lease of five": changed(SHARD_DATA, (3,), [1, 2, 3, 4, 5]),
    "a short digest": changed(SHARD_DATA, (5, 0), b"row"),
    "a flag that is a number": changed(SHARD_DATA, (5, 2), 1),
}


@pytest.mark.parametrize("data", WRONG_RUNS.values(), ids=WRONG_RUNS.keys())
def test_run_that_cannot_be_read_waits_for_somebody(data: bytes) -> None:
    with pytest.raises(StoreUnavailableError, match="row of an iteration"):
        parse_run(Record(key=run_key(RUN_ID), version=1, data=data, expires_at=0))


@pytest.mark.parametrize("data", WRONG_SHARDS.values(), ids=WRONG_SHARDS.keys())
def test_shard_that_cannot_be_read_waits_for_somebody(data: bytes) -> None:
    with pytest.raises(StoreUnavailableError, match="row of a shard"):
        parse_shard(Record(key=shard_key(RUN_ID, 2), version=1, data=data, expires_at=0))


def test_repr_shows_no_key_of_the_application() -> None:
    assert "here" not in repr(TROUBLED)
    assert "from to" not in repr(TROUBLED)


def test_one_scan_lists_the_shards_of_a_run_in_their_order() -> None:
    store = MemoryRecords()
    other = TaskId(bytes([1, *range(15)]))
    shards = [replace(SHARD, index=index, version=0) for index in (11, 2, 999, 0)]
    store.commit([put_shard(shard, NOW) for shard in [*shards, replace(SHARD, run_id=other, version=0)]])
    found = [parse_shard(record) for record in store.scan(RecordKind.SHARD, after=RUN_ID.hex(), limit=4)]
    assert [shard.index for shard in found] == [0, 2, 11, 999]
    assert {shard.run_id for shard in found} == {RUN_ID}


def test_keys_of_open_shards_are_in_their_order() -> None:
    assert open_shard_keys(RUN) == [shard_key(RUN_ID, 0), shard_key(RUN_ID, 2)]


def test_sealed_plan_is_kept_in_as_many_records_as_it_needs() -> None:
    envelope = bytes(MAX_RECORD_BYTES) + b"rest"
    run = replace(RUN, plan_bytes=len(envelope))
    parts = put_plan(run, envelope, NOW)
    assert [part.key for part in parts] == plan_keys(run)
    assert b"".join(part.data for part in parts) == envelope
    assert max(len(part.data) for part in parts) <= MAX_RECORD_BYTES
    assert all(len(part.key.id) <= MAX_RECORD_ID and len(part.key.kind) <= 16 for part in parts)


def test_derived_task_ids_differ_in_each_of_their_parts() -> None:
    other = TaskId(bytes(16))
    ids = [
        slice_task_id(RUN_ID, shard=1, seq=2, wake=3),
        slice_task_id(RUN_ID, shard=2, seq=2, wake=3),
        slice_task_id(RUN_ID, shard=1, seq=3, wake=3),
        slice_task_id(RUN_ID, shard=1, seq=2, wake=4),
        slice_task_id(RUN_ID, shard=0, seq=0, wake=0),
        slice_task_id(other, shard=1, seq=2, wake=3),
        finalize_task_id(RUN_ID),
        finalize_task_id(other),
    ]
    assert len(set(ids)) == len(ids)
    assert {len(task_id) for task_id in ids} == {16}


def test_derived_task_ids_never_change() -> None:
    assert slice_task_id(RUN_ID, shard=1, seq=2, wake=3).hex() == "7be1b516c978c506c9c2474a073319e9"
    assert finalize_task_id(RUN_ID).hex() == "3dc99e8848750074a7436ff7202e625c"


def test_digest_of_a_row_depends_on_its_run() -> None:
    assert item_digest(RUN_ID, b"key") != item_digest(TaskId(bytes(16)), b"key")
