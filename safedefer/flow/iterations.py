"""An iteration from outside: begun, looked at, paused, resumed, cancelled."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol, final

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
from safedefer.core.iteration.state import Run, Shard
from safedefer.core.names import TaskId, parse_task_id
from safedefer.core.options import TaskOptions
from safedefer.core.records import RecordKind
from safedefer.errors import IterationError, RecordConflictError, SafeDeferError, StoreUnavailableError
from safedefer.flow.defer import keep_body, seal_body, send_after_commit, send_call
from safedefer.flow.iteration_tasks import create_iteration_task
from safedefer.flow.iteration_walk import find_walk, function_of, read_run
from safedefer.flow.runtime import Runtime, current_runtime

logger: Final = logging.getLogger("safedefer.iteration")
_TRIES: Final = 8
_PAGE: Final = 100


class _ShardRule(Protocol):
    """A rule of `core.iteration.operations` for one shard."""

    def __call__(self, run: Run, shard: Shard, *, now: float) -> Decision: ...


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
        change_run(current_runtime(), self.run_id, lambda run, now: pause_run(run, now=now))

    def resume(self) -> None:
        """Go on after a pause, or a halt.

        Raises:
            IterationError: There is none of this id, or it has ended.
        """
        runtime = current_runtime()
        run = change_run(runtime, self.run_id, lambda run, now: resume_run(run, now=now))
        for index in sorted(run.open):
            _change_shard(runtime, run, index, wake_shard)

    def cancel(self) -> None:
        """End it without its finalize.

        Raises:
            IterationError: There is none of this id, or it is done.
        """
        change_run(current_runtime(), self.run_id, lambda run, now: cancel_run(run, now=now))

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


def list_runs(runtime: Runtime) -> Iterator[Run]:
    """Every iteration whose records are there.

    Raises:
        StoreUnavailableError: The store did not answer.
    """
    after = ""
    while page := runtime.records.scan(RecordKind.RUN, after=after, limit=_PAGE):
        yield from map(parse_run, page)
        after = page[-1].key.id


def progress_of(runtime: Runtime, run: Run) -> Progress:
    """How far a run is.

    Raises:
        StoreUnavailableError: The store did not answer.
    """
    shards = [parse_shard(record) for record in runtime.records.get(open_shard_keys(run)).values()]
    return measure_progress(run, shards, now=runtime.clock.time())


def change_run(runtime: Runtime, run_id: TaskId, rule: Callable[[Run, float], Decision]) -> Run:
    """Have a rule change a run, on top of whatever was written beside it; gives the run as it is then.

    Raises:
        IterationError: There is no such run, or the rule refuses.
        StoreUnavailableError: The store did not answer.
    """
    for _ in range(_TRIES):
        run = read_run(runtime, run_id)
        if run is None:
            raise IterationError("there is no such iteration, or not yet")
        decision = rule(run, runtime.clock.time())
        if decision.changes:
            try:
                runtime.records.commit(decision.changes)
            except RecordConflictError:
                continue
        changed = decision.run or run
        _create(runtime, changed, decision.commands)
        return changed
    raise StoreUnavailableError("others were always first to change an iteration")


def sweep_iterations(runtime: Runtime) -> Sweep:
    """Give what has shown no sign of life for `ITERATION_SILENCE` a new task: a queue has lost the former one.

    Raises:
        StoreUnavailableError: The store did not answer.
    """
    woken = failed = 0
    for run in list_runs(runtime):
        try:
            woken += _sweep(runtime, run)
        except SafeDeferError as error:
            failed += 1
            logger.warning("iteration %s could not be swept: %s", run.id.hex(), error)
    return Sweep(woken=woken, failed=failed)


def _sweep(runtime: Runtime, run: Run) -> int:
    woken = _create(runtime, run, sweep_run(run, now=runtime.clock.time()).commands)
    return woken + sum(_change_shard(runtime, run, index, sweep_shard) for index in sorted(run.open))


def _change_shard(runtime: Runtime, run: Run, index: int, rule: _ShardRule) -> int:
    """Have a rule change a shard; gives how many tasks it has created."""
    key = shard_key(run.id, index)
    for _ in range(_TRIES):
        record = runtime.records.get([key]).get(key)
        if record is None:
            return 0
        decision = rule(run, parse_shard(record), now=runtime.clock.time())
        try:
            if decision.changes:
                runtime.records.commit(decision.changes)
        except RecordConflictError:
            continue
        return _create(runtime, run, decision.commands)
    raise StoreUnavailableError("others were always first to change a shard")


def _create(runtime: Runtime, run: Run, commands: tuple[Command, ...]) -> int:
    wanted = [command for command in commands if isinstance(command, CreateSlice | CreateFinalize)]
    if wanted:
        walk = find_walk(runtime, run)
        for command in wanted:
            create_iteration_task(runtime, walk.claims, run, command, function_of(walk, command).ref)
    return len(wanted)


def _parse(text: str) -> TaskId:
    try:
        return parse_task_id(bytes.fromhex(text))
    except ValueError:
        raise IterationError("an id of an iteration is 32 hex digits") from None
