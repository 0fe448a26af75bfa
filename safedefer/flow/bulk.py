"""Many calls at once: sealed one by one, sent a hundred at a time; what becomes of each is told for each."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from secrets import token_bytes
from typing import Final, final

from safedefer.core.function import RegisteredFunction
from safedefer.core.limits import MAX_BATCH_BYTES, MAX_BATCH_TASKS
from safedefer.core.names import TASK_ID_BYTES, QueueName, TaskId
from safedefer.core.options import TaskOptions
from safedefer.errors import ConfigurationError, PartlyDeferredError, SafeDeferError, TaskExistsError, UsageError
from safedefer.flow.defer import DeferredTask, SealedCall, discard_overflow, keep_body, record_deferred, seal_call
from safedefer.flow.outbox import ensure_sweeps
from safedefer.flow.runtime import Runtime

logger: Final = logging.getLogger("safedefer.defer")


@final
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Call:
    """A deferrable with its arguments, not yet deferred: `fn.bind(...)` makes one, `defer_many` sends them.

    It has its task id from the start, so that the same call given twice makes one task.
    """

    function: RegisteredFunction
    options: TaskOptions
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    task_id: TaskId

    def __repr__(self) -> str:
        return f"<Call of {self.function.name}>"


def bind_call(
    function: RegisteredFunction, options: TaskOptions, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> Call:
    """A call with a new identity."""
    task_id = TaskId(token_bytes(TASK_ID_BYTES))
    return Call(function=function, options=options, args=args, kwargs=kwargs, task_id=task_id)


@final
@dataclass(slots=True)
class _Batch:
    """Calls of one queue, and of one transaction or none, that go together."""

    calls: list[tuple[int, SealedCall]] = field(default_factory=list)
    size_bytes: int = 0

    def has_room(self, call: SealedCall) -> bool:
        fits = self.size_bytes + call.task.size_bytes <= MAX_BATCH_BYTES
        return not self.calls or (fits and len(self.calls) < MAX_BATCH_TASKS)


def defer_calls(runtime: Runtime, calls: Iterable[Call]) -> list[DeferredTask]:
    """Seal and send calls, those of one queue together.

    Returns:
        One handle for each call, in their order.
    Raises:
        PartlyDeferredError: Some were not deferred; it has what became of each.
    """
    # All are there before the first is sealed: code that makes them may open and end transactions of its own.
    given = list(calls)
    sending = _Sending(runtime)
    for call in given:
        sending.add(call)
    return sending.finish()


async def defer_calls_async(runtime: Runtime, calls: Iterable[Call]) -> list[DeferredTask]:
    """The same for a coroutine: everything that waits does so in a thread."""
    return await runtime.invoker.in_thread(lambda: defer_calls(runtime, calls))


@final
class _Sending:
    """One `defer_many` under way. Only calls that did not make it are remembered with their arguments."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._surroundings = runtime.surroundings.capture()
        self._results: list[DeferredTask | SafeDeferError | None] = []
        self._failed: dict[int, Call] = {}
        self._open: dict[int, Call] = {}
        self._batches: dict[tuple[QueueName, str | None], _Batch] = {}

    def add(self, call: Call) -> None:
        """Take one call; whenever a batch is full, it is sent."""
        index = len(self._results)
        self._results.append(None)
        self._open[index] = call
        try:
            sealed = self._seal(call)
            using = call.options.using
            key = (sealed.claims.audience.queue, using if self._runtime.commits.in_transaction(using) else None)
        except SafeDeferError as error:
            self._end(index, error)
            return
        batch = self._batches.setdefault(key, _Batch())
        if not batch.has_room(sealed):
            self._close(key)
            batch = self._batches.setdefault(key, _Batch())
        batch.calls.append((index, sealed))
        batch.size_bytes += sealed.task.size_bytes

    def finish(self) -> list[DeferredTask]:
        """Send what is left, and tell."""
        for key in list(self._batches):
            self._close(key)
        results = [result for result in self._results if result is not None]
        handles = [result for result in results if isinstance(result, DeferredTask)]
        if len(handles) < len(results):
            raise PartlyDeferredError(results, [call for _, call in sorted(self._failed.items())])
        return handles

    def _seal(self, call: Call) -> SealedCall:
        sealed = seal_call(
            self._runtime,
            call.function,
            call.options,
            call.args,
            call.kwargs,
            task_id=call.task_id,
            surroundings=self._surroundings,
        )
        keep_body(self._runtime, sealed)
        return sealed

    def _close(self, key: tuple[QueueName, str | None]) -> None:
        calls = self._batches.pop(key).calls
        using = key[1]
        if using is None:
            outcomes = send_batch(self._runtime, [call for _, call in calls])
            for (index, _), outcome in zip(calls, outcomes, strict=True):
                self._end(index, outcome)
        else:
            self._wait_for_commit(using, calls)

    def _wait_for_commit(self, using: str, calls: list[tuple[int, SealedCall]]) -> None:
        runtime = self._runtime
        now = int(runtime.clock.time())
        sealed = [call for _, call in calls]
        # A call that was given twice is one row, as it is one task.
        entries = {call.claims.task_id.hex(): call.task.envelope for call in sealed}
        try:
            waits = runtime.outbox.put_many(using, list(entries.items()), now)
        except SafeDeferError as error:
            for index, _ in calls:
                self._end(index, error)
            return
        if waits:
            ensure_sweeps(runtime)
        runtime.commits.on_commit(using, lambda: _send_committed(runtime, using, sealed, waits=waits))
        for index, call in calls:
            self._end(index, call.result(created=None))

    def _end(self, index: int, outcome: DeferredTask | SafeDeferError) -> None:
        call = self._open.pop(index)
        self._results[index] = outcome
        if isinstance(outcome, SafeDeferError):
            self._failed[index] = call


def send_batch(
    runtime: Runtime, calls: Sequence[SealedCall], *, waits: bool = False
) -> Sequence[DeferredTask | SafeDeferError]:
    """Create the tasks of sealed calls of one queue.

    Args:
        waits: The calls are in the outbox, so that a refusal is not their end.
    Returns:
        For each call its handle, or why it was not created.
    """
    outcomes = runtime.sender.send_many([call.task for call in calls])
    return [_told(runtime, call, outcome, waits=waits) for call, outcome in zip(calls, outcomes, strict=True)]


def _told(
    runtime: Runtime,
    call: SealedCall,
    outcome: bool | SafeDeferError,  # noqa: FBT001  # What the port says.
    *,
    waits: bool,
) -> DeferredTask | SafeDeferError:
    if isinstance(outcome, SafeDeferError):
        if isinstance(outcome, ConfigurationError | UsageError) and not waits:
            discard_overflow(runtime, call.claims)
        return outcome
    try:
        return record_deferred(runtime, call, created=outcome or call.options.name is None)
    except TaskExistsError as error:
        return error


def _send_committed(runtime: Runtime, using: str, calls: Sequence[SealedCall], *, waits: bool) -> None:
    """Send what has just committed; what stays in the outbox is the relay's."""
    outcomes = send_batch(runtime, calls, waits=waits)
    sent = [
        call.claims.task_id.hex()
        for call, outcome in zip(calls, outcomes, strict=True)
        if isinstance(outcome, DeferredTask | TaskExistsError)
    ]
    failures = [outcome for outcome in outcomes if isinstance(outcome, SafeDeferError)]
    if not waits:
        if failures:
            raise PartlyDeferredError(list(outcomes), ())
        return
    try:
        runtime.outbox.remove_many(using, sent)
    except SafeDeferError as error:
        failures.append(error)
    if failures:
        logger.warning("%s calls wait on in the outbox: %s", len(calls) - len(sent), failures[0])
