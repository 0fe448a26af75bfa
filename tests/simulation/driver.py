"""What a worker does with the rules: the journey of one delivery, each action after a `yield`."""

from collections.abc import Callable, Generator
from contextlib import suppress
from typing import assert_never

from safedefer.core.iteration.decisions import Acknowledge, CreateFinalize, CreateSlice, Decision, Reissue, Stop
from safedefer.core.iteration.operations import finish_finalize, start_finalize
from safedefer.core.iteration.planning import plan_run, repeat_plan
from safedefer.core.iteration.rows import open_shard_keys, parse_run, parse_shard, run_key
from safedefer.core.iteration.state import Run
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
from safedefer.core.records import Put, RecordKey, RecordKind
from safedefer.errors import (
    LeaseLostError,
    QueueUnavailableError,
    RecordConflictError,
    StoreUnavailableError,
    UnavailableError,
)
from tests.simulation.slices import TRIES, Commands, Slice
from tests.simulation.world import LATENCY, SKEW, ItemFailedError, Process, Steps, Task, World


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
                return (yield from self.make_slice().work())
            case _:
                return (yield from self.finalize())

    def make_slice(self) -> Slice:
        return Slice(self)

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
