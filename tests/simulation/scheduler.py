"""Runs one seed: delivers tasks, advances workers, kills and freezes them, and looks at what has become of it all."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from safedefer.core.iteration.items import OnError
from safedefer.core.iteration.state import RunState
from safedefer.core.limits import ITERATION_SILENCE
from safedefer.errors import UnavailableError
from tests.simulation.console import Console, is_over
from tests.simulation.driver import Driver
from tests.simulation.world import KilledError, Process, Task, ViolationError, World

CHAOS_STEPS: Final = 1_500
MOST_STEPS: Final = 30_000
MOST_SECONDS: Final = 14 * 86_400
BACKOFF_SECONDS: Final = 20.0

MakeDriver = Callable[[World, Process], Driver]


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What a seed came to, for counting."""

    steps: int
    deliveries: int
    kills: int
    state: RunState
    repeated: int


class Scheduler:
    """One seed."""

    def __init__(self, seed: int, make_driver: MakeDriver = Driver, console: type[Console] = Console) -> None:
        self.world = World(seed)
        self.dice = self.world.dice
        self.make_driver = make_driver
        self.console = console
        self.deliveries = self.kills = self.steps = 0
        self.began = self.world.now
        plan = Task(name="plan", id=self.world.run_id, purpose="plan")
        self.world.queue[plan.name] = plan

    def go(self) -> Ending:
        """Run the seed to its end.

        Raises:
            ViolationError: What the protocol rules out has happened.
        """
        while not self.is_at_rest() or self.stir():
            self.steps += 1
            self.world.chaos = self.steps < CHAOS_STEPS
            if self.steps > MOST_STEPS or self.world.now - self.began > MOST_SECONDS:
                raise ViolationError("it does not come to an end")
            self.step()
        return self.judge()

    def is_at_rest(self) -> bool:
        return not self.world.queue and not self.world.processes and not self.world.late

    def stir(self) -> bool:
        """What a person would do about an iteration that stands still; False where it is over."""
        world = self.world
        run = world.run()
        if is_over(run):
            return False
        if run is None:
            raise ViolationError("nothing was ever planned")
        world.resumes += 1
        if world.resumes > 50:
            raise ViolationError("it stands still again and again")
        if run.state in {RunState.PAUSED, RunState.HALTED}:
            world.mend()
            self.operate("resume")
        elif world.weather.drop:
            world.now += ITERATION_SILENCE.total_seconds()
            self.operate("sweep")
        else:
            raise ViolationError(f"it stands still: {run.state.value}, {len(run.open)} shards open")
        return True

    def operate(self, action: str) -> None:
        """A person, or a cron job, gives a command."""
        process = Process(task=None, skew=0.0, ready_at=self.world.now, started=self.world.now)
        process.steps = getattr(self.console(self.world, process), action)()
        self.world.processes.append(process)

    def step(self) -> None:
        """One event: of the weather, a delivery, or one action of one worker."""
        world, dice = self.world, self.dice
        world.settle_late_commits()
        if world.chaos:
            self.misfortune()
        ready = [process for process in world.processes if process.ready_at <= world.now]
        tasks = [task for task in world.queue.values() if task.at <= world.now and self.may_deliver(task)]
        if tasks and (not ready or dice.random() < 0.4):
            self.dispatch(dice.choice(tasks))
        elif ready:
            self.advance(dice.choice(ready))
        elif world.processes or world.queue or world.late:
            times = [process.ready_at for process in world.processes]
            times += [task.at for task in world.queue.values() if not self.carriers(task)]
            times += [
                process.started + world.deadline
                for task in world.queue.values()
                for process in self.carriers(task)
                if process.started + world.deadline > world.now
            ]
            times += [at for at, _ in world.late]
            world.now = max(world.now + 0.001, min((time for time in times if time > world.now), default=world.now))

    def misfortune(self) -> None:
        world, dice, weather = self.world, self.dice, self.world.weather
        workers = [process for process in world.processes if process.task is not None]
        if workers and dice.random() < weather.kill:
            self.bury(dice.choice(workers))
        if world.processes and dice.random() < weather.freeze:
            frozen = dice.choice(world.processes)
            frozen.ready_at = max(frozen.ready_at, world.now) + dice.choice([40, 200, 800, 2_000])
        if world.run() is not None and dice.random() < weather.pause:
            self.operate(dice.choice(["pause", "resume"]))
        if world.run() is not None and dice.random() < weather.cancel:
            self.operate("cancel")
        if weather.drop and dice.random() < weather.drop:
            self.drop_something()

    def drop_something(self) -> None:
        """A queue gives up on a task; a person's command is interrupted."""
        world, dice = self.world, self.dice
        names = [name for name, task in world.queue.items() if task.purpose != "plan"]
        people = [process for process in world.processes if process.task is None]
        if people and dice.random() < 0.5:
            world.processes.remove(dice.choice(people))
        elif names:
            world.remove(dice.choice(names))

    def carriers(self, task: Task) -> list[Process]:
        return [process for process in self.world.processes if process.task is task]

    def may_deliver(self, task: Task) -> bool:
        """Whether no worker has it, or the queue has given up on those that have, or it is delivered twice."""
        running = [one for one in self.carriers(task) if one.started + self.world.deadline > self.world.now]
        if not running:
            return True
        return self.world.chaos and len(running) < 3 and self.dice.random() < self.world.weather.duplicate / 10

    def dispatch(self, task: Task) -> None:
        world = self.world
        self.deliveries += 1
        process = Process(task=task, skew=self.dice.random() * 30, ready_at=world.now, started=world.now)
        process.steps = self.make_driver(world, process).deliver(task)
        world.processes.append(process)

    def advance(self, process: Process) -> None:
        """One action of one worker."""
        world = self.world
        try:
            process.ready_at = world.now + next(process.steps) * (0.5 + self.dice.random())
        except KilledError:
            self.bury(process)
        except UnavailableError as error:
            # What a person's command or a handler lets through is an internal error: 503.
            del error
            self.end(process, answered=False)
        except StopIteration as stop:
            self.end(process, answered=bool(stop.value))

    def end(self, process: Process, *, answered: bool) -> None:
        world = self.world
        world.processes.remove(process)
        world.excused.update(process.unsaved)
        task = process.task
        if task is None or world.queue.get(task.name) is not task:
            return
        if process.started + world.deadline < world.now:
            return  # The queue has not waited for the answer.
        lost = world.chaos and self.dice.random() < world.weather.lost_answer
        if answered and not lost:
            world.remove(task.name)
        else:
            task.at = max(task.at, world.now + BACKOFF_SECONDS * self.dice.random())

    def bury(self, process: Process) -> None:
        """The process is gone, without a word."""
        self.kills += 1
        process.steps.close()
        self.world.processes.remove(process)
        self.world.excused.update(process.unsaved)
        if process.task is not None:
            process.task.at = max(process.task.at, self.world.now + 1.0)

    def judge(self) -> Ending:
        """Whether everything is as promised."""
        world, run = self.world, self.world.run()
        assert run is not None
        if run.state is RunState.DONE:
            self.judge_rows()
            _check(run.processed + run.skipped == len(world.rows), f"{run.processed}, {run.skipped} rows counted")
            _check(not run.open, "done with an open shard")
            _check(world.completions == 1, f"completed {world.completions} times")
            _check(world.finalize_starts > 0, "never finalized")
            if not world.weather.drop:
                _check(len(world.finalize_names) == 1, f"{len(world.finalize_names)} finalize tasks")
        else:
            _check(bool(world.weather.cancel), "cancelled by nobody")
        for row, count in world.seen.items():
            once = count + (row in world.skipped)
            _check(once == 1 or not world.atomic, "what a call has written was committed again, or although it failed")
        repeated = sum(count - 1 for count in world.seen.values())
        return Ending(
            steps=self.steps, deliveries=self.deliveries, kills=self.kills, state=run.state, repeated=repeated
        )

    def judge_rows(self) -> None:
        world = self.world
        _check(not world.unhandled(), f"{len(world.unhandled())} rows lost")
        _check(not world.skipped or world.policy.on_error is OnError.SKIP, "a row was skipped against the policy")
        for row, count in world.seen.items():
            _check(
                world.atomic or count <= 1 + world.excused[row],
                "a row was repeated although nothing went wrong in its batch",
            )


def _check(holds: bool, complaint: str) -> None:
    if not holds:
        raise ViolationError(complaint)
