"""Rows that are called for by the page, and writes that are committed with their checkpoint, need their rules, too."""

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import ClassVar, Final

import pytest

from safedefer.core.iteration.decisions import Decision
from safedefer.core.iteration.slices import Work, end_slice
from safedefer.core.iteration.state import Shard
from safedefer.errors import StoreUnavailableError, UnavailableError
from tests.simulation.scheduler import MakeDriver, Scheduler
from tests.simulation.slices import Going, Slice
from tests.simulation.trials import MUTANT_SIMULATIONS, SliceOf, first_violation
from tests.simulation.world import LATENCY, Transaction, World


class Watching(SliceOf):
    """Counts what the worlds of this module are for."""

    happened: ClassVar[Counter[str]] = Counter()

    class kind(Slice):  # noqa: N801
        def decide_fail_page(self, shard: Shard, rows: Sequence[int]) -> Decision:
            Watching.happened[f"page failed, atomic: {self.world.atomic}"] += len(rows) > 1
            return super().decide_fail_page(shard, rows)

        def read_page(self, size: int) -> Generator[float, None, list[int]]:
            Watching.happened["page behind work that is not kept"] += self.work_done.cursor is not None
            return (yield from super().read_page(size))

        def at(self, later: float) -> int:
            Watching.happened["asked for another time"] += 1
            return super().at(later)

        def go_carefully(self) -> Going:
            Watching.happened[f"careful, batch: {self.world.batch}"] += 1
            return (yield from super().go_carefully())

        def together(self, go: Going, refused: Callable[[], Going]) -> Going:
            def note() -> Going:
                Watching.happened["commit refused"] += 1
                return (yield from refused())

            return (yield from super().together(go, note))

        def roll_back(self, transaction: Transaction, kept: int) -> None:
            Watching.happened["rolled back to a savepoint"] += len(transaction.effects) > kept
            super().roll_back(transaction, kept)

        def reload(self) -> Generator[float, None, None]:
            Watching.happened["reloaded"] += 1
            yield from super().reload()


def test_worlds_have_what_their_rules_are_for() -> None:
    Watching.happened.clear()
    for seed in range(300):
        world = World(seed)
        if world.batch or world.atomic:
            Scheduler(seed, Watching).go()
    assert {name for name, times in Watching.happened.items() if times} == {
        "page failed, atomic: True",
        "page failed, atomic: False",
        "page behind work that is not kept",
        "asked for another time",
        "careful, batch: True",
        "careful, batch: False",
        "commit refused",
        "rolled back to a savepoint",
        "reloaded",
    }


class MovesBehindThePageThatFailed(SliceOf):
    class kind(Slice):  # noqa: N801
        def decide_fail_page(self, shard: Shard, rows: Sequence[int]) -> Decision:
            self.work_done = Work(cursor=rows[-1].to_bytes(4), processed=self.work_done.processed + len(rows))
            return super().decide_fail_page(shard, rows)


class RepeatsThePageThatFailedAsAWhole(SliceOf):
    class kind(Slice):  # noqa: N801
        def decide_fail_page(self, shard: Shard, rows: Sequence[int]) -> Decision:
            return end_slice(shard, self.work_done, now=self.driver.now)


class BlamesTheLastRowOfThePageThatFailed(SliceOf):
    class kind(Slice):  # noqa: N801
        def fail_page(self, rows: Sequence[int]) -> Going:
            self.world.failed_alone[rows[-1]] -= 1
            return (yield from self.fail(rows[-1]))


class ForgetsWhatCameBeforeThePageThatFailed(SliceOf):
    class kind(Slice):  # noqa: N801
        def decide_fail_page(self, shard: Shard, rows: Sequence[int]) -> Decision:
            return super().decide_fail_page(replace(shard, cursor=None, processed=0), rows)


class ReadsBehindWhatIsKept(SliceOf):
    class kind(Slice):  # noqa: N801
        def read_page(self, size: int) -> Generator[float, None, list[int]]:
            yield LATENCY
            return self.world.page(self.shard.key_range, self.shard.cursor, size)


class CommitsWritesBesideTheCheckpoint(SliceOf):
    class kind(Slice):  # noqa: N801
        def commit(self, decision: Decision) -> None:
            if self.transaction is not None:
                effects, self.transaction.effects = self.transaction.effects, []
                self.world.commit_together(Transaction(effects=effects))
            super().commit(decision)


class CheckpointsBehindItsTransaction(SliceOf):
    class kind(Slice):  # noqa: N801
        def keep(self) -> Generator[float, None, None]:
            if self.transaction is None:
                yield from super().keep()


class KeepsWritesOfACallThatFailed(SliceOf):
    class kind(Slice):  # noqa: N801
        def roll_back(self, transaction: Transaction, kept: int) -> None:
            pass


class TakesARefusedCommitForAnOutage(SliceOf):
    class kind(Slice):  # noqa: N801
        def together(self, go: Going, refused: Callable[[], Going]) -> Going:
            def outage() -> Going:
                yield LATENCY
                raise StoreUnavailableError("refused")

            return (yield from super().together(go, outage))


class GoesOnFromWhatWasRolledBack(SliceOf):
    class kind(Slice):  # noqa: N801
        def reload(self) -> Generator[float, None, None]:
            yield LATENCY


class WritesOverACommitThatComesLate(SliceOf):
    class kind(Slice):  # noqa: N801
        def let_go(self) -> Generator[float, None, None]:
            with suppress(UnavailableError):
                yield from self.reload()
                yield from self.end()


BY_THE_PAGE: Final = [
    MovesBehindThePageThatFailed,
    RepeatsThePageThatFailedAsAWhole,
    BlamesTheLastRowOfThePageThatFailed,
    ForgetsWhatCameBeforeThePageThatFailed,
    ReadsBehindWhatIsKept,
]
TOGETHER: Final = [
    CommitsWritesBesideTheCheckpoint,
    CheckpointsBehindItsTransaction,
    KeepsWritesOfACallThatFailed,
    TakesARefusedCommitForAnOutage,
    GoesOnFromWhatWasRolledBack,
]


@pytest.mark.parametrize("mutant", BY_THE_PAGE, ids=lambda mutant: mutant.__name__)
def test_simulator_notices_a_driver_by_the_page_that(mutant: MakeDriver) -> None:
    assert first_violation(mutant, MUTANT_SIMULATIONS, fits=lambda world: world.batch) is not None


@pytest.mark.parametrize("mutant", TOGETHER, ids=lambda mutant: mutant.__name__)
def test_simulator_notices_a_driver_with_transactions_that(mutant: MakeDriver) -> None:
    assert first_violation(mutant, MUTANT_SIMULATIONS, fits=lambda world: world.atomic) is not None


def test_simulator_notices_a_driver_that_writes_over_a_commit_that_comes_late() -> None:
    assert first_violation(WritesOverACommitThatComesLate, MUTANT_SIMULATIONS, fits=_may_commit_late) is not None


def _may_commit_late(world: World) -> bool:
    return world.atomic and world.weather.store > 0.03
