"""Calls a deferred function: its rows loaded, its surroundings restored, its failures told apart from ours."""

import logging
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Final

from safedefer.core.claims import Claims
from safedefer.core.codec import Arguments, DecodedArguments
from safedefer.core.control import Drop, Retry
from safedefer.core.function import RegisteredFunction
from safedefer.core.signing import VerifiedBody
from safedefer.errors import FunctionFailedError, Reason, ReferenceMissingError
from safedefer.flow.current import CurrentTask, executing
from safedefer.flow.dispatch import Dispatch
from safedefer.flow.runtime import Runtime

logger: Final = logging.getLogger("safedefer.task")


def load_arguments(runtime: Runtime, function: RegisteredFunction, decoded: DecodedArguments) -> Arguments:
    """The arguments, each reference replaced by its row.

    Raises:
        ReferenceMissingError: A row is gone; the detail is what the function says of that.
        UnavailableError: The database did not answer.
    """
    if not decoded.references:
        return decoded.build({})
    rows = runtime.resolver.resolve(decoded.references)
    if any(reference not in rows for reference in decoded.references):
        raise ReferenceMissingError(Reason.REFERENCE_MISSING, function.missing)
    return decoded.build(rows)


def describe_task(runtime: Runtime, claims: Claims, dispatch: Dispatch, attempt: int) -> CurrentTask:
    """What a function may know of the task that calls it."""
    now = datetime.fromtimestamp(runtime.clock.time(), UTC)
    return CurrentTask(
        claims=claims,
        name=dispatch.task_name or "",
        attempt=attempt,
        retry_count=dispatch.retries or 0,
        execution_count=dispatch.executions or 0,
        deadline=now + timedelta(seconds=claims.deadline_seconds),
    )


@contextmanager
def within(runtime: Runtime, claims: Claims, task: CurrentTask) -> Iterator[None]:
    """Let the block know its task, in the surroundings of whoever deferred it."""
    token = executing.set(task)
    try:
        with runtime.surroundings.restored(claims.surroundings):
            yield
    finally:
        executing.reset(token)


def call_function(
    runtime: Runtime, function: RegisteredFunction, body: VerifiedBody, arguments: Arguments, task: CurrentTask
) -> None:
    """Call the function of a task. It takes a VerifiedBody as proof that the checks were made.

    Raises:
        FunctionFailedError: The function raised; its exception is the cause.
    """
    with within(runtime, body.claims, task):
        call_verified(runtime, function, body, arguments)


def call_verified(runtime: Runtime, function: RegisteredFunction, body: VerifiedBody, arguments: Arguments) -> None:
    """Call a function that a verified body names, where its task is known already.

    Raises:
        FunctionFailedError: The function raised; its exception is the cause.
    """
    try:
        runtime.invoker.call(function.function, arguments.args, arguments.kwargs)
    except (KeyboardInterrupt, GeneratorExit):  # The process is ending.
        raise
    except BaseException as error:  # The function may raise anything, such as CancelledError; each means a retry.
        raise failure_of(runtime, function, body, error) from error


def call_verified_for_each(
    runtime: Runtime, function: RegisteredFunction, body: VerifiedBody, firsts: Iterable[object], arguments: Arguments
) -> None:
    """Call a function that a verified body names for one first argument after another.

    Args:
        firsts: As `Invoker.call_each` wants them; what was not asked for was not called for.
        arguments: Those behind the first.
    Raises:
        FunctionFailedError: The function raised for the last one that was asked for; its exception is the cause.
    """
    try:
        runtime.invoker.call_each(function.function, firsts, arguments.args, arguments.kwargs)
    except (KeyboardInterrupt, GeneratorExit):  # As above.
        raise
    except BaseException as error:  # As above.
        raise failure_of(runtime, function, body, error) from error


def make_queryset(runtime: Runtime, function: RegisteredFunction, body: VerifiedBody, arguments: Arguments) -> object:
    """What a queryset function returns that a verified body names.

    Raises:
        FunctionFailedError: The function raised; its exception is the cause.
    """
    try:
        return function.function(*arguments.args, **arguments.kwargs)
    except (KeyboardInterrupt, GeneratorExit):  # As above.
        raise
    except BaseException as error:  # As above.
        raise failure_of(runtime, function, body, error) from error


def failure_of(
    runtime: Runtime, function: RegisteredFunction, body: VerifiedBody, error: BaseException, what: str = "failed"
) -> FunctionFailedError:
    """The failure of a function, reported unless it has asked for it."""
    failure = FunctionFailedError(f"{function.name} {what} in task {body.claims.task_id.hex()}")
    failure.__cause__ = error
    if not isinstance(error, Drop | Retry):
        _report(runtime, function, body, failure)
    return failure


def _report(runtime: Runtime, function: RegisteredFunction, body: VerifiedBody, failure: FunctionFailedError) -> None:
    if failure.__cause__ is not None:
        log_failure(str(failure), failure.__cause__)
    try:
        runtime.failures.failed(function.name, body.claims.task_id.hex(), failure)
    except Exception as error:  # noqa: BLE001  # An error reporter must not change what becomes of the task.
        log_failure("reporting a failed task failed", error)


def log_failure(what: str, error: BaseException) -> None:
    """Log where an error came from. Its message and its locals may hold arguments, and stay out."""
    logger.error("%s: %s\n%s", what, type(error).__qualname__, _places(error.__traceback__))


def _places(trace: TracebackType | None) -> str:
    frames = traceback.extract_tb(trace)
    return "\n".join(f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)
