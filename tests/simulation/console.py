"""What a person, or a cron job, does to an iteration."""

from collections.abc import Callable, Generator

from safedefer.core.iteration.decisions import Command, CreateFinalize, CreateSlice, Decision
from safedefer.core.iteration.operations import (
    cancel_run,
    pause_run,
    resume_run,
    sweep_run,
    sweep_shard,
    wake_shard,
)
from safedefer.core.iteration.rows import parse_shard, shard_key
from safedefer.core.iteration.state import Run, RunState
from safedefer.errors import IterationError, QueueUnavailableError, RecordConflictError, StoreUnavailableError
from tests.simulation.driver import Driver
from tests.simulation.slices import Rule
from tests.simulation.world import LATENCY, Steps


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
                found = self.world.get([key])
                if key not in found:
                    return
                decision = rule(run, parse_shard(found[key]))
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
