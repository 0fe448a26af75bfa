"""One slice of a shard: the rows of its key range, for as long as its time allows. The rules are in the core."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Final, TypeAlias, final

from safedefer.core.codec import Arguments
from safedefer.core.control import Drop
from safedefer.core.iteration.budget import adapt_batch, make_budget, slowest
from safedefer.core.iteration.decisions import Decision
from safedefer.core.iteration.ids import item_digest
from safedefer.core.iteration.items import Item, announce_item, fail_item, judge_item
from safedefer.core.iteration.plan import SliceCall
from safedefer.core.iteration.rows import parse_run, parse_shard, run_key, shard_key
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
from safedefer.core.iteration.state import Run, Shard
from safedefer.core.limits import CHECKPOINT_INTERVAL, CLOCK_SKEW, LEASE_RESERVE
from safedefer.errors import FunctionFailedError, RecordConflictError, StoreUnavailableError
from safedefer.flow.calling import call_verified
from safedefer.flow.current import walking
from safedefer.flow.iteration_walk import Commands, Outcome, check_plan, decode_tree, find_walk
from safedefer.flow.runtime import Runtime

Rule: TypeAlias = Callable[[Run, Shard], Decision]

_TRIES: Final = 4
_INTERVAL: Final = CHECKPOINT_INTERVAL.total_seconds()


@final
class Slice:
    """One slice: the rows of its shard for as long as the budget allows."""

    def __init__(self, runtime: Runtime, call: SliceCall, run: Run) -> None:
        self._runtime = runtime
        self._call = call
        self._run = run
        self._walk = find_walk(runtime, run)
        self._shard = Shard(run_id=run.id, index=call.shard, key_range=b"", heartbeat=0, batch_size=1)
        self._arguments = decode_tree(
            runtime, self._walk.callback.parameters.without_first(), self._walk.plan.arguments
        )
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
        check_plan(self._run, self._call.plan_sha256)
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
