"""What a worker does with the rules: the journey of one delivery, each action after a `yield`."""

from collections.abc import Callable, Generator
from contextlib import suppress
from datetime import timedelta
from typing import TypeAlias, assert_never

from safedefer.core.iteration.budget import adapt_batch, make_budget, slowest
from safedefer.core.iteration.decisions import (
    Acknowledge,
    Command,
    CreateFinalize,
    CreateSlice,
    Decision,
    Reissue,
    Stop,
)
from safedefer.core.iteration.ids import item_digest
from safedefer.core.iteration.items import Item, announce_item, fail_item, judge_item
from safedefer.core.iteration.operations import (
    cancel_run,
    finish_finalize,
    pause_run,
    resume_run,
    start_finalize,
    sweep_run,
    sweep_shard,
    wake_shard,
)
from safedefer.core.iteration.planning import plan_run, repeat_plan
from safedefer.core.iteration.rows import open_shard_keys, parse_run, parse_shard, run_key, shard_key
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
from safedefer.core.iteration.state import Run, RunState, Shard
from safedefer.core.ledger import (
    Busy,
    Claimed,
    Finished,
    LedgerEntry,
    claim_entry,
    dump_entry,
    finish_entry,
    parse_entry,
    release_entry,
)
from safedefer.core.limits import CHECKPOINT_INTERVAL
from safedefer.core.records import Put, RecordKey, RecordKind
from safedefer.errors import (
    IterationError,
    LeaseLostError,
    QueueUnavailableError,
    RecordConflictError,
    StoreUnavailableError,
    UnavailableError,
)
from tests.simulation.world import LATENCY, SKEW, ItemFailedError, Process, Steps, Task, World

TRIES = 4
_INTERVAL = CHECKPOINT_INTERVAL.total_seconds()

Commands: TypeAlias = tuple[Command, ...]
Rule: TypeAlias = Callable[[Run, Shard], Decision]


class Driver:
    """One delivery of one task, in one process. The world decides how long it lives."""

    def __init__(self, world: World, process: Process) -> None:
        self.world = world
        self.process = process
        self.entry: LedgerEntry | None = None
        self.entry_version = 0
        self.task: Task

    @property
    def lease_seconds(self) -> int:
        """Longer than the queue waits for an answer."""
        return self.world.deadline + 60

    @property
    def now(self) -> float:
        """The time as this process has it."""
        return self.world.now + self.process.skew

    def deliver(self, task: Task) -> Steps:
        """Handle one delivery: True is an answer of 2xx."""
        self.task = task
        try:
            claim = yield from self.claim_task()
            match claim:
                case Finished():
                    return True
                case Busy():
                    yield from self.reissue(claim.lease_until + SKEW, f"lease {claim.fence}")
                    return True
                case None:
                    commands = yield from self.run_task()
                    return (yield from self.obey(commands))
        except (UnavailableError, ItemFailedError):
            return (yield from self.fail())

    def run_task(self) -> Generator[float, None, Commands]:
        match self.task.purpose:
            case "plan":
                return (yield from self.plan())
            case "slice":
                return (yield from Slice(self).work())
            case _:
                return (yield from self.finalize())

    # The ledger, as `flow.ledger` and `flow.execute` have it.

    def claim_task(self) -> Generator[float, None, Busy | Finished | None]:
        for _ in range(TRIES):
            yield LATENCY
            record = self.world.get([self.ledger_key]).get(self.ledger_key)
            entry = None if record is None else parse_entry(record.data)
            claim = claim_entry(entry, now=self.now, lease_seconds=self.lease_seconds)
            if not isinstance(claim, Claimed):
                return claim
            yield LATENCY
            try:
                self.write_entry(claim.entry, 0 if record is None else record.version)
            except RecordConflictError:
                continue
            return None
        raise StoreUnavailableError("others were always first")

    def finish_task(self) -> Generator[float, None, None]:
        assert self.entry is not None
        yield from self.end_entry(finish_entry(self.entry))

    def end_entry(self, entry: LedgerEntry) -> Generator[float, None, None]:
        for left in reversed(range(3)):
            yield LATENCY
            try:
                self.write_entry(entry, self.entry_version)
            except RecordConflictError:
                record = self.world.get([self.ledger_key]).get(self.ledger_key)
                if record is None or record.version != self.entry_version + 1 or record.data != dump_entry(entry):
                    raise LeaseLostError("another worker has claimed the task") from None
            except StoreUnavailableError:
                if left == 0:
                    raise
                continue
            return

    def write_entry(self, entry: LedgerEntry, version: int) -> None:
        put = Put(key=self.ledger_key, data=dump_entry(entry), expires_at=1 << 40, expected=version or None)
        self.world.commit([put])
        self.entry, self.entry_version = entry, version + 1

    @property
    def ledger_key(self) -> RecordKey:
        return RecordKey(RecordKind.LEDGER, self.task.id.hex())

    # Commands.

    def obey(self, commands: Commands) -> Steps:
        for command in commands:
            match command:
                case CreateSlice() | CreateFinalize():
                    yield from self.create(command)
                case Acknowledge():
                    yield from self.finish_task()
                    return True
                case Reissue():
                    assert self.entry is not None
                    fence = self.entry.fence
                    yield from self.end_entry(release_entry(self.entry, command.at))
                    yield from self.reissue(command.at, f"after {fence}")
                    return True
                case Stop():
                    return (yield from self.fail())
                case _:
                    assert_never(command)
        msg = "no command ends the task"
        raise AssertionError(msg)

    def create(self, command: CreateSlice | CreateFinalize) -> Generator[float, None, None]:
        yield LATENCY
        match command:
            case CreateSlice(shard=shard, seq=seq, wake=wake, at=at):
                self.world.create(self.world.slice_task(shard, seq, wake, at))
            case CreateFinalize(again=again):
                self.world.create(self.world.finalize_task(again))

    def reissue(self, at: float, mark: str) -> Generator[float, None, None]:
        task = self.task
        name = f"again {task.id.hex()} {mark}"
        if name == task.name:
            raise QueueUnavailableError("come before its time")
        yield LATENCY
        self.world.create(
            Task(name=name, id=task.id, purpose=task.purpose, shard=task.shard, seq=task.seq, wake=task.wake, at=at)
        )

    def fail(self) -> Steps:
        """Stop: no success, and the ledger's lease given back if it is still held."""
        if self.entry is not None:
            yield LATENCY
            with suppress(UnavailableError):
                self.write_entry(release_entry(self.entry), self.entry_version)
        return False

    # Plan and finalize.

    def read_run(self) -> Generator[float, None, Run | None]:
        yield LATENCY
        key = run_key(self.world.run_id)
        record = self.world.get([key]).get(key)
        return None if record is None else parse_run(record)

    def plan(self) -> Generator[float, None, Commands]:
        run = yield from self.read_run()
        if run is None:
            try:
                return (yield from self.insert_run())
            except (RecordConflictError, StoreUnavailableError):
                run = yield from self.read_run()
        if run is None:
            raise StoreUnavailableError("not planned")
        yield LATENCY
        shards = self.world.get(open_shard_keys(run))
        return repeat_plan(run, map(parse_shard, shards.values())).commands

    def insert_run(self) -> Generator[float, None, Commands]:
        decision = self.decide_plan()
        yield LATENCY
        self.world.commit(decision.changes)
        return decision.commands

    def decide_plan(self) -> Decision:
        ranges = [lo.to_bytes(4) + hi.to_bytes(4) for lo, hi in self.world.ranges]
        return plan_run(
            self.world.run_id,
            b"sealed",
            ranges,
            estimated_total=len(self.world.rows),
            now=self.now,
            batch_size=self.world.first_batch,
        )

    def finalize(self) -> Generator[float, None, Commands]:
        run = yield from self.read_run()
        assert run is not None
        started = start_finalize(run)
        if started.commands:
            return started.commands
        yield self.world.item_seconds()
        self.world.finalize()
        return (yield from self.change_run(lambda run: finish_finalize(run, now=self.now)))

    def change_run(self, rule: Callable[[Run], Decision]) -> Generator[float, None, Commands]:
        for _ in range(TRIES):
            run = yield from self.read_run()
            assert run is not None
            decision = rule(run)
            yield LATENCY
            try:
                self.world.commit(decision.changes)
            except (RecordConflictError, StoreUnavailableError):
                continue
            return decision.commands
        raise StoreUnavailableError("others were always first")


class Slice:
    """One slice: the rows of its shard as long as the budget allows."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.world = driver.world
        self.task = driver.task
        self.run: Run
        self.shard: Shard
        self.work_done = NO_WORK
        self.rows = 0
        self.started = self.saved = driver.now
        self.budget = make_budget(timedelta(seconds=self.world.deadline))

    def work(self) -> Generator[float, None, Commands]:
        commands = yield from self.claim()
        while not commands:
            commands = yield from self.page()
        return commands

    def read(self) -> Generator[float, None, Shard | None]:
        yield LATENCY
        keys = [run_key(self.world.run_id), shard_key(self.world.run_id, self.task.shard)]
        found = self.world.get(keys)
        self.run = parse_run(found[keys[0]])
        return parse_shard(found[keys[1]]) if keys[1] in found else None

    def claim(self) -> Generator[float, None, Commands]:
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

    def page(self) -> Generator[float, None, Commands]:
        """One page of rows; no commands means that there is another."""
        if not self.has_time():
            return (yield from self.end())
        size = page_size(self.shard)
        yield LATENCY
        begun, rows = self.driver.now, self.world.page(self.shard.key_range, self.shard.cursor, size)
        for row in rows:
            if not self.has_time():
                return (yield from self.end())
            commands = yield from self.item(row)
            if commands:
                return commands
            if self.driver.now - self.saved >= _INTERVAL and (commands := (yield from self.save())):
                return commands
        if len(rows) < size:
            return (yield from self.write(self.decide_finish))
        if not is_careful(self.shard):
            batch = adapt_batch(self.shard.batch_size, rows=len(rows), seconds=self.driver.now - begun)
            self.work_done = self.updated(batch_size=batch)
        return (yield from self.save())

    def item(self, row: int) -> Generator[float, None, Commands]:
        """One row; no commands means that the slice goes on."""
        cursor = row.to_bytes(4)
        item = Item(digest=item_digest(self.world.run_id, cursor), cursor=cursor)
        policy = self.world.policy
        if judge_item(self.run, self.shard, self.work_done, item, policy, now=self.driver.now) is not None:

            def judge(run: Run, shard: Shard) -> Decision:
                decision = judge_item(run, shard, self.work_done, item, policy, now=self.driver.now)
                assert decision is not None
                return decision

            return (yield from self.write(judge))
        if self.is_careful():
            yield from self.write(
                lambda _, shard: announce_item(shard, self.work_done, item.digest, now=self.driver.now)
            )
        begun = self.driver.now
        yield self.world.item_seconds()
        try:
            self.world.call(self.driver.process, row)
        except ItemFailedError:
            return (
                yield from self.write(
                    lambda run, shard: fail_item(run, shard, self.work_done, item, policy, now=self.driver.now)
                )
            )
        self.rows += 1
        pace = slowest(max(self.shard.slowest_ms, self.work_done.slowest_ms), self.driver.now - begun)
        self.work_done = Work(cursor=cursor, processed=self.work_done.processed + 1, slowest_ms=pace)
        return ()

    def has_time(self) -> bool:
        pace = max(self.shard.slowest_ms, self.work_done.slowest_ms)
        return self.budget.has_time(elapsed_seconds=self.driver.now - self.started, slowest_ms=pace, rows=self.rows)

    def updated(self, *, batch_size: int) -> Work:
        work = self.work_done
        return Work(cursor=work.cursor, processed=work.processed, slowest_ms=work.slowest_ms, batch_size=batch_size)

    def save(self) -> Generator[float, None, Commands]:
        """A checkpoint; the slice ends where its run is stopping."""
        if self.work_done.cursor is not None:
            yield from self.write(lambda _, shard: checkpoint(shard, self.work_done, now=self.driver.now))
        yield from self.read()
        return (yield from self.end()) if is_stopping(self.run) else ()

    def end(self) -> Generator[float, None, Commands]:
        return (yield from self.write(lambda _, shard: end_slice(shard, self.work_done, now=self.driver.now)))

    def decide_finish(self, run: Run, shard: Shard) -> Decision:
        return finish_shard(run, shard, self.work_done, now=self.driver.now)

    def write(self, rule: Rule) -> Generator[float, None, Commands]:
        """Write under the lease, on top of whatever was written beside it."""
        for _ in range(TRIES):
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
        self.world.commit(decision.changes)

    def is_careful(self) -> bool:
        return is_careful(self.shard)

    def is_made(self, decision: Decision, stored: Shard | None) -> bool:
        return is_made(decision, stored)

    def keep_lease(self, stored: Shard | None) -> Shard:
        return keep_lease(self.shard, stored)


class Console(Driver):
    """A person, or a cron job, at `safedefer_iterations`. It asks again until it gets an answer."""

    def pause(self) -> Steps:
        return (yield from self.order(lambda run: pause_run(run, now=self.now)))

    def cancel(self) -> Steps:
        return (yield from self.order(lambda run: cancel_run(run, now=self.now)))

    def resume(self) -> Steps:
        if not (yield from self.order(lambda run: resume_run(run, now=self.now))):
            return False
        run = yield from self.insist_on_run()
        for index in sorted(run.open):
            yield from self.insist(index, lambda run, shard: wake_shard(run, shard, now=self.now))
        return True

    def sweep(self) -> Steps:
        run = yield from self.insist_on_run()
        for command in sweep_run(run, now=self.now).commands:
            yield from self.insist_on_create(command)
        for index in sorted(run.open):
            yield from self.insist(index, lambda run, shard: sweep_shard(run, shard, now=self.now))
        return True

    def order(self, rule: Callable[[Run], Decision]) -> Steps:
        while True:
            run = yield from self.insist_on_run()
            try:
                decision = rule(run)
            except IterationError:
                return False
            yield LATENCY
            try:
                self.world.commit(decision.changes)
            except (RecordConflictError, StoreUnavailableError):
                continue
            for command in decision.commands:
                yield from self.insist_on_create(command)
            return True

    def insist_on_run(self) -> Generator[float, None, Run]:
        while True:
            try:
                run = yield from self.read_run()
            except StoreUnavailableError:
                continue
            assert run is not None
            return run

    def insist_on_create(self, command: Command) -> Generator[float, None, None]:
        assert isinstance(command, CreateSlice | CreateFinalize)
        while True:
            try:
                yield from self.create(command)
            except QueueUnavailableError:
                continue
            return

    def insist(self, index: int, rule: Rule) -> Generator[float, None, None]:
        key = shard_key(self.world.run_id, index)
        while True:
            run = yield from self.insist_on_run()
            yield LATENCY
            try:
                decision = rule(run, parse_shard(self.world.get([key])[key]))
                yield LATENCY
                self.world.commit(decision.changes)
            except (RecordConflictError, StoreUnavailableError):
                continue
            for command in decision.commands:
                yield from self.insist_on_create(command)
            return


def is_over(run: Run | None) -> bool:
    """Whether nothing is to come any more."""
    return run is not None and run.state in {RunState.DONE, RunState.CANCELLED}
