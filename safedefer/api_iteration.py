"""What an application calls to have a function called for every row: `defer_iteration_with_finalize`."""

import functools
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final, Generic, Literal, ParamSpec, TypeAlias, TypeVar, final

from safedefer.api import Deferrable
from safedefer.core.codec import encode_arguments
from safedefer.core.function import RegisteredFunction
from safedefer.core.iteration.description import Description
from safedefer.core.iteration.items import ItemPolicy, OnError
from safedefer.core.iteration.plan import BoundSource, Named, Plan, dump_plan
from safedefer.core.options import TaskOptions
from safedefer.core.registry import Registry
from safedefer.core.wire import unpack
from safedefer.errors import InvalidCallError, InvalidOptionError, UnregisteredFunctionError, UnsupportedQuerySetError
from safedefer.flow.iterations import Iteration, begin_iteration
from safedefer.flow.runtime import Runtime, current_runtime

__all__ = [
    "BoundQuerySet",
    "DeferrableQuerySet",
    "Iteration",
    "defer_iteration_with_finalize",
    "deferrable_queryset",
]

P = ParamSpec("P")
R = TypeVar("R")

queryset_functions: Final = Registry()
"""The queryset functions of this process."""

KeyRangesGetter: TypeAlias = Callable[..., Sequence[object]]
_MAX_SHARDS: Final = 1_000


@final
class BoundQuerySet:
    """A queryset function with its arguments: what an iteration walks. The queryset is made where it is walked."""

    def __init__(self, function: RegisteredFunction, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        self.function: RegisteredFunction = function
        self.args: tuple[object, ...] = args
        self.kwargs: dict[str, object] = kwargs

    def __repr__(self) -> str:
        return f"<BoundQuerySet of {self.function.name}>"


@final
class DeferrableQuerySet(Generic[P, R]):
    """A function that returns a queryset, registered for iterations. Called, it is still the plain function."""

    def __init__(self, function: Callable[P, R], registered: RegisteredFunction) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self.registered: RegisteredFunction = registered

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The queryset, here and now."""
        return self._function(*args, **kwargs)

    def bind(self, *args: P.args, **kwargs: P.kwargs) -> BoundQuerySet:
        """The queryset of these arguments, to be made where it is walked."""
        return BoundQuerySet(self.registered, args, kwargs)

    def __repr__(self) -> str:
        return f"<deferrable queryset {self.registered.name}>"


def deferrable_queryset(name: str, *, version: int = 1) -> Callable[[Callable[P, R]], DeferrableQuerySet[P, R]]:
    """Register a module-level function that returns a queryset.

    Args:
        name: Its name on the wire; it may be the name of a deferrable as well.
        version: Raise it when iterations under way must not walk another queryset.
    Raises:
        InvalidFunctionError: It is a method, lambda or nested function, or a parameter cannot travel.
        DuplicateFunctionError: Another queryset function has that name and version.
    """

    def register(function: Callable[P, R]) -> DeferrableQuerySet[P, R]:
        registered = RegisteredFunction(function, name=name, version=version)
        queryset_functions.register(registered)
        return DeferrableQuerySet(function, registered)

    return register


def defer_iteration_with_finalize(  # djangae's names, and two of ours.
    queryset: object,
    callback: Deferrable[Any],
    finalize: Deferrable[Any],
    *args: object,
    key_ranges_getter: KeyRangesGetter | None = None,
    order_field: str = "pk",
    _queue: str | None = None,
    _shards: int = 5,
    _delete_marker: bool = True,
    _transactional: bool = False,
    _using: str = "default",
    _deadline: float | timedelta | None = None,
    _on_error: str = "retry",
    _max_item_attempts: int = 3,
    _atomic: Literal["batch"] | None = None,
    **kwargs: object,
) -> Iteration:
    """Have `callback(row, *args, **kwargs)` called for every row, in shards, and then `finalize(*args, **kwargs)` once.

    A row is called for at least once; more than once only where a worker was stopped, or the call failed. `finalize` is
    completed once.

    Args:
        queryset: What a function under `@deferrable_queryset` has bound, or a queryset with plain filters.
        callback: Takes the row first.
        finalize: Called when every row is done.
        *args: For both.
        key_ranges_getter: See `safedefer.key_ranges`; called here. By default the plan task cuts the queryset.
        order_field: Along which it is walked; the primary key by default.
        _queue: Queue of all its tasks.
        _shards: How many key ranges are walked at once; 1 to 1,000.
        _delete_marker: Remove its records when it is done; False keeps them for 30 days.
        _transactional: As in `defer`.
        _using: As in `defer`.
        _deadline: Of one slice of a shard; it ends itself before.
        _on_error: What becomes of a row that has failed `_max_item_attempts` times: `retry` it, `skip` it, or `halt`.
        _max_item_attempts: How often a row is called for.
        _atomic: "batch" commits what the callback writes together with the checkpoint behind it, so that nothing of
            that is repeated. The records have to be in the database of the rows.
        **kwargs: For both.
    Returns:
        A handle: its progress, and pause, resume and cancel.
    Raises:
        UsageError: It cannot work; nothing was sent.
        ConfigurationError: safedefer is not configured, or the queue is missing.
        QueueUnavailableError: Cloud Tasks did not answer.
    """
    runtime = current_runtime()
    given = {
        "queue": _queue,
        "deadline": _deadline,
        "transactional": _transactional,
        "using": _using,
        "small_task": True,
    }
    if isinstance(_shards, bool) or not 1 <= _shards <= _MAX_SHARDS:
        raise InvalidOptionError(f"option _shards: 1 to {_MAX_SHARDS:,}")
    policy = ItemPolicy(max_attempts=_attempts(_max_item_attempts), on_error=_choice(_on_error))
    source, rows = _source(runtime, queryset)
    called = _registered(callback)
    ending = _registered(finalize)
    behind_the_row = called.parameters.without_first()
    if not called.parameters.takes_rows_of(runtime.querysets.model_of(rows)):
        raise InvalidCallError(
            f"{called.name} does not take rows of {runtime.querysets.model_of(rows).__qualname__} as its first argument"
        )
    encode_arguments(behind_the_row, args, kwargs, runtime.resolver)
    arguments = unpack(encode_arguments(ending.parameters, args, kwargs, runtime.resolver))
    ranges = None
    if key_ranges_getter is not None:
        ranges = tuple(runtime.querysets.cut(rows, order_field, _shards, key_ranges_getter))
    plan = Plan(
        source=source,
        callback=Named(name=called.name, version=called.version),
        finalize=Named(name=ending.name, version=ending.version),
        arguments=arguments,
        order_field=order_field,
        shards=_shards,
        key_ranges=ranges,
        policy=policy,
        keeps=not _delete_marker,
        atomic=_is_atomic(runtime, rows, _atomic),
    )
    try:
        body = dump_plan(plan)
    except ValueError as error:
        raise UnsupportedQuerySetError(f"this queryset cannot travel as it is: {error}") from None
    return begin_iteration(runtime, called, TaskOptions().merged(given), body)


def _source(runtime: Runtime, queryset: object) -> tuple[BoundSource | Description, object]:
    if isinstance(queryset, BoundQuerySet):
        function = queryset.function
        body = encode_arguments(function.parameters, queryset.args, queryset.kwargs, runtime.resolver)
        named = Named(name=function.name, version=function.version)
        rows = function.function(*queryset.args, **queryset.kwargs)
        return BoundSource(function=named, arguments=unpack(body)), rows
    return runtime.querysets.describe(queryset), queryset


def _registered(function: object) -> RegisteredFunction:
    if not isinstance(function, Deferrable):
        raise UnregisteredFunctionError(
            f"{getattr(function, '__qualname__', type(function).__qualname__)} is not registered; "
            "put @deferrable over its definition and pass what that returns"
        )
    registered: RegisteredFunction = function.registered
    return registered


def _attempts(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_SHARDS:
        raise InvalidOptionError("option _max_item_attempts: an int from 1 to 1,000")
    return value


def _is_atomic(runtime: Runtime, rows: object, value: str | None) -> bool:
    if value is None:
        return False
    if value != "batch":
        raise InvalidOptionError('option _atomic: "batch" or None')
    using = runtime.querysets.alias_of(rows)
    if runtime.records_using != using:
        where = (
            "no database of Django's" if runtime.records_using is None else f"the database {runtime.records_using!r}"
        )
        raise InvalidOptionError(
            f"option _atomic: rows are written to the database {using!r}, and the records of iterations to {where}; "
            "one transaction cannot hold both"
        )
    return True


def _choice(value: str) -> OnError:
    try:
        return OnError(value)
    except ValueError:
        raise InvalidOptionError(f"option _on_error: one of {', '.join(OnError)}") from None
