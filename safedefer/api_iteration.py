"""What an application calls to have a function called for every row: `defer_iteration_with_finalize`."""

import functools
from collections.abc import Callable
from datetime import timedelta
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Final,
    Generic,
    Literal,
    ParamSpec,
    TypeAlias,
    TypedDict,
    TypeVar,
    TypeVarTuple,
    Unpack,
    final,
    overload,
)

from safedefer.api import Deferrable, Deferring
from safedefer.core.codec import encode_arguments
from safedefer.core.function import RegisteredFunction
from safedefer.core.iteration.description import Description
from safedefer.core.iteration.options import KeyRangesGetter, split_walk_options
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
    "IterationOptions",
    "defer_iteration_with_finalize",
    "deferrable_queryset",
]

if TYPE_CHECKING:
    from django.db.models import Model, QuerySet

MYPY = False  # mypy takes a name MYPY as true.

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
M = TypeVar("M", bound="Model")
Ts = TypeVarTuple("Ts")

queryset_functions: Final = Registry()
"""The queryset functions of this process."""


@final
class BoundQuerySet(Generic[R_co]):
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

    def bind(self, *args: P.args, **kwargs: P.kwargs) -> BoundQuerySet[R]:
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


Walked: TypeAlias = "QuerySet[M] | BoundQuerySet[QuerySet[M]]"
Callback: TypeAlias = (
    "Deferrable[Callable[Concatenate[M, P], Any]] | Deferrable[Callable[Concatenate[list[M], P], Any]]"
)


class IterationOptions(TypedDict, total=False):
    """What `defer_iteration_with_finalize` takes beside the arguments of its functions.

    Attributes:
        key_ranges_getter: See `safedefer.key_ranges`; called here. By default the plan task cuts the queryset.
        order_field: Along which it is walked; the primary key by default.
        _queue: Queue of all its tasks.
        _shards: How many key ranges are walked at once; 1 to 1,000.
        _delete_marker: Remove its records when it is done; False keeps them for 90 days.
        _transactional: As in `defer`.
        _using: As in `defer`.
        _deadline: Of one slice of a shard; it ends itself before.
        _on_error: What becomes of a row that has failed `_max_item_attempts` times: `retry` it, `skip` it, or `halt`.
        _max_item_attempts: How often a row is called for.
        _atomic: "batch" commits what the callback writes together with the checkpoint behind it, so that nothing of
            that is repeated. The records have to be in the database of the rows.
    """

    key_ranges_getter: KeyRangesGetter
    order_field: str
    _queue: str
    _shards: int
    _delete_marker: bool
    _transactional: bool
    _using: str
    _deadline: float | timedelta
    _on_error: Literal["retry", "skip", "halt"]
    _max_item_attempts: int
    _atomic: Literal["batch"]


if MYPY:

    def defer_iteration_with_finalize(  # pyright: ignore[reportRedeclaration]
        queryset: "Walked[M]",
        callback: "Callback[M, P]",
        finalize: Deferring[P],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Iteration:
        raise NotImplementedError


if not MYPY:

    @overload
    def defer_iteration_with_finalize(
        queryset: "Walked[M]",
        callback: "Callback[M, P]",
        finalize: Deferrable[Callable[P, Any]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Iteration: ...
    @overload
    def defer_iteration_with_finalize(
        queryset: "Walked[M]",
        callback: Deferrable[Callable[[M, Unpack[Ts]], Any]] | Deferrable[Callable[[list[M], Unpack[Ts]], Any]],
        finalize: Deferrable[Callable[[Unpack[Ts]], Any]],
        /,
        *args: Unpack[Ts],
        **options: Unpack[IterationOptions],
    ) -> Iteration: ...
    @overload
    def defer_iteration_with_finalize(
        queryset: "Walked[M]",
        callback: "Callback[M, P]",
        finalize: Deferrable[Callable[P, Any]],
        /,
        *args: P.args,
        key_ranges_getter: KeyRangesGetter = ...,  # pyright: ignore[reportGeneralTypeIssues]
        order_field: str = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _queue: str = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _shards: int = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _delete_marker: bool = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _transactional: bool = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _using: str = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _deadline: float | timedelta = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _on_error: Literal["retry", "skip", "halt"] = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _max_item_attempts: int = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _atomic: Literal["batch"] = ...,  # pyright: ignore[reportGeneralTypeIssues]
        **kwargs: P.kwargs,
    ) -> Iteration: ...
    def defer_iteration_with_finalize(
        queryset: object,
        callback: Deferrable[Any],
        finalize: Deferrable[Any],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Iteration:
        """Have `callback(row, *args, **kwargs)` called for every row, in shards; then `finalize(*args, **kwargs)` once.

        A row is called for at least once; more than once only where a worker was stopped, or the call failed.
        `finalize` is completed once.

        Args:
            queryset: What a function under `@deferrable_queryset` has bound, or a queryset with plain filters.
            callback: Takes the row first.
            finalize: Called when every row is done.
            *args: For both.
            **kwargs: For both, and the options of `IterationOptions`.
        Returns:
            A handle: its progress, and pause, resume and cancel.
        Raises:
            UsageError: It cannot work; nothing was sent.
            ConfigurationError: safedefer is not configured, or the queue is missing.
            QueueUnavailableError: Cloud Tasks did not answer.
        """
        return _defer_iteration(queryset, callback, finalize, args, kwargs)


def _defer_iteration(
    queryset: object, callback: object, finalize: object, args: tuple[object, ...], kwargs: dict[str, object]
) -> Iteration:
    runtime = current_runtime()
    options = split_walk_options(kwargs)
    task_options = TaskOptions().merged({**options.task, "small_task": True})
    called, ending = _registered(callback), _registered(finalize)
    behind_the_row = called.parameters.without_first()
    source, rows = _source(runtime, queryset)
    model = runtime.querysets.model_of(rows)
    if not called.parameters.takes_rows_of(model):
        raise InvalidCallError(f"{called.name} does not take rows of {model.__qualname__} as its first argument")
    runtime.querysets.check(rows, options.order_field)
    encode_arguments(behind_the_row, args, kwargs, runtime.resolver)
    arguments = unpack(encode_arguments(ending.parameters, args, kwargs, runtime.resolver))
    if options.atomic:
        _check_atomic(runtime, rows)
    ranges = None
    if options.getter is not None:
        ranges = tuple(runtime.querysets.cut(rows, options.order_field, options.shards, options.getter))
    plan = Plan(
        source=source,
        callback=Named(name=called.name, version=called.version),
        finalize=Named(name=ending.name, version=ending.version),
        arguments=arguments,
        order_field=options.order_field,
        shards=options.shards,
        key_ranges=ranges,
        policy=options.policy,
        keeps=options.keeps,
        atomic=options.atomic,
    )
    try:
        body = dump_plan(plan)
    except ValueError as error:
        raise UnsupportedQuerySetError(f"this queryset cannot travel as it is: {error}") from None
    return begin_iteration(runtime, called, task_options, body)


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


def _check_atomic(runtime: Runtime, rows: object) -> None:
    using = runtime.querysets.alias_of(rows)
    if runtime.records_using != using:
        where = (
            "no database of Django's" if runtime.records_using is None else f"the database {runtime.records_using!r}"
        )
        raise InvalidOptionError(
            f"option _atomic: rows are written to the database {using!r}, and the records of iterations to {where}; "
            "one transaction cannot hold both"
        )
