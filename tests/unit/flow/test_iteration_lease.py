"""A shard under its lease."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from safedefer.core.iteration.plan import SliceCall
from safedefer.core.iteration.rows import parse_shard, put_run, put_shard, shard_key
from safedefer.core.iteration.slices import Work
from safedefer.core.iteration.state import Shard, ShardState
from safedefer.core.records import Record, RecordKey
from safedefer.errors import LeaseLostError
from safedefer.flow.iteration_lease import HeldShard
from safedefer.testing import ManualClock as ClockOfTests
from safedefer.testing.fakes import MemoryRecords
from safedefer.testing.setup import make_ports
from tests.support.builders import ManualClock
from tests.support.iterations import NOW, RUN, RUN_ID, SHARD

READY = replace(SHARD, version=0)
KEY = shard_key(RUN_ID, SHARD.index)


class CommittedLate:
    """The commit that a worker had no answer to is made behind a read of its shard."""

    def __init__(self) -> None:
        self.inner = MemoryRecords()
        self.scan, self.commit = self.inner.scan, self.inner.commit
        self.late: Shard | None = None

    def get(self, keys: Sequence[RecordKey]) -> Mapping[RecordKey, Record]:
        found = self.inner.get(keys)
        if self.late is not None and KEY in keys:
            late, self.late = self.late, None
            self.commit([put_shard(late, NOW)])
        return found

    def shard(self) -> Shard:
        return parse_shard(self.inner.get([KEY])[KEY])


@pytest.fixture
def records() -> CommittedLate:
    made = CommittedLate()
    made.commit([put_run(replace(RUN, version=0), NOW), put_shard(READY, NOW)])
    return made


@pytest.fixture
def held(records: CommittedLate) -> HeldShard:
    runtime = replace(make_ports(ClockOfTests()).runtime, records=records, clock=ManualClock(NOW))
    call = SliceCall(run_id=RUN_ID, plan_sha256=RUN.plan_sha256, shard=SHARD.index, seq=SHARD.seq, wake=SHARD.wake)
    held = HeldShard(runtime, call, RUN, deadline_seconds=600)
    assert held.claim() == ()
    return held


def test_commit_that_comes_late_is_not_written_over(records: CommittedLate, held: HeldShard) -> None:
    before = held.shard
    records.late = replace(before, cursor=b"behind", processed=7)
    # What was rolled back, as far as the worker knows.
    held.done = Work(cursor=b"behind", processed=7)
    held.let_go(NOW + 10)
    stored = records.shard()
    assert (stored.cursor, stored.processed) == (b"behind", 7)
    assert (stored.state, stored.seq, stored.not_before) == (ShardState.READY, before.seq + 1, NOW + 10)


def test_work_that_was_rolled_back_is_not_kept(records: CommittedLate, held: HeldShard) -> None:
    held.done = Work(cursor=b"behind", processed=7)
    held.let_go(NOW + 10)
    stored = records.shard()
    assert (stored.cursor, stored.processed, stored.state) == (None, 0, ShardState.READY)


def test_shard_that_another_has_claimed_is_left_alone(records: CommittedLate, held: HeldShard) -> None:
    taken = replace(held.shard, fence=held.shard.fence + 1)
    records.commit([put_shard(taken, NOW)])
    with pytest.raises(LeaseLostError):
        held.let_go(NOW + 10)
    assert records.shard().state is ShardState.RUNNING


def test_shard_that_another_claims_meanwhile_is_left_alone(records: CommittedLate, held: HeldShard) -> None:
    records.late = replace(held.shard, fence=held.shard.fence + 1)
    with pytest.raises(LeaseLostError):
        held.let_go(NOW + 10)
    assert records.shard().state is ShardState.RUNNING
