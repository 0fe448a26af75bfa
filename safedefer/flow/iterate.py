"""One task of an iteration: its plan, one slice of a shard, or its end. The rules are in `safedefer.core.iteration`.

What is called, for which rows and with which arguments, comes from the sealed plan, which is verified by every task;
what comes from the store is only how far it is.
"""

import hmac
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from hashlib import sha256
from typing import Final, TypeAlias, final

from safedefer.core.claims import Claims, TaskType
from safedefer.core.codec import Arguments, DecodedArguments
from safedefer.core.control import Drop
from safedefer.core.envelope import parse_envelope
from safedefer.core.function import RegisteredFunction
from safedefer.core.iteration.budget import adapt_batch, make_budget, slowest
from safedefer.core.iteration.decisions import Command, CreateFinalize, CreateSlice, Decision
from safedefer.core.iteration.description import Description
from safedefer.core.iteration.ids import item_digest
from safedefer.core.iteration.items import Item, announce_item, fail_item, judge_item
from safedefer.core.iteration.operations import finish_finalize, start_finalize
from safedefer.core.iteration.plan import (
    Named,
    Plan,
    SliceCall,
    parse_finalize,
    parse_plan,
    parse_slice,
)
from safedefer.core.iteration.planning import plan_run, repeat_plan
from safedefer.core.iteration.rows import open_shard_keys, parse_run, parse_shard, plan_keys, run_key, shard_key
from safedefer.core.iteration.slices import (
    NO_WORK,
    checkpoint,
    claim_shard,
    end_slice,
    finish_shard,
    is_careful,
    is_made,
    is_stopping,
    keep_lease,
    page_size,
)
from safedefer.core.iteration.state import Run, RunState, Shard
from safedefer.core.limits import CHECKPOINT_INTERVAL, CLOCK_SKEW, LEASE_RESERVE
from safedefer.core.names import TaskId
from safedefer.core.parameters import Parameters
from safedefer.core.records import Delete
from safedefer.core.signing import VerifiedBody, verify_body, verify_envelope
from safedefer.errors import (
    ArgumentsRefusedError,
    FunctionFailedError,
    Reason,
    RecordConflictError,
    StoreUnavailableError,
    UnavailableError,
)
from safedefer.flow.calling import call_function, call_verified, within
from safedefer.flow.current import CurrentTask, walking
from safedefer.flow.runtime import Runtime

Commands: TypeAlias = tuple[Command, ...]
Rule: TypeAlias = Callable[[Run, Shard], Decision]

logger: Final = logging.getLogger("safedefer.iteration")
_TRIES: Final = 4
_REMOVED_AT_ONCE: Final = 100
_INTERVAL: Final = CHECKPOINT_INTERVAL.total_seconds()


@final
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Walk:
    """A verified plan, and what it names.

    Attributes:
        body: The body of the plan: the proof that it was verified.
        queryset: What is walked.
    """

    body: VerifiedBody
    plan: Plan
    callback: RegisteredFunction
    finalize: RegisteredFunction
    queryset: object

    @property
    def claims(self) -> Claims:
        """Those of the plan."""
        return self.body.claims


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a task of an iteration has come to.

    Attributes:
        commands: What is to be done now, in this order.
        walk: The plan it belongs to.
        run: Its run.
    """

    commands: Commands
    walk: Walk
    run: Run


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
        FunctionFailedError: The finalize function raised.
    """
    # A queryset may depend on the caller's zone, too: on which day a moment is.
    with within(runtime, body.claims, task):
        match body.claims.type:
            case TaskType.PLAN:
                return _begin(runtime, open_walk(runtime, body), envelope)
            case TaskType.SLICE:
                return _work_on_slice(runtime, parse_slice(body.data), task)
            case _:
                end = parse_finalize(body.data)
                return _finalize(runtime, end.run_id, end.plan_sha256, task)


def open_walk(runtime: Runtime, body: VerifiedBody) -> Walk:
    """Find what a verified plan names.

    Raises:
        RejectedError: A function is unknown here, or the plan cannot be read.
        UnavailableError: A row that the queryset is made from could not be loaded.
    """
    plan = parse_plan(body.data)
    return Walk(
        body=body,
        plan=plan,
        callback=runtime.registry.find(plan.callback.name, plan.callback.version),
        finalize=runtime.registry.find(plan.finalize.name, plan.finalize.version),
        queryset=_open_source(runtime, plan),
    )


def _open_source(runtime: Runtime, plan: Plan) -> object:
    source = plan.source
    if isinstance(source, Description):
        return runtime.querysets.build(source)
    function = _find(runtime, source.function)
    arguments = _decode(runtime, function.parameters, source.arguments)
    return function.function(*arguments.args, **arguments.kwargs)


def _find(runtime: Runtime, named: Named) -> RegisteredFunction:
    return runtime.queryset_functions.find(named.name, named.version)


def _decode(runtime: Runtime, parameters: Parameters, tree: object) -> Arguments:
    decoded = DecodedArguments(parameters, tree, runtime.resolver)
    rows = runtime.resolver.resolve(decoded.references) if decoded.references else {}
    if any(reference not in rows for reference in decoded.references):
        raise ArgumentsRefusedError(Reason.ARGUMENTS_MISMATCH, "a row among the arguments of an iteration is gone")
    return decoded.build(rows)


def find_walk(runtime: Runtime, run: Run) -> Walk:
    """Bring back the plan of a run from the store, and verify it.

    Trust: the records may have been changed; the digest comes from signed claims, the tag from our own key.
    Raises:
        RejectedError: It is not the plan that was sealed for this run.
        StoreUnavailableError: It is not there.
    """
    keys = plan_keys(run)
    records = runtime.records.get(keys)
    if any(key not in records for key in keys):
        raise StoreUnavailableError("the plan of an iteration is not in the store")
    data = b"".join(records[key].data for key in keys)
    if not hmac.compare_digest(sha256(data).digest(), run.plan_sha256):
        raise ArgumentsRefusedError(Reason.BODY_DIGEST, "another plan than the one that was sealed")
    envelope = verify_envelope(parse_envelope(data), runtime.ring, runtime.deployment)
    claims = envelope.claims
    runtime.policy.check_audience(claims, claims.audience.queue)
    if claims.type is not TaskType.PLAN or claims.task_id != run.id:
        raise ArgumentsRefusedError(Reason.BODY_DIGEST, "the plan of another iteration")
    return open_walk(runtime, verify_body(envelope))


def read_run(runtime: Runtime, run_id: TaskId) -> Run | None:
    """The run as it is now; None where it is gone.

    Raises:
        StoreUnavailableError: The store did not answer.
    """
    key = run_key(run_id)
    record = runtime.records.get([key]).get(key)
    return None if record is None else parse_run(record)


def _begin(runtime: Runtime, walk: Walk, envelope: bytes) -> Outcome:
    run_id = walk.claims.task_id
    run = read_run(runtime, run_id)
    if run is None:
        try:
            return _insert(runtime, walk, envelope)
        except (RecordConflictError, StoreUnavailableError):
            # Another delivery was first, or this one without an answer.
            run = read_run(runtime, run_id)
    if run is None:
        raise StoreUnavailableError("an iteration could not be begun")
    shards = runtime.records.get(open_shard_keys(run))
    return Outcome(commands=repeat_plan(run, map(parse_shard, shards.values())).commands, walk=walk, run=run)


def _insert(runtime: Runtime, walk: Walk, envelope: bytes) -> Outcome:
    plan = walk.plan
    ranges = plan.key_ranges
    if ranges is None:
        ranges = tuple(runtime.querysets.cut(walk.queryset, plan.order_field, plan.shards, None))
    decision = plan_run(
        walk.claims.task_id,
        envelope,
        ranges,
        estimated_total=runtime.querysets.estimate(walk.queryset),
        now=runtime.clock.time(),
    )
    runtime.records.commit(decision.changes)
    run = read_run(runtime, walk.claims.task_id)
    if run is None:
        raise StoreUnavailableError("an iteration is not there although it has just been begun")
    return Outcome(commands=decision.commands, walk=walk, run=run)


def _finalize(runtime: Runtime, run_id: TaskId, digest: bytes, task: CurrentTask) -> Outcome | None:
    run = read_run(runtime, run_id)
    if run is None:
        return None
    _check_plan(run, digest)
    walk = find_walk(runtime, run)
    started = start_finalize(run)
    if started.commands:
        return Outcome(commands=started.commands, walk=walk, run=run)
    arguments = _decode(runtime, walk.finalize.parameters, walk.plan.arguments)
    call_function(runtime, walk.finalize, walk.body, arguments, task)
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


def _check_plan(run: Run, digest: bytes) -> None:
    """Refuse a run whose record names another plan than the signed claims of its task."""
    if not hmac.compare_digest(run.plan_sha256, digest):
        raise ArgumentsRefusedError(Reason.BODY_DIGEST, "another plan than the one that was sealed")


def _work_on_slice(runtime: Runtime, call: SliceCall, task: CurrentTask) -> Outcome | None:
    run = read_run(runtime, call.run_id)
    if run is None:
        return None
    _check_plan(run, call.plan_sha256)
    return _Slice(runtime, call, task, run).work()


@final
class _Slice:
    """One slice: the rows of its shard for as long as the budget allows."""

    def __init__(self, runtime: Runtime, call: SliceCall, task: CurrentTask, run: Run) -> None:
        self._runtime = runtime
        self._call = call
        self._task = task
        self._run = run
        self._walk = find_walk(runtime, run)
        self._shard = Shard(run_id=run.id, index=call.shard, key_range=b"", heartbeat=0, batch_size=1)
        self._arguments = _decode(runtime, self._walk.callback.parameters.without_first(), self._walk.plan.arguments)
        self._done = NO_WORK
        self._rows = 0
        self._started = self._saved = runtime.clock.time()
        self._budget = make_budget(timedelta(seconds=self._walk.claims.deadline_seconds))

    def work(self) -> Outcome:
        """Claim the shard and walk it; what is to be done then."""
        commands = self._claim()
        token = walking.set(self._call.shard)
        try:
            while not commands:
                commands = self._page()
        finally:
            walking.reset(token)
        return Outcome(commands=commands, walk=self._walk, run=self._run)

    @property
    def _now(self) -> float:
        return self._runtime.clock.time()

    def _read(self) -> Shard | None:
        keys = [run_key(self._run.id), shard_key(self._run.id, self._call.shard)]
        found = self._runtime.records.get(keys)
        if keys[0] not in found:
            raise StoreUnavailableError("the record of an iteration was removed while it ran")
        self._run = parse_run(found[keys[0]])
        _check_plan(self._run, self._call.plan_sha256)
        return parse_shard(found[keys[1]]) if keys[1] in found else None

    def _claim(self) -> Commands:
        reserve = int((LEASE_RESERVE + CLOCK_SKEW).total_seconds())
        for _ in range(_TRIES):
            decision = claim_shard(
                self._run,
                self._read(),
                index=self._call.shard,
                seq=self._call.seq,
                now=self._now,
                lease_seconds=self._walk.claims.deadline_seconds + reserve,
            )
            if decision.commands:
                return decision.commands
            try:
                self._runtime.records.commit(decision.changes)
            except RecordConflictError:
                continue
            if decision.shard is not None:
                self._shard = decision.shard
            return ()
        raise StoreUnavailableError("others were always first to claim a shard")

    def _page(self) -> Commands:
        """One page of rows; no commands means that there is another."""
        if not self._has_time():
            return self._end()
        size, begun = page_size(self._shard), self._now
        page = self._runtime.querysets.read_page(
            self._walk.queryset, self._walk.plan.order_field, self._shard.key_range, self._shard.cursor, size
        )
        for row, cursor in page.rows:
            if not self._has_time():
                return self._end()
            if commands := self._item(row, cursor):
                return commands
            if self._now - self._saved >= _INTERVAL and (commands := self._save()):
                return commands
        if page.ends:
            return self._write(lambda run, shard: finish_shard(run, shard, self._done, now=self._now))
        if not is_careful(self._shard):
            batch = adapt_batch(self._shard.batch_size, rows=len(page.rows), seconds=self._now - begun)
            self._done = replace(self._done, batch_size=batch)
        return self._save()

    def _item(self, row: object, cursor: bytes) -> Commands:
        """One row; no commands means that the slice goes on."""
        item = Item(digest=item_digest(self._run.id, cursor), cursor=cursor)
        policy = self._walk.plan.policy
        if judge_item(self._run, self._shard, self._done, item, policy, now=self._now) is not None:

            def give_up(run: Run, shard: Shard) -> Decision:
                return _given_up(judge_item(run, shard, self._done, item, policy, now=self._now))

            return self._write(give_up)
        if is_careful(self._shard):
            self._write(lambda _, shard: announce_item(shard, self._done, item.digest, now=self._now))
        begun = self._now
        try:
            self._call_for(row)
        except FunctionFailedError as failure:
            if not isinstance(failure.__cause__, Drop):
                return self._write(lambda run, shard: fail_item(run, shard, self._done, item, policy, now=self._now))
        self._rows += 1
        pace = slowest(max(self._shard.slowest_ms, self._done.slowest_ms), self._now - begun)
        self._done = replace(self._done, cursor=cursor, processed=self._done.processed + 1, slowest_ms=pace)
        return ()

    def _call_for(self, row: object) -> None:
        arguments = Arguments((row, *self._arguments.args), self._arguments.kwargs)
        call_verified(self._runtime, self._walk.callback, self._walk.body, arguments)

    def _has_time(self) -> bool:
        pace = max(self._shard.slowest_ms, self._done.slowest_ms)
        return self._budget.has_time(elapsed_seconds=self._now - self._started, slowest_ms=pace, rows=self._rows)

    def _save(self) -> Commands:
        """A checkpoint; the slice ends where its run is stopping."""
        if self._done.cursor is not None:
            self._write(lambda _, shard: checkpoint(shard, self._done, now=self._now))
        self._read()
        return self._end() if is_stopping(self._run) else ()

    def _end(self) -> Commands:
        return self._write(lambda _, shard: end_slice(shard, self._done, now=self._now))

    def _write(self, rule: Rule) -> Commands:
        """Write under the lease, on top of whatever was written beside it."""
        for _ in range(_TRIES):
            decision = rule(self._run, self._shard)
            try:
                self._runtime.records.commit(decision.changes)
            except (RecordConflictError, StoreUnavailableError):
                stored = self._read()
                if not is_made(decision, stored):
                    self._shard = keep_lease(self._shard, stored)
                    continue
                self._shard = stored or self._shard
            else:
                self._shard = decision.shard or self._shard
                self._run = decision.run or self._run
            self._saved, self._done = self._now, NO_WORK
            return decision.commands
        raise StoreUnavailableError("others were always first to change a shard")


def _given_up(decision: Decision | None) -> Decision:
    if decision is None:
        raise StoreUnavailableError("a row was judged anew while it was being left behind")
    return decision


def function_of(walk: Walk, command: CreateSlice | CreateFinalize) -> RegisteredFunction:
    """What the task that a command asks for is going to call."""
    return walk.callback if isinstance(command, CreateSlice) else walk.finalize


def forget_run(runtime: Runtime, ended: Outcome) -> None:
    """Remove the records of an iteration whose finalize has been acknowledged, unless they are to be kept.

    What cannot be removed now expires.
    """
    if ended.walk.plan.keeps:
        return
    run = read_run(runtime, ended.run.id)
    if run is None or run.state is not RunState.DONE:
        return
    keys = [*(shard_key(run.id, index) for index in range(run.shards)), *plan_keys(run), run_key(run.id)]
    try:
        for start in range(0, len(keys), _REMOVED_AT_ONCE):
            found = runtime.records.get(keys[start : start + _REMOVED_AT_ONCE])
            runtime.records.commit([Delete(key=key, expected=record.version) for key, record in found.items()])
    except UnavailableError as error:
        logger.warning("the records of iteration %s could not be removed; they expire: %s", run.id.hex(), error)
