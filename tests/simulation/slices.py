"""What a worker does with one slice: rows alone or by the page, with their writes in its checkpoints or not."""

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Final, TypeAlias

from safedefer.core.iteration.budget import adapt_batch, make_budget, slowest
from safedefer.core.iteration.decisions import Command, Decision
from safedefer.core.iteration.ids import item_digest
from safedefer.core.iteration.items import Item, announce_item, fail_item, fail_page, judge_item, postpone_item
from safedefer.core.iteration.rows import parse_run, parse_shard, run_key, shard_key
from safedefer.core.iteration.slices import (
    NO_WORK,
    Work,
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
from safedefer.core.limits import CHECKPOINT_INTERVAL, MIN_CHECKPOINT_INTERVAL, MIN_ITEM_BACKOFF
from safedefer.errors import (
    CommitRefusedError,
    LeaseLostError,
    RecordConflictError,
    StoreUnavailableError,
    UnavailableError,
)
from tests.simulation.world import LATENCY, ItemFailedError, Transaction

if TYPE_CHECKING:
    from tests.simulation.driver import Driver

TRIES: Final = 4
_INTERVAL: Final = CHECKPOINT_INTERVAL.total_seconds()
_SHORTEST_INTERVAL: Final = MIN_CHECKPOINT_INTERVAL.total_seconds()
_BACKOFF: Final = MIN_ITEM_BACKOFF.total_seconds()

Commands: TypeAlias = tuple[Command, ...]
Going: TypeAlias = Generator[float, None, Commands]
Rule: TypeAlias = Callable[[Run, Shard], Decision]


class Slice:
    """One slice: the rows of its shard as long as the budget allows. As `flow.iteration_slice` has it."""

    def __init__(self, driver: "Driver") -> None:
        self.driver = driver
        self.world = driver.world
        self.task = driver.task
        self.run: Run
        self.shard: Shard
        self.work_done = NO_WORK
        self.transaction: Transaction | None = None
        self.follows_crash = False
        self.rows = 0
        self.started = self.saved = driver.now
        self.budget = make_budget(timedelta(seconds=self.world.deadline))

    def work(self) -> Going:
        commands = yield from self.claim()
        try:
            while not commands:
                commands = yield from self.page()
        except LeaseLostError:
            raise
        except UnavailableError:
            yield from self.let_go()
            raise
        return commands

    def let_go(self) -> Generator[float, None, None]:
        """Release the shard: what has come up is none of its rows'."""
        not_before = int(self.driver.now + _BACKOFF)
        with suppress(UnavailableError):
            if not self.world.atomic:
                yield from self.end(not_before)
                return
            for _ in range(TRIES):
                # A commit without an answer may come late: then it is not written over, for its writes are there.
                yield from self.reload()
                with suppress(StoreUnavailableError):
                    yield from self.end(not_before, tries=1)
                    return

    def read(self) -> Generator[float, None, Shard | None]:
        yield LATENCY
        keys = [run_key(self.world.run_id), shard_key(self.world.run_id, self.task.shard)]
        found = self.world.get(keys, self.transaction)
        self.run = parse_run(found[keys[0]])
        return parse_shard(found[keys[1]]) if keys[1] in found else None

    def reload(self) -> Generator[float, None, None]:
        """Take the shard as it is stored: a transaction was rolled back, or may have been."""
        stored = yield from self.read()
        self.keep_lease(stored)
        assert stored is not None
        self.shard, self.work_done = stored, NO_WORK

    def claim(self) -> Going:
        for _ in range(TRIES):
            stored = yield from self.read()
            decision = self.decide_claim(stored)
            if decision.commands:
                return decision.commands
            yield LATENCY
            try:
                self.world.commit(decision.changes)
            except RecordConflictError:
                continue
            assert decision.shard is not None
            self.shard = decision.shard
            self.follows_crash = self.shard.crashes > 0
            return ()
        raise StoreUnavailableError("others were always first")

    def decide_claim(self, stored: Shard | None) -> Decision:
        return claim_shard(
            self.run,
            stored,
            index=self.task.shard,
            seq=self.task.seq,
            now=self.driver.now,
            lease_seconds=self.driver.lease_seconds,
        )

    # Rows.

    def page(self) -> Going:
        """One page of rows; no commands means that there is another."""
        if not self.has_time():
            return (yield from self.end())
        if self.is_careful():
            return (yield from self.go_carefully())
        size = self.work_done.batch_size or page_size(self.shard)
        begun, rows = self.driver.now, (yield from self.read_page(size))
        commands = yield from (self.go_together(rows) if self.world.batch else self.go_through(rows))
        if commands:
            return commands
        if len(rows) < size:
            return (yield from self.write(self.decide_finish))
        batch = adapt_batch(size, rows=len(rows), seconds=self.driver.now - begun)
        self.work_done = self.updated(batch_size=batch)
        if self.follows_crash or self.driver.now - self.saved >= _SHORTEST_INTERVAL:
            return (yield from self.save())
        return ()

    def read_page(self, size: int) -> Generator[float, None, list[int]]:
        yield LATENCY
        return self.world.page(self.shard.key_range, self.work_done.cursor or self.shard.cursor, size)

    def go_through(self, rows: Sequence[int]) -> Going:
        """The rows of a page, each in a call of its own."""
        left = list(rows)
        while left:
            if not self.has_time():
                return (yield from self.end())
            given = rows[len(rows) - len(left) :]
            commands = yield from self.together(self.go_on(left), partial(self.fail_first, given, left))
            if commands:
                return commands
            if self.is_due() and (commands := (yield from self.save())):
                return commands
        return ()

    def go_on(self, left: list[int]) -> Going:
        """One row, or in a transaction as many as a checkpoint has."""
        while left:
            commands = yield from self.item(left.pop(0))
            if commands or self.transaction is None or self.is_due() or not self.has_time():
                return commands
        return ()

    def item(self, row: int) -> Going:
        """One row in a call of its own; no commands means that the slice goes on."""
        return (yield from self.call_at_once([row]))

    def go_together(self, rows: Sequence[int]) -> Going:
        """All rows of a page in one call."""
        if not rows:
            return ()
        if not self.has_time():
            return (yield from self.end())
        return (yield from self.together(self.call_at_once(rows), lambda: self.fail_page(rows)))

    def go_carefully(self) -> Going:
        """One row, named before its call."""
        rows = yield from self.read_page(1)
        if not rows:
            return (yield from self.write(self.decide_finish))
        item = self.item_of(rows[0])
        if self.judge(self.run, self.shard, item) is not None:

            def judge(run: Run, shard: Shard) -> Decision:
                decision = self.judge(run, shard, item)
                if decision is None:
                    raise StoreUnavailableError("judged anew")
                return decision

            return (yield from self.write(judge)) or (yield from self.save())
        yield from self.write(lambda _, shard: announce_item(shard, self.work_done, item.digest, now=self.driver.now))
        call = self.call_at_once(rows)
        return (yield from self.together(call, lambda: self.fail(rows[0]))) or (yield from self.save())

    def together(self, go: Going, refused: Callable[[], Going]) -> Going:
        """Make some calls and, where the plan says so, keep what they have finished in one transaction with them."""
        if not self.world.atomic:
            return (yield from go)
        self.transaction = Transaction()
        try:
            commands = yield from go
            yield from self.keep()
            yield LATENCY
            self.world.commit_together(self.transaction)
        except CommitRefusedError:
            self.transaction = None
            yield from self.reload()
            return (yield from refused())
        finally:
            self.transaction = None
        return commands

    def call_at_once(self, rows: Sequence[int]) -> Going:
        """One call for some rows."""
        begun = self.driver.now
        failure = yield from self.call(rows)
        if failure is not None and len(rows) == 1:
            return (yield from self.fail(rows[0], failure.later))
        if failure is not None:
            return (yield from self.fail_page(rows) if failure.later is None else self.end(self.at(failure.later)))
        self.rows += len(rows)
        pace = slowest(max(self.shard.slowest_ms, self.work_done.slowest_ms), self.driver.now - begun)
        self.work_done = Work(
            cursor=rows[-1].to_bytes(4), processed=self.work_done.processed + len(rows), slowest_ms=pace
        )
        return ()

    def call(self, rows: Sequence[int]) -> Generator[float, None, ItemFailedError | None]:
        """What the application's callback has raised."""
        kept = 0 if self.transaction is None else len(self.transaction.effects)
        for number, row in enumerate(rows):
            yield self.world.item_seconds()
            try:
                self.world.call(self.driver.process, row, self.transaction)
            except ItemFailedError as failure:
                # In a transaction a call has a savepoint; else what it did before it failed is done again.
                if self.transaction is None:
                    self.world.excused.update(rows[:number])
                    del self.driver.process.unsaved[len(self.driver.process.unsaved) - number :]
                else:
                    self.roll_back(self.transaction, kept)
                return failure
        return None

    def at(self, later: float) -> int:
        return ceil(self.driver.now + later)

    def roll_back(self, transaction: Transaction, kept: int) -> None:
        del transaction.effects[kept:]

    def fail(self, row: int, later: float | None = None) -> Going:
        """A row has failed alone, or has asked to be called for later."""
        item, policy = self.item_of(row), self.world.policy
        self.world.failed_alone[row] += 1
        if later is not None:
            moment = self.at(later)
            return (
                yield from self.write(
                    lambda run, shard: postpone_item(
                        run, shard, self.work_done, item, policy, not_before=moment, now=self.driver.now
                    )
                )
            )
        return (
            yield from self.write(
                lambda run, shard: fail_item(run, shard, self.work_done, item, policy, now=self.driver.now)
            )
        )

    def fail_page(self, rows: Sequence[int]) -> Going:
        """Several rows have failed together."""
        return (yield from self.write(lambda _, shard: self.decide_fail_page(shard, rows)))

    def fail_first(self, given: Sequence[int], left: Sequence[int]) -> Going:
        """Those of the given rows have failed together that are not left."""
        return self.fail_page(given[: len(given) - len(left)])

    def decide_fail_page(self, shard: Shard, rows: Sequence[int]) -> Decision:
        return fail_page(shard, self.work_done, rows=len(rows), now=self.driver.now)

    def judge(self, run: Run, shard: Shard, item: Item) -> Decision | None:
        return judge_item(run, shard, self.work_done, item, self.world.policy, now=self.driver.now)

    def item_of(self, row: int) -> Item:
        cursor = row.to_bytes(4)
        return Item(digest=item_digest(self.world.run_id, cursor), cursor=cursor)

    def has_time(self) -> bool:
        pace = max(self.shard.slowest_ms, self.work_done.slowest_ms)
        return self.budget.has_time(elapsed_seconds=self.driver.now - self.started, slowest_ms=pace, rows=self.rows)

    def is_due(self) -> bool:
        return self.driver.now - self.saved >= _INTERVAL

    def updated(self, *, batch_size: int) -> Work:
        work = self.work_done
        return Work(cursor=work.cursor, processed=work.processed, slowest_ms=work.slowest_ms, batch_size=batch_size)

    # Writes under the lease.

    def keep(self) -> Generator[float, None, None]:
        if self.work_done.cursor is not None:
            yield from self.write(lambda _, shard: checkpoint(shard, self.work_done, now=self.driver.now))

    def save(self) -> Going:
        """A checkpoint; the slice ends where its run is stopping."""
        yield from self.keep()
        yield from self.read()
        return (yield from self.end()) if is_stopping(self.run) else ()

    def end(self, not_before: int = 0, tries: int = TRIES) -> Going:
        def rule(_: Run, shard: Shard) -> Decision:
            return end_slice(shard, self.work_done, now=self.driver.now, not_before=not_before)

        return (yield from self.write(rule, tries))

    def decide_finish(self, run: Run, shard: Shard) -> Decision:
        return finish_shard(run, shard, self.work_done, now=self.driver.now)

    def write(self, rule: Rule, tries: int = TRIES) -> Going:
        """Write under the lease, on top of whatever was written beside it."""
        for _ in range(tries):
            decision = rule(self.run, self.shard)
            assert decision.shard is not None
            yield LATENCY
            try:
                self.commit(decision)
            except (RecordConflictError, StoreUnavailableError):
                stored = yield from self.read()
                if not self.is_made(decision, stored):
                    self.shard = self.keep_lease(stored)
                    continue
                assert stored is not None
                self.shard = stored
            else:
                self.shard = decision.shard
                self.run = decision.run or self.run
            self.saved = self.driver.now
            self.work_done = NO_WORK
            self.driver.process.unsaved.clear()
            return decision.commands
        raise StoreUnavailableError("others were always first")

    def commit(self, decision: Decision) -> None:
        if self.transaction is None:
            self.world.commit(decision.changes)
        else:
            self.world.write(self.transaction, decision.changes)

    def is_careful(self) -> bool:
        return is_careful(self.shard)

    def is_made(self, decision: Decision, stored: Shard | None) -> bool:
        return is_made(decision, stored)

    def keep_lease(self, stored: Shard | None) -> Shard:
        return keep_lease(self.shard, stored)
