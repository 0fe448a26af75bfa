"""The rules of iteration hold in every world that was tried, and each of them is needed. Seeds: see `trials`."""

from collections.abc import Generator
from dataclasses import replace
from typing import Final

import pytest

from safedefer.core.iteration.decisions import (
    ACKNOWLEDGE,
    Command,
    CreateFinalize,
    CreateSlice,
    Decision,
    Reissue,
)
from safedefer.core.iteration.slices import Work, finish_shard
from safedefer.core.iteration.state import Run, Shard
from safedefer.core.names import TaskId
from safedefer.core.records import RecordKind
from safedefer.errors import LeaseLostError, RecordConflictError, StoreUnavailableError
from tests.simulation.console import Console
from tests.simulation.driver import Driver
from tests.simulation.scheduler import MakeDriver, Scheduler
from tests.simulation.slices import TRIES, Commands, Rule, Slice
from tests.simulation.trials import MUTANT_SIMULATIONS, SIMULATIONS, START, SliceOf, first_violation
from tests.simulation.world import LATENCY, Steps, Task, ViolationError


def test_no_world_breaks_the_rules() -> None:
    broken: dict[str, str] = {}
    kills = 0
    for seed in range(START, START + SIMULATIONS):
        try:
            kills += Scheduler(seed).go().kills
        except ViolationError as violation:
            broken[f"SAFEDEFER_SIMULATION_START={seed} SAFEDEFER_SIMULATIONS=1"] = str(violation)
    assert broken == {}
    assert kills > 0 or SIMULATIONS < 100, "worlds in which nothing goes wrong prove nothing"


# What somebody might write instead of a rule, and what comes of it.


class ShortLeases(Driver):
    """Leases that end while the queue still waits for an answer: slower, but nothing may go wrong with them."""

    @property
    def lease_seconds(self) -> int:
        return 15


class AnswersSuccessWhenItsLeaseIsLost(ShortLeases):
    def run_task(self) -> Generator[float, None, Commands]:
        try:
            return (yield from super().run_task())
        except LeaseLostError:
            raise AnsweredError from None

    def deliver(self, task: Task) -> Steps:
        try:
            return (yield from super().deliver(task))
        except AnsweredError:
            return True


class AnsweredError(Exception):
    """Success, whatever the ledger says."""


class AnswersSuccessWhenBusy(SliceOf):
    class kind(Slice):  # noqa: N801
        def decide_claim(self, stored: Shard | None) -> Decision:
            decision = super().decide_claim(stored)
            busy = any(isinstance(command, Reissue) for command in decision.commands)
            return Decision(commands=(ACKNOWLEDGE,)) if busy else decision


class DoesNotHandOver(SliceOf):
    class kind(Slice):  # noqa: N801
        def decide_claim(self, stored: Shard | None) -> Decision:
            decision = super().decide_claim(stored)
            handed = any(isinstance(command, CreateSlice) for command in decision.commands)
            return Decision(commands=(ACKNOWLEDGE,)) if handed else decision


class DoesNotRepeatFinalize(SliceOf):
    class kind(Slice):  # noqa: N801
        def decide_claim(self, stored: Shard | None) -> Decision:
            decision = super().decide_claim(stored)
            handed = any(isinstance(command, CreateFinalize) for command in decision.commands)
            return Decision(commands=(ACKNOWLEDGE,)) if handed else decision


class WritesWithoutItsLease(SliceOf):
    class kind(Slice):  # noqa: N801
        def keep_lease(self, stored: Shard | None) -> Shard:
            assert stored is not None
            return replace(self.shard, version=stored.version)


class TakesEveryConflictForItsOwnWrite(SliceOf):
    class kind(Slice):  # noqa: N801
        def is_made(self, decision: Decision, stored: Shard | None) -> bool:
            return stored is not None


class ClaimsWhatIsHeld(SliceOf):
    class kind(Slice):  # noqa: N801
        def decide_claim(self, stored: Shard | None) -> Decision:
            return super().decide_claim(None if stored is None else replace(stored, lease_until=0))


class TakesAnAmbiguousClaimForItsOwn(SliceOf):
    class kind(Slice):  # noqa: N801
        def claim(self) -> Generator[float, None, Commands]:
            stored = yield from self.read()
            decision = self.decide_claim(stored)
            if decision.commands:
                return decision.commands
            yield LATENCY
            try:
                self.world.commit(decision.changes)
            except (RecordConflictError, StoreUnavailableError):
                again = yield from self.read()
                if again is None or decision.shard is None or again.fence != decision.shard.fence:
                    raise StoreUnavailableError("no answer") from None
                self.shard = again
                return ()
            assert decision.shard is not None
            self.shard = decision.shard
            return ()


class MovesTheCursorBeforeTheCall(SliceOf):
    class kind(Slice):  # noqa: N801
        def item(self, row: int) -> Generator[float, None, Commands]:
            self.work_done = Work(cursor=row.to_bytes(4), processed=self.work_done.processed + 1)
            commands = yield from self.save()
            if not commands:
                yield from self.call([row])
                self.rows += 1
            return commands


class CompletesInTwoCommits(SliceOf):
    class kind(Slice):  # noqa: N801
        def commit(self, decision: Decision) -> None:
            shard = tuple(change for change in decision.changes if change.key.kind is RecordKind.SHARD)
            super().commit(Decision(changes=shard))
            if rest := tuple(change for change in decision.changes if change not in shard):
                super().commit(Decision(changes=rest))


class CompletesOnAStaleRun(SliceOf):
    class kind(Slice):  # noqa: N801
        """The set of open shards without a version, as a row that is written over."""

        def commit(self, decision: Decision) -> None:
            stored = self.world.run()
            assert stored is not None
            changes = tuple(
                replace(change, expected=stored.version) if change.key.kind is RecordKind.RUN else change
                for change in decision.changes
            )
            super().commit(Decision(changes=changes))


class FinalizesWhenItsOwnShardIsDone(SliceOf):
    class kind(Slice):  # noqa: N801
        def decide_finish(self, run: Run, shard: Shard) -> Decision:
            return finish_shard(replace(run, open=frozenset({shard.index})), shard, self.work_done, now=self.driver.now)


class NamesFinalizeAtRandom(Driver):
    def create(self, command: CreateSlice | CreateFinalize) -> Generator[float, None, None]:
        if isinstance(command, CreateSlice):
            yield from super().create(command)
            return
        yield LATENCY
        task_id = TaskId(self.world.dice.randbytes(16))
        self.world.create(Task(name=task_id.hex(), id=task_id, purpose="finalize"))


class AnswersBeforeItCreates(Driver):
    def obey(self, commands: Commands) -> Steps:
        ends = [command for command in commands if not isinstance(command, CreateSlice | CreateFinalize)]
        if ACKNOWLEDGE in ends:
            yield from self.finish_task()
            self.world.remove(self.task.name)
        others: list[Command] = [command for command in commands if command not in ends]
        for command in others:
            assert isinstance(command, CreateSlice | CreateFinalize)
            yield from self.create(command)
        return True if ACKNOWLEDGE in ends else (yield from super().obey(tuple(ends)))


class PlansInTwoCommits(Driver):
    def insert_run(self) -> Generator[float, None, Commands]:
        decision = self.decide_plan()
        for kind in (RecordKind.RUN, RecordKind.SHARD):
            yield LATENCY
            self.world.commit([change for change in decision.changes if change.key.kind is kind])
        return decision.commands


class CreatesNothingWhenPlannedTwice(Driver):
    def plan(self) -> Generator[float, None, Commands]:
        run = yield from self.read_run()
        return (ACKNOWLEDGE,) if run is not None else (yield from self.insert_run())


class CountsNoFailure(SliceOf):
    class kind(Slice):  # noqa: N801
        def write(self, rule: Rule, tries: int = TRIES) -> Generator[float, None, Commands]:
            def forgetful(run: Run, shard: Shard) -> Decision:
                return rule(run, replace(shard, poison_tries=0))

            return (yield from super().write(forgetful, tries))


class NamesNoRow(SliceOf):
    class kind(Slice):  # noqa: N801
        def is_careful(self) -> bool:
            return False


MUTANTS: Final = [
    AnswersSuccessWhenItsLeaseIsLost,
    AnswersSuccessWhenBusy,
    DoesNotHandOver,
    DoesNotRepeatFinalize,
    WritesWithoutItsLease,
    TakesEveryConflictForItsOwnWrite,
    ClaimsWhatIsHeld,
    TakesAnAmbiguousClaimForItsOwn,
    MovesTheCursorBeforeTheCall,
    CompletesInTwoCommits,
    CompletesOnAStaleRun,
    FinalizesWhenItsOwnShardIsDone,
    NamesFinalizeAtRandom,
    AnswersBeforeItCreates,
    PlansInTwoCommits,
    CreatesNothingWhenPlannedTwice,
    CountsNoFailure,
    NamesNoRow,
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_simulator_notices_a_driver_that(mutant: MakeDriver) -> None:
    assert first_violation(mutant, MUTANT_SIMULATIONS) is not None


class ResumesUnderTheOldNames(Console):
    """Creates the tasks again that the pause has ended: the ledger knows them as done."""

    def insist(self, index: int, rule: Rule) -> Generator[float, None, None]:
        def same(run: Run, shard: Shard) -> Decision:
            decision = rule(run, shard)
            commands = tuple(
                replace(command, wake=shard.wake) if isinstance(command, CreateSlice) else command
                for command in decision.commands
            )
            return Decision(commands=commands)

        yield from super().insist(index, same)


def test_simulator_notices_a_resume_under_the_old_names() -> None:
    assert first_violation(Driver, MUTANT_SIMULATIONS, ResumesUnderTheOldNames) is not None


def test_leases_that_are_too_short_break_nothing() -> None:
    assert first_violation(ShortLeases, SIMULATIONS // 4) is None
