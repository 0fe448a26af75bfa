"""An iteration from outside: begun, looked at, paused, resumed, cancelled, swept."""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, final

from safedefer.core.claims import TaskType
from safedefer.core.function import RegisteredFunction
from safedefer.core.iteration.decisions import Command, CreateFinalize, CreateSlice, Decision
from safedefer.core.iteration.operations import (
    cancel_run,
    pause_run,
    resume_run,
    sweep_run,
    sweep_shard,
    wake_shard,
)
from safedefer.core.iteration.progress import Progress, measure_progress
from safedefer.core.iteration.rows import open_shard_keys, parse_run, parse_shard, shard_key
from safedefer.core.iteration.state import Run, RunState, Shard
from safedefer.core.names import TaskId, parse_task_id
from safedefer.core.options import TaskOptions
from safedefer.core.records import Record, RecordKind
from safedefer.errors import (
    IterationError,
    RecordConflictError,
    RejectedError,
    SafeDeferError,
    StoreUnavailableError,
    UnavailableError,
    UnknownFunctionError,
)
from safedefer.flow.defer import keep_body, seal_body, send_after_commit, send_call
from safedefer.flow.iteration_tasks import create_iteration_task
from safedefer.flow.iteration_walk import Walk, find_walk, function_of, read_run
from safedefer.flow.runtime import Runtime, current_runtime

logger: Final = logging.getLogger("safedefer.iteration")
_TRIES: Final = 8
_PAGE: Final = 100
_MOST_OUTAGES: Final = 5
"""Shards in a row whose task could not be made, after which the store or the queue is taken to be gone."""

_RUN_ID: Final = re.compile("[0-9a-f]{32}")
_SHOWN_HEX: Final = 64

_Wanted: TypeAlias = Sequence[CreateSlice | CreateFinalize]


class _ShardRule(Protocol):
    """A rule of `core.iteration.operations` for one shard."""

    def __call__(self, run: Run, shard: Shard, *, now: float) -> Decision: ...


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableRun:
    """What stands in the store in the place of an iteration, and is none.

    Attributes:
        id: Fit to be shown: the id of an iteration, or the hex digits of what is no such id.
        problem: What is wrong with it.
    """

    id: str
    problem: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What a sweep has done.

    Attributes:
        woken: Tasks that were created anew.
        failed: Iterations that could not be looked after; the log says why.
    """

    woken: int
    failed: int


@final
class Iteration:
    """A handle of one iteration.

    Attributes:
        id: Its identity, in hex.
        run_id: The same as bytes: the task id of its plan.
    """

    def __init__(self, id: str) -> None:  # noqa: A002  # What it is called everywhere.
        self.id: str = id
        self.run_id: TaskId = _parse(id)

    def progress(self) -> Progress | None:
        """How far it is; None before its plan task has run, and after its records were removed.

        Raises:
            StoreUnavailableError: The store did not answer.
        """
        runtime = current_runtime()
        run = read_run(runtime, self.run_id)
        return None if run is None else progress_of(runtime, run)

    def pause(self) -> None:
        """Let no slice begin; those under way end at their next checkpoint.

        Raises:
            IterationError: There is none of this id, or it has ended.
        """
        _Operator(current_runtime()).change_run(self.run_id, lambda run, now: pause_run(run, now=now))

    def resume(self) -> None:
        """Go on after a pause, or a halt.

        Raises:
            IterationError: There is none of this id, it has ended, or its plan cannot be carried out here.
            UnavailableError: Some of its shards could not be woken; all others were. It may be repeated.
        """
        operator = _Operator(current_runtime())

        def rule(run: Run, now: float) -> Decision:
            decision = resume_run(run, now=now)
            operator.prepare(run)  # Or else it would stand still as one that is running.
            return decision

        operator.wake(operator.change_run(self.run_id, rule), wake_shard)

    def cancel(self) -> None:
        """End it without its finalize.

        Raises:
            IterationError: There is none of this id, or it is done.
        """
        _Operator(current_runtime()).change_run(self.run_id, lambda run, now: cancel_run(run, now=now))

    def __repr__(self) -> str:
        return f"<Iteration {self.id}>"


def begin_iteration(runtime: Runtime, callback: RegisteredFunction, options: TaskOptions, body: bytes) -> Iteration:
    """Seal and send a plan: now, or once the transaction that is open on its alias has committed.

    Raises:
        UsageError: It cannot work, or is too large for a task.
        ConfigurationError: No such queue, or Cloud Tasks refuses the task.
        QueueUnavailableError: Cloud Tasks did not answer.
    """
    call = seal_body(runtime, TaskType.PLAN, callback, options, body)
    keep_body(runtime, call)
    if runtime.commits.in_transaction(options.using):
        send_after_commit(runtime, call)
    else:
        send_call(runtime, call)
    return Iteration(call.claims.task_id.hex())


def list_runs(runtime: Runtime) -> Iterator[Run | UnreadableRun]:
    """Every iteration whose records are there.

    Raises:
        StoreUnavailableError: The store did not answer.
    """
    after = ""
    while page := runtime.records.scan(RecordKind.RUN, after=after, limit=_PAGE):
        yield from map(_parse_run, page)
        after = page[-1].key.id


def _parse_run(record: Record) -> Run | UnreadableRun:
    try:
        return parse_run(record)
    except StoreUnavailableError as error:
        return UnreadableRun(id=_shown(record.key.id), problem=str(error))


def _shown(record_id: str) -> str:
    """An id that somebody else may have written: a log and a terminal get hex digits and nothing else."""
    if _RUN_ID.fullmatch(record_id):
        return record_id
    digits = record_id.encode(errors="backslashreplace").hex()
    return f"(no id: {digits[:_SHOWN_HEX]}{'...' if len(digits) > _SHOWN_HEX else ''})"


def progress_of(runtime: Runtime, run: Run) -> Progress:
    """How far a run is.

    Raises:
        StoreUnavailableError: The store did not answer.
    """
    shards = [parse_shard(record) for record in runtime.records.get(open_shard_keys(run)).values()]
    return measure_progress(run, shards, now=runtime.clock.time())


def sweep_iterations(runtime: Runtime) -> Sweep:
    """Give what has shown no sign of life for `ITERATION_SILENCE` a new task: a queue has lost the former one.

    Raises:
        StoreUnavailableError: The store did not answer.
    """
    woken = failed = 0
    for run in list_runs(runtime):
        if isinstance(run, UnreadableRun):
            failed += 1
            logger.warning("iteration %s could not be swept: %s", run.id, run.problem)
            continue
        operator = _Operator(runtime)
        try:
            operator.carry_out(run, sweep_run(run, now=runtime.clock.time()))
            operator.wake(run, sweep_shard)
        except SafeDeferError as error:
            failed += 1
            logger.warning("iteration %s could not be swept: %s", run.id.hex(), error)
        woken += operator.created
    return Sweep(woken=woken, failed=failed)


@final
class _Operator:
    """Changes one iteration, and makes its tasks anew. Its plan is verified once, and before anything is written.

    Attributes:
        created: How many tasks.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.created: int = 0
        self._runtime = runtime
        self._walk: Walk | None = None

    def prepare(self, run: Run) -> Walk:
        """Find what tasks are made from.

        Raises:
            IterationError: The plan is not the one that was sealed, or cannot be carried out here.
            StoreUnavailableError: It is not there.
        """
        if self._walk is None:
            try:
                self._walk = find_walk(self._runtime, run)
            except UnknownFunctionError as error:
                raise IterationError(
                    f"its tasks cannot be made where its function is not registered ({error}); "
                    "deploy it again, or cancel the iteration"
                ) from error
            except RejectedError as error:
                raise IterationError(
                    f"its tasks cannot be made from a plan that cannot be verified ({error}); "
                    "if its key is gone, bring that back, or cancel the iteration"
                ) from error
        return self._walk

    def carry_out(self, run: Run, decision: Decision) -> None:
        """Write what a rule has decided, and create the tasks that it asks for.

        Raises:
            IterationError, StoreUnavailableError: As for `prepare`.
            RecordConflictError: Another writer was first; nothing was done.
            QueueUnavailableError: A task could not be created.
        """
        wanted = _wanted(decision.commands)
        if wanted:
            self.prepare(run)
        if decision.changes:
            self._runtime.records.commit(decision.changes)
        for command in wanted:
            walk = self.prepare(run)
            create_iteration_task(self._runtime, walk.claims, run, command, function_of(walk, command).ref)
            self.created += 1

    def change_run(self, run_id: TaskId, rule: Callable[[Run, float], Decision]) -> Run:
        """Have a rule change the run, on top of whatever was written beside it; gives the run as it is then.

        Raises:
            IterationError: There is no such run, or the rule refuses.
            UnavailableError: The store or the queue did not answer.
        """
        for _ in range(_TRIES):
            run = read_run(self._runtime, run_id)
            if run is None:
                raise IterationError("there is no such iteration, or not yet")
            decision = rule(run, self._runtime.clock.time())
            changed = decision.run or run
            with suppress(RecordConflictError):
                self.carry_out(changed, decision)
                return changed
        raise StoreUnavailableError("others were always first to change an iteration")

    def wake(self, run: Run, rule: _ShardRule) -> None:
        """Make a task for each shard that a rule has one for: one that fails does not hold up the others.

        Raises:
            IterationError, StoreUnavailableError: As for `prepare`.
            UnavailableError: Of the first shard that has failed, when all others are done.
        """
        if run.state is not RunState.RUNNING:
            return
        problem: UnavailableError | None = None
        due: list[Shard] = []
        for record in self._runtime.records.get(open_shard_keys(run)).values():
            try:
                shard = parse_shard(record)
            except StoreUnavailableError as error:
                problem = problem or error
            else:
                if _wanted(rule(run, shard, now=self._runtime.clock.time()).commands):
                    due.append(shard)
        if due:
            self.prepare(run)
        outages = 0
        for shard in sorted(due, key=lambda shard: shard.index):
            try:
                self._wake(run, shard, rule)
            except UnavailableError as error:
                problem, outages = problem or error, outages + 1
                if outages == _MOST_OUTAGES:
                    break
            else:
                outages = 0
        if problem is not None:
            raise problem

    def _wake(self, run: Run, shard: Shard, rule: _ShardRule) -> None:
        key = shard_key(run.id, shard.index)
        for _ in range(_TRIES):
            with suppress(RecordConflictError):
                self.carry_out(run, rule(run, shard, now=self._runtime.clock.time()))
                return
            record = self._runtime.records.get([key]).get(key)
            if record is None:
                return
            shard = parse_shard(record)
        raise StoreUnavailableError("others were always first to change a shard")


def _wanted(commands: Sequence[Command]) -> _Wanted:
    return [command for command in commands if isinstance(command, CreateSlice | CreateFinalize)]


def _parse(text: str) -> TaskId:
    try:
        return parse_task_id(bytes.fromhex(text))
    except ValueError:
        raise IterationError("an id of an iteration is 32 hex digits") from None
