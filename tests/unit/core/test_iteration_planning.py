"""How an iteration begins."""

from dataclasses import replace

import pytest

from safedefer.core.iteration.decisions import ACKNOWLEDGE, CreateFinalize, CreateSlice
from safedefer.core.iteration.planning import plan_run, repeat_plan
from safedefer.core.iteration.rows import parse_run, parse_shard, run_key
from safedefer.core.iteration.state import RunState, ShardState
from safedefer.core.records import Put, RecordKind
from safedefer.errors import InvalidKeyRangesError, RecordConflictError
from safedefer.testing.fakes import MemoryRecords
from tests.support.iterations import NOW, PLAN, RUN, RUN_ID, SHARD, record_of


def test_plan_inserts_run_plan_and_shards_in_one_commit() -> None:
    decision = plan_run(RUN_ID, PLAN, [b"a", b"b"], estimated_total=10, now=NOW + 0.5)
    assert [change.key.kind for change in decision.changes] == [
        RecordKind.RUN,
        RecordKind.PLAN,
        RecordKind.SHARD,
        RecordKind.SHARD,
    ]
    assert {change.expected for change in decision.changes} == {None}
    run = parse_run(record_of(decision.changes[0]))
    assert (run.id, run.state, run.open, run.created_at) == (RUN_ID, RunState.RUNNING, frozenset({0, 1}), NOW)
    assert run.plan_sha256 == RUN.plan_sha256
    shards = [parse_shard(record_of(change)) for change in decision.changes[2:]]
    assert [(shard.index, shard.key_range, shard.cursor) for shard in shards] == [(0, b"a", None), (1, b"b", None)]
    assert decision.commands == (
        CreateSlice(shard=0, seq=0, wake=0),
        CreateSlice(shard=1, seq=0, wake=0),
        ACKNOWLEDGE,
    )


def test_plan_of_nothing_goes_straight_to_finalize() -> None:
    decision = plan_run(RUN_ID, PLAN, [], estimated_total=0, now=NOW)
    assert parse_run(record_of(decision.changes[0])).state is RunState.FINALIZING
    assert decision.commands == (CreateFinalize(), ACKNOWLEDGE)


def test_second_plan_changes_nothing() -> None:
    store = MemoryRecords()
    store.commit(plan_run(RUN_ID, PLAN, [b"a"], estimated_total=1, now=NOW).changes)
    with pytest.raises(RecordConflictError):
        store.commit(plan_run(RUN_ID, PLAN, [b"b", b"c"], estimated_total=1, now=NOW).changes)
    assert len(store.scan(RecordKind.SHARD, limit=9)) == 1
    assert parse_run(store.get([run_key(RUN_ID)])[run_key(RUN_ID)]).open == {0}


def test_plan_that_is_delivered_again_creates_only_what_the_rows_ask_for() -> None:
    shards = [
        replace(SHARD, index=0, state=ShardState.RUNNING),
        replace(SHARD, index=1, state=ShardState.DONE),
        replace(SHARD, not_before=NOW + 30),
    ]
    decision = repeat_plan(RUN, shards)
    assert decision.changes == ()
    assert decision.commands == (CreateSlice(shard=2, seq=5, wake=1, at=NOW + 30), ACKNOWLEDGE)


@pytest.mark.parametrize("state", [RunState.PAUSED, RunState.HALTED, RunState.CANCELLED, RunState.DONE])
def test_plan_of_a_run_that_stands_still_creates_nothing(state: RunState) -> None:
    assert repeat_plan(replace(RUN, state=state), [SHARD]).commands == (ACKNOWLEDGE,)


def test_plan_of_a_run_that_finalizes_creates_that_task() -> None:
    assert repeat_plan(replace(RUN, state=RunState.FINALIZING), []).commands == (CreateFinalize(), ACKNOWLEDGE)


@pytest.mark.parametrize("ranges", [[b"x"] * 1_001, [bytes(16_385)], [bytes(16_000)] * 600])
def test_plan_refuses_more_than_one_commit_holds(ranges: list[bytes]) -> None:
    with pytest.raises(InvalidKeyRangesError):
        plan_run(RUN_ID, PLAN, ranges, estimated_total=None, now=NOW)


def test_most_shards_fit_into_one_commit() -> None:
    decision = plan_run(RUN_ID, PLAN, [bytes(100)] * 1_000, estimated_total=None, now=NOW)
    assert sum(len(change.data) for change in decision.changes if isinstance(change, Put)) < 1_000_000
