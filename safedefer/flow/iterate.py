"""One task of an iteration: its plan, one slice of a shard, or its end. The rules are in `safedefer.core.iteration`.

What is called, for which rows and with which arguments, comes from the sealed plan, which is verified by every task;
what comes from the store is only how far it is.
"""

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from safedefer.core.claims import Claims, TaskType
from safedefer.core.control import Drop
from safedefer.core.iteration.operations import finish_finalize, start_finalize
from safedefer.core.iteration.plan import SliceCall, parse_finalize, parse_slice
from safedefer.core.iteration.planning import plan_run, repeat_plan
from safedefer.core.iteration.rows import open_shard_keys, parse_shard, plan_keys, run_key, shard_key
from safedefer.core.iteration.slices import leave_shard
from safedefer.core.iteration.state import ENDED, Run, RunState
from safedefer.core.names import TaskId
from safedefer.core.records import Delete
from safedefer.core.signing import VerifiedBody
from safedefer.errors import (
    FunctionFailedError,
    InvalidKeyRangesError,
    RecordConflictError,
    StoreUnavailableError,
    UnavailableError,
)
from safedefer.flow.calling import call_function, within
from safedefer.flow.current import CurrentTask
from safedefer.flow.iteration_slice import Slice
from safedefer.flow.iteration_walk import (
    Outcome,
    Walk,
    check_plan,
    decode_tree,
    end_of_plan,
    find_walk,
    open_queryset,
    open_walk,
    read_run,
)
from safedefer.flow.runtime import Runtime

logger: Final = logging.getLogger("safedefer.iteration")
_TRIES: Final = 4
_REMOVED_AT_ONCE: Final = 100


def work_on(runtime: Runtime, body: VerifiedBody, envelope: bytes, task: CurrentTask) -> Outcome | None:
    """Do what one task of an iteration asks for.

    Args:
        body: Its verified body.
        envelope: The whole request, which the run keeps where it is a plan.
        task: What its callbacks may know of it.
    Returns:
        What is to be done then; None where the iteration is gone, so that there is nothing left to do.
    Raises:
        RejectedError: The plan is not the one that was sealed, or cannot be read.
        UnavailableError: The store or the database did not answer, or a lease is lost.
        FunctionFailedError: The finalize function raised, or the queryset cannot be cut any more.
    """
    # A queryset may depend on the caller's zone, too: on which day a moment is.
    with within(runtime, body.claims, task):
        match body.claims.type:
            case TaskType.PLAN:
                return _begin(runtime, open_walk(runtime, body), envelope)
            case TaskType.SLICE:
                return _work_on_slice(runtime, parse_slice(body.data))
            case _:
                end = parse_finalize(body.data)
                return _finalize(runtime, end.run_id, end.plan_sha256, task)


def _begin(runtime: Runtime, walk: Walk, envelope: bytes) -> Outcome | None:
    run_id = walk.claims.task_id
    run = read_run(runtime, run_id)
    if run is None:
        # On a conflict another delivery was first; without an answer it may have been this one.
        with suppress(RecordConflictError, StoreUnavailableError):
            _insert(runtime, walk, envelope)
        run = read_run(runtime, run_id)
    if run is None:
        raise StoreUnavailableError("an iteration could not be begun")
    if run.state not in ENDED and _was_finalized(runtime, walk.claims):
        _remove(runtime, run)
        return None
    shards = runtime.records.get(open_shard_keys(run))
    return Outcome(commands=repeat_plan(run, map(parse_shard, shards.values())).commands, walk=walk, run=run)


def _insert(runtime: Runtime, walk: Walk, envelope: bytes) -> None:
    plan, queryset = walk.plan, open_queryset(runtime, walk)
    decision = plan_run(
        walk.claims.task_id,
        envelope,
        _cut(runtime, walk, queryset) if plan.key_ranges is None else plan.key_ranges,
        estimated_total=runtime.querysets.estimate(queryset),
        now=runtime.clock.time(),
    )
    runtime.records.commit(decision.changes)


def _cut(runtime: Runtime, walk: Walk, queryset: object) -> Sequence[bytes]:
    try:
        return runtime.querysets.cut(queryset, walk.plan.order_field, walk.plan.shards, None)
    except InvalidKeyRangesError as error:
        # The rows or the code are no longer what they were at the call: the application's failure, which can be mended.
        logger.warning("iteration %s cannot be planned: %s", walk.claims.task_id.hex(), error)
        raise FunctionFailedError(f"iteration {walk.claims.task_id.hex()} cannot be planned") from error


def _was_finalized(runtime: Runtime, plan: Claims) -> bool:
    """Whether a plan has come again behind the end: its worker died once the slices were there, which did the rest.

    The run may have been removed since, and this one be another. So it is asked once a run is there: whatever removed a
    former one came before. The ledger keeps the finalize task for longer than the plan's may come.
    """
    end = end_of_plan(runtime, plan)
    return end is not None and not end.dead


def _finalize(runtime: Runtime, run_id: TaskId, digest: bytes, task: CurrentTask) -> Outcome | None:
    run = read_run(runtime, run_id)
    if run is None:
        return None
    check_plan(run, digest)
    walk = find_walk(runtime, run)
    started = start_finalize(run)
    if started.commands:
        return Outcome(commands=started.commands, walk=walk, run=run)
    arguments = decode_tree(runtime, walk.finalize.parameters, walk.plan.arguments)
    try:
        call_function(runtime, walk.finalize, walk.body, arguments, task)
    except FunctionFailedError as failure:
        if not isinstance(failure.__cause__, Drop):
            raise
    for _ in range(_TRIES):
        run = read_run(runtime, run_id)
        if run is None:
            return None
        decision = finish_finalize(run, now=runtime.clock.time())
        try:
            runtime.records.commit(decision.changes)
        except (RecordConflictError, StoreUnavailableError):
            continue
        return Outcome(commands=decision.commands, walk=walk, run=run)
    raise StoreUnavailableError("others were always first to change an iteration")


def _work_on_slice(runtime: Runtime, call: SliceCall) -> Outcome | None:
    run = read_run(runtime, call.run_id)
    if run is None:
        return None
    check_plan(run, call.plan_sha256)
    if over := leave_shard(run, call.shard):
        # Before anything is opened that a slice needs, and that may be what an iteration was cancelled for.
        return Outcome(commands=over.commands, walk=find_walk(runtime, run), run=run)
    return Slice(runtime, call, run).work()


def forget_run(runtime: Runtime, ended: Outcome) -> None:
    """Remove the records of an iteration whose finalize has been acknowledged, unless they are to be kept.

    What cannot be removed now expires.
    """
    if ended.walk.plan.keeps:
        return
    run = read_run(runtime, ended.run.id)
    if run is None or run.state is not RunState.DONE:
        return
    try:
        _remove(runtime, run)
    except UnavailableError as error:
        logger.warning("the records of iteration %s could not be removed; they expire: %s", run.id.hex(), error)


def _remove(runtime: Runtime, run: Run) -> None:
    # The run first: a task that comes late is at its end when that is gone, and would wait in vain for the others.
    keys = [run_key(run.id), *plan_keys(run), *(shard_key(run.id, index) for index in range(run.shards))]
    for start in range(0, len(keys), _REMOVED_AT_ONCE):
        found = runtime.records.get(keys[start : start + _REMOVED_AT_ONCE])
        runtime.records.commit([Delete(key=key, expected=record.version) for key, record in found.items()])
