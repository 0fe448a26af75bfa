"""A store, a queue and time in memory: everything that may go wrong does, and what must not be is noticed."""

import random
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeAlias

from safedefer.core.iteration.ids import finalize_task_id, item_digest, slice_task_id
from safedefer.core.iteration.items import ItemPolicy, OnError
from safedefer.core.iteration.rows import parse_run, parse_shard, run_key
from safedefer.core.iteration.state import Run, RunState, Shard, ShardState
from safedefer.core.names import TaskId
from safedefer.core.records import Change, Put, Record, RecordKey, RecordKind
from safedefer.errors import CommitRefusedError, QueueUnavailableError, RecordConflictError, StoreUnavailableError
from safedefer.testing.fakes import MemoryRecords

Steps: TypeAlias = Generator[float, None, bool]
"""A worker: it yields how long its next action takes, and may be killed, frozen or overtaken there."""

SKEW = 30
TOMBSTONE_SECONDS = 3_600
LATENCY = 0.05


class ViolationError(AssertionError):
    """Something happened that the protocol rules out."""


class ItemFailedError(Exception):
    """A row's call has raised; where it asks to be made again, `later` is in how many seconds."""

    def __init__(self, later: float | None = None) -> None:
        super().__init__()
        self.later = later


class KilledError(BaseException):
    """The process is gone: nothing catches it."""


@dataclass(kw_only=True)
class Task:
    """One task in the queue."""

    name: str
    id: TaskId
    purpose: str
    shard: int = 0
    seq: int = 0
    wake: int = 0
    at: float = 0.0


@dataclass(kw_only=True)
class Transaction:
    """Writes to the store and effects of calls that are committed together, or not at all."""

    writes: list[Sequence[Change]] = field(default_factory=list)
    effects: list[int] = field(default_factory=list)


@dataclass(kw_only=True)
class Process:
    """One worker, or the person at the console (who has no task)."""

    task: Task | None
    skew: float
    ready_at: float
    started: float
    steps: Steps = field(init=False)
    unsaved: list[int] = field(default_factory=list)
    """Rows called for since the last checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Weather:
    """How often things go wrong."""

    store: float
    queue: float
    kill: float
    freeze: float
    duplicate: float
    lost_answer: float
    drop: float
    pause: float
    cancel: float


def make_weather(dice: random.Random) -> Weather:
    """Some runs have one kind of trouble, others all of it."""

    def some(most: float) -> float:
        return dice.random() * most if dice.random() < 0.6 else 0.0

    return Weather(
        store=some(0.06),
        queue=some(0.10),
        kill=some(0.03),
        freeze=some(0.02),
        duplicate=some(0.10),
        lost_answer=some(0.15),
        drop=some(0.01) if dice.random() < 0.4 else 0.0,
        pause=some(0.01),
        cancel=0.002 if dice.random() < 0.05 else 0.0,
    )


class World:
    """One seed's service, store and application."""

    def __init__(self, seed: int) -> None:
        self.dice = dice = random.Random(seed)
        self.now = 1_000_000.0
        self.weather = make_weather(dice)
        self.chaos = True
        self.run_id = TaskId(dice.randbytes(16))
        self.records = MemoryRecords()
        self.late: list[tuple[float, Transaction]] = []
        self.queue: dict[str, Task] = {}
        self.tombstones: dict[str, float] = {}
        self.processes: list[Process] = []
        self.deadline = dice.choice([60, 60, 120, 600])
        self.slowness = dice.choice([0.0, 0.1, 1.0, 8.0])
        self.batch = dice.random() < 0.4
        """Whether the callback gets the rows of a page in one call."""
        self.atomic = dice.random() < 0.4
        """Whether what it writes is committed with the checkpoint."""
        self._make_rows()
        self.seen: Counter[int] = Counter()
        self.excused: Counter[int] = Counter()
        self.failed_alone: Counter[int] = Counter()
        """How often a row's own call has failed, or stopped its worker, so that it was known which one it was."""
        self.skipped: set[int] = set()
        self.finalize_names: set[str] = set()
        self.finalize_starts = self.finalize_failures = self.completions = 0
        self.resumes = 0

    def _make_rows(self) -> None:
        dice = self.dice
        count = dice.choice([0, 1, 3, 10, 25])
        self.rows = sorted(dice.sample(range(1, 1_000), count))
        shards = dice.randrange(5)
        cuts = sorted(dice.sample(range(1_001), max(0, shards - 1)))
        self.ranges = list(zip([0, *cuts], [*cuts, 1_001], strict=True)) if shards else []
        if not shards:
            self.rows = []
        self.first_batch = dice.choice([1, 3, 8])
        self.policy = ItemPolicy(max_attempts=dice.choice([1, 3]), on_error=dice.choice(list(OnError)))
        wrong = [row for row in self.rows if dice.random() < dice.choice([0.0, 0.1])]
        lasting = 9_000 if self.policy.on_error is not OnError.RETRY else 4
        self.postponing = {row for row in wrong if dice.random() < 0.3}
        """Rows whose failures ask for another call later, which several rows of one call do without end."""
        self.failures = {row: dice.choice([1, 2, 4 if row in self.postponing else lasting]) for row in wrong}
        self.killers = {
            row: dice.choice([1, 2, 4, lasting]) for row in self.rows if dice.random() < dice.choice([0.0, 0.05])
        }
        self.refusals = {
            row: dice.choice([1, 2, lasting])
            for row in self.rows
            if self.atomic and dice.random() < dice.choice([0.0, 0.05])
        }
        """Rows whose writes the database does not commit."""
        self.by_digest = {item_digest(self.run_id, row.to_bytes(4)): row for row in self.rows}

    # The store.

    def get(self, keys: Sequence[RecordKey], transaction: Transaction | None = None) -> Mapping[RecordKey, Record]:
        """Read records; inside of a transaction, as it has written them."""
        if self._strikes(self.weather.store):
            raise StoreUnavailableError("no answer")
        found = {**self.records.get(keys)}
        for change in _changes(transaction):
            if change.key in keys and isinstance(change, Put):
                found[change.key] = Record(
                    key=change.key, version=change.version, data=change.data, expires_at=change.expires_at
                )
        return found

    def shards(self) -> list[Shard]:
        found = self.records.scan(RecordKind.SHARD, after=self.run_id.hex(), limit=10_000)
        return [parse_shard(record) for record in found]

    def run(self) -> Run | None:
        key = run_key(self.run_id)
        record = self.records.get([key]).get(key)
        return None if record is None else parse_run(record)

    def commit(self, changes: Sequence[Change]) -> None:
        """Commit, or fail: before, after, or so that it happens later."""
        self._commit(Transaction(writes=[changes]))

    def write(self, transaction: Transaction, changes: Sequence[Change]) -> None:
        """Write inside of a transaction."""
        found = self.get([change.key for change in changes], transaction)
        for change in changes:
            if change.expected != (found[change.key].version if change.key in found else None):
                raise RecordConflictError("another version")
        transaction.writes.append(changes)

    def commit_together(self, transaction: Transaction) -> None:
        """Commit a transaction, which may be refused for what calls have written."""
        refused = [row for row in transaction.effects if self.refusals.get(row, 0) > 0]
        if refused:
            self.refusals[refused[0]] -= 1
            raise CommitRefusedError("a deferred constraint")
        try:
            self._commit(transaction)
        except RecordConflictError:
            # Whoever writes what a transaction has written waits for its end, or the database ends it.
            raise StoreUnavailableError("it was ended") from None

    def _commit(self, transaction: Transaction) -> None:
        if self._strikes(self.weather.store):
            match self.dice.randrange(3):
                case 0:
                    self._apply(transaction)
                case 1:
                    self.late.append((self.now + self.dice.random() * self.dice.choice([0.15, 5.0]), transaction))
                case _:
                    pass
            raise StoreUnavailableError("no answer")
        self._apply(transaction)

    def _apply(self, transaction: Transaction) -> None:
        first = {change.key: change.expected for change in reversed(list(_changes(transaction)))}
        found = self.records.get([*first])
        if any(version != (found[key].version if key in found else None) for key, version in first.items()):
            raise RecordConflictError("another version")
        for changes in transaction.writes:
            before = self.records.get([change.key for change in changes])
            self.records.commit(changes)
            for change in changes:
                if isinstance(change, Put) and change.key in before:
                    self._watch(before[change.key], self.records.get([change.key])[change.key])
        self.seen.update(transaction.effects)

    def _watch(self, old: Record, new: Record) -> None:
        """What no two writes in a row may do."""
        if new.key.kind is RecordKind.RUN:
            one, other = parse_run(old), parse_run(new)
            _check(other.open <= one.open, "a shard that was done is open again")
            ended = one.state in {RunState.DONE, RunState.CANCELLED}
            _check(not ended or other.state is one.state, "a run that had ended came into another state")
            _check(
                other.state is not RunState.HALTED or self.policy.on_error is OnError.HALT, "halted against the policy"
            )
            self.completions += other.state is RunState.DONE
        elif new.key.kind is RecordKind.SHARD:
            before, after = parse_shard(old), parse_shard(new)
            _check(before.state is not ShardState.DONE, "a shard that was done was written")
            _check((before.cursor or b"") <= (after.cursor or b""), "a cursor went back")
            _check(before.fence <= after.fence, "a fencing number went back")
            if after.fence > before.fence and before.state is ShardState.RUNNING:
                _check(before.lease_until <= self.now + SKEW, "a lease was taken before its end")
            if after.fence > before.fence and before.calling:
                self.failed_alone[self._row_of(before)] += 1
            if after.skipped > before.skipped:
                cursor = after.cursor or b""
                attempts = before.poison_tries if before.poison_key == item_digest(self.run_id, cursor) else 0
                _check(attempts + 1 >= self.policy.max_attempts, "a row was skipped too early")
                self.skipped.add(int.from_bytes(cursor))
                self._check_given_up(int.from_bytes(cursor))
            if after.state is ShardState.FAILED:
                self._check_given_up(self._row_of(after))

    def _check_given_up(self, row: int) -> None:
        _check(self.failed_alone[row] >= self.policy.max_attempts, "a row was given up that has not failed so often")

    def _row_of(self, shard: Shard) -> int:
        return self.by_digest[shard.poison_key or b""]

    def settle_late_commits(self) -> None:
        due = [transaction for at, transaction in self.late if at <= self.now]
        self.late = [(at, transaction) for at, transaction in self.late if at > self.now]
        for transaction in due:
            try:
                self._apply(transaction)
            except RecordConflictError:
                continue

    # The queue.

    def create(self, task: Task) -> None:
        """Create a task, unless its name is taken or was until recently."""
        struck = self._strikes(self.weather.queue)
        taken = task.name in self.queue or self.tombstones.get(task.name, 0) > self.now
        if not taken and (not struck or self.dice.random() < 0.5):
            self.queue[task.name] = task
            if task.purpose == "finalize" and task.name == task.id.hex():
                self.finalize_names.add(task.name)
        if struck:
            raise QueueUnavailableError("no answer")

    def slice_task(self, shard: int, seq: int, wake: int, at: float) -> Task:
        task_id = slice_task_id(self.run_id, shard=shard, seq=seq, wake=wake)
        return Task(name=task_id.hex(), id=task_id, purpose="slice", shard=shard, seq=seq, wake=wake, at=at)

    def finalize_task(self, again: int) -> Task:
        task_id = finalize_task_id(self.run_id)
        name = f"{task_id.hex()}-{again}" if again else task_id.hex()
        return Task(name=name, id=task_id, purpose="finalize")

    def remove(self, name: str) -> None:
        if self.queue.pop(name, None) is not None:
            self.tombstones[name] = self.now + TOMBSTONE_SECONDS

    # The application.

    def page(self, key_range: bytes, cursor: bytes | None, limit: int) -> list[int]:
        lo, hi = int.from_bytes(key_range[:4]), int.from_bytes(key_range[4:])
        after = lo - 1 if cursor is None else int.from_bytes(cursor)
        return [row for row in self.rows if after < row < hi and row >= lo][:limit]

    def item_seconds(self) -> float:
        usual = self.dice.random() * self.slowness
        return self.deadline * 1.2 if self.dice.random() < 0.002 else usual

    def call(self, process: Process, row: int, transaction: Transaction | None) -> None:
        """What the application's callback does with a row."""
        if self.killers.get(row, 0) > 0:
            self.killers[row] -= 1
            raise KilledError
        if self.failures.get(row, 0) > 0:
            self.failures[row] -= 1
            raise ItemFailedError(3_600.0 * self.dice.random() if row in self.postponing else None)
        if transaction is not None:
            transaction.effects.append(row)
            return
        self.seen[row] += 1
        process.unsaved.append(row)

    def finalize(self) -> None:
        """The application's finalize."""
        self.finalize_starts += 1
        _check(all(shard.state is ShardState.DONE for shard in self.shards()), "finalize before a shard was done")
        _check(not self.unhandled(), "finalize before a row was handled")
        if self._strikes(0.2) and self.finalize_failures < 3:
            self.finalize_failures += 1
            raise ItemFailedError

    def unhandled(self) -> list[int]:
        return [row for row in self.rows if not self.seen[row] and row not in self.skipped]

    def mend(self) -> None:
        """Somebody deploys code that works."""
        self.failures.clear()
        self.killers.clear()
        self.refusals.clear()

    def _strikes(self, chance: float) -> bool:
        return self.chaos and self.dice.random() < chance


def _changes(transaction: Transaction | None) -> Iterator[Change]:
    if transaction is not None:
        yield from chain.from_iterable(transaction.writes)


def _check(holds: bool, complaint: str) -> None:
    if not holds:
        raise ViolationError(complaint)
