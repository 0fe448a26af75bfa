"""What an application calls: `@deferrable`, `defer`, `adefer`.

`defer` is written three times for the type checkers. mypy sees one function of plain arguments, and our plugin gives
it each call's exact signature, options included. The others see overloads: no options, positional arguments with
options, and all of it in one call; the last is not in the typing specification, but pyright checks calls to it fully.
`fn.options(queue="q").defer(...)` needs none of this and is checked everywhere.
"""

import asyncio
import functools
import inspect
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, Final, Generic, ParamSpec, Protocol, TypedDict, TypeVar, TypeVarTuple, Unpack, final, overload

from safedefer.core.annotations import Serializable
from safedefer.core.function import RegisteredFunction
from safedefer.core.options import Missing, TaskOptions, split_options
from safedefer.core.registry import Registry
from safedefer.core.retries import RetryOptions
from safedefer.errors import InvalidFunctionError, UnregisteredFunctionError
from safedefer.flow.bulk import Call, bind_call, defer_calls, defer_calls_async
from safedefer.flow.defer import DeferredTask, defer_call, defer_call_async
from safedefer.flow.runtime import current_runtime

__all__ = [
    "Call",
    "DeferOptions",
    "Deferrable",
    "DeferredTask",
    "Serializable",
    "adefer",
    "adefer_many",
    "defer",
    "defer_many",
    "deferrable",
]

MYPY = False  # mypy takes a name MYPY as true.

registry: Final = Registry()
"""The functions of this process."""

P = ParamSpec("P")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")
F = TypeVar("F", bound=Callable[..., Any])
F_co = TypeVar("F_co", bound=Callable[..., Any], covariant=True)


class DeferOptions(TypedDict, total=False):
    """What `defer` takes beside the function's own arguments.

    Attributes:
        _queue: Id of the queue.
        _eta: When to run; naive or aware as USE_TZ says.
        _countdown: Seconds, or a timedelta, to wait; wins over `_eta`.
        _name: Task name; a second task of that name in the queue is not created.
        _service: App Engine service that runs it.
        _version: Version of that service; by default the running one.
        _instance: Instance of that version.
        _expires: After this time, or so long from now, it is not started any more.
        _deadline: Seconds, or a timedelta, that one dispatch may take: 15 s to 30 min.
        _transactional: Send after the open transaction has committed; inside one that is always so.
        _using: Database alias of that transaction.
        _small_task: Never keep the arguments outside the task: too large for a task is then an error.
        _wipe_related_caches: Model instances arrive without related rows; False has those that were loaded loaded anew.
        _retry_options: How often it is tried again, and when it is given up.
        _raise_if_exists: Raise TaskExistsError where a task of that name exists.
    """

    _queue: str
    _eta: datetime
    _countdown: float | timedelta
    _name: str
    _service: str
    _version: str
    _instance: str
    _expires: datetime | timedelta
    _deadline: float | timedelta
    _transactional: bool
    _using: str
    _small_task: bool
    _wipe_related_caches: bool
    _retry_options: RetryOptions
    _raise_if_exists: bool


@final
class Deferrable(Generic[F_co]):
    """A function that may be deferred. Called, it is still the plain function.

    Generic over the function's whole type, so that generic and overloaded functions keep theirs.

    Attributes:
        registered: Its registration; shared by what `options` returns.
        task_options: The options of its tasks, unless a call says otherwise.
    """

    __name__: str
    __qualname__: str
    __wrapped__: F_co
    registered: RegisteredFunction
    task_options: TaskOptions

    def __init__(self, function: F_co, registered: RegisteredFunction, options: TaskOptions | None = None) -> None:
        functools.update_wrapper(self, function)
        self.registered = registered
        self.task_options = registered.options if options is None else options
        if inspect.iscoroutinefunction(function):
            _mark_coroutine_function(self)

    def __set_name__(self, owner: type, name: str) -> None:
        raise InvalidFunctionError(
            f"{owner.__qualname__}.{name}: a method cannot be deferred; put @staticmethod over @deferrable"
        )

    def __repr__(self) -> str:
        return f"<deferrable {self.registered.name}>"

    def __call__(self: "Deferrable[Callable[P, R]]", *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function here and now."""
        return self.__wrapped__(*args, **kwargs)

    def defer(self: "Deferrable[Callable[P, Any]]", *args: P.args, **kwargs: P.kwargs) -> DeferredTask:
        """Defer a call with exactly the function's own parameters.

        Raises:
            UsageError: The call cannot work; nothing was sent.
            ConfigurationError: safedefer is not configured, the queue is missing, or Cloud Tasks refuses the task.
            QueueUnavailableError: Cloud Tasks did not answer; the task may or may not exist.
        """
        return defer_call(current_runtime(), self.registered, self.task_options, args, kwargs)

    async def adefer(self: "Deferrable[Callable[P, Any]]", *args: P.args, **kwargs: P.kwargs) -> DeferredTask:
        """The same for a coroutine: it does not block the event loop."""
        return await defer_call_async(current_runtime(), self.registered, self.task_options, args, kwargs)

    def bind(self: "Deferrable[Callable[P, Any]]", *args: P.args, **kwargs: P.kwargs) -> Call:
        """A call for `defer_many`, with exactly the function's own parameters. Sends nothing, checks nothing yet."""
        return bind_call(self.registered, self.task_options, args, kwargs)

    def options(
        self,
        *,
        queue: str | None = None,
        eta: datetime | None = None,
        countdown: float | timedelta | None = None,
        name: str | None = None,
        service: str | None = None,
        version: str | None = None,
        instance: str | None = None,
        expires: datetime | timedelta | None = None,
        deadline: float | timedelta | None = None,
        transactional: bool | None = None,
        using: str | None = None,
        small_task: bool | None = None,
        wipe_related_caches: bool | None = None,
        retry_options: RetryOptions | None = None,
        raise_if_exists: bool | None = None,
    ) -> "Deferrable[F_co]":
        """The same function with these options for its `defer`; see `DeferOptions`.

        Raises:
            InvalidOptionError: A value of the wrong type or out of range.
            InvalidNameError: A queue or task name that cannot be one.
        """
        given = {
            "queue": queue,
            "eta": eta,
            "countdown": countdown,
            "name": name,
            "service": service,
            "version": version,
            "instance": instance,
            "expires": expires,
            "deadline": deadline,
            "transactional": transactional,
            "using": using,
            "small_task": small_task,
            "wipe_related_caches": wipe_related_caches,
            "retry_options": retry_options,
            "raise_if_exists": raise_if_exists,
        }
        return Deferrable(self.__wrapped__, self.registered, self.task_options.merged(given))


@overload
def deferrable(function: F, /) -> Deferrable[F]: ...
@overload
def deferrable(
    *,
    name: str | None = None,
    version: int = 1,
    aliases: tuple[str, ...] = (),
    missing: Missing = "drop",
    ledger: bool = True,
    batch: bool = False,
    queue: str | None = None,
    expires: timedelta | None = None,
    deadline: float | timedelta | None = None,
    retry: RetryOptions | None = None,
) -> "Registrar": ...
def deferrable(
    function: F | None = None,
    /,
    *,
    name: str | None = None,
    version: int = 1,
    aliases: tuple[str, ...] = (),
    missing: Missing = "drop",
    ledger: bool = True,
    batch: bool = False,
    queue: str | None = None,
    expires: timedelta | None = None,
    deadline: float | timedelta | None = None,
    retry: RetryOptions | None = None,
) -> "Deferrable[F] | Registrar":
    """Register a module-level function, or a static method, as one that may be deferred.

    Args:
        function: The function; every parameter annotated with a type that can travel.
        name: Function name on the wire, 1 to 128 of `A-Za-z0-9_.:-`; by default the module and the qualified name.
            Give one: then the function can move without losing what is queued.
        version: Raise it when old calls must not run with new code; register both while old ones are queued.
        aliases: Names it had before.
        missing: What becomes of a task when a row that it was given is gone: `drop` it, `retry`, or `fail`.
        ledger: Keep a task that was executed from being executed again. False is for functions that may as well run
            twice; calls whose arguments are kept outside the task always use the ledger.
        batch: As a callback of an iteration it is called with a list of rows instead of one; deferred, it takes such a
            list like any other.
        queue: Queue of its tasks unless a call says otherwise.
        expires: After this time its tasks are not started any more, counted from `defer`.
        deadline: Seconds, or a timedelta, that one dispatch may take.
        retry: How often its tasks are tried again, and when they are given up.
    Raises:
        InvalidFunctionError: It is a method, lambda or nested function, or a parameter cannot travel.
        DuplicateFunctionError: Another function has that name and version.
    """

    given = {"queue": queue, "expires": expires, "deadline": deadline, "retry_options": retry}
    registrar = Registrar(
        name=name,
        version=version,
        aliases=aliases,
        missing=missing,
        ledger=ledger,
        batch=batch,
        options=TaskOptions().merged(given),
    )
    return registrar if function is None else registrar(function)


@final
class Registrar:
    """What `deferrable(...)` returns: registers the function below it."""

    def __init__(
        self,
        *,
        name: str | None,
        version: int,
        aliases: tuple[str, ...],
        missing: Missing,
        ledger: bool,
        batch: bool,
        options: TaskOptions,
    ) -> None:
        self._name = name
        self._version = version
        self._aliases = aliases
        self._missing: Missing = missing
        self._ledger = ledger
        self._batch = batch
        self._options = options

    def __call__(self, function: F, /) -> Deferrable[F]:
        """Register a function.

        Raises:
            InvalidFunctionError: It is a method, lambda or nested function, or a parameter cannot travel.
            DuplicateFunctionError: Another function has that name and version.
        """
        registered = RegisteredFunction(
            function,
            name=self._name,
            version=self._version,
            aliases=self._aliases,
            options=self._options,
            missing=self._missing,
            ledger=self._ledger,
            batch=self._batch,
        )
        registry.register(registered)
        return Deferrable(function, registered)


def defer_many(calls: Iterable[Call]) -> list[DeferredTask]:
    """Defer many calls, a hundred in one request: `defer_many(fn.bind(row) for row in rows)`.

    Inside a transaction they are sent once it has committed, like those of `defer`.

    Args:
        calls: What `bind` returned, of any functions, queues and options; all are read before the first is sent.
    Returns:
        One handle for each call, in their order.
    Raises:
        PartlyDeferredError: Some were not deferred: `results` has what became of each, and `failed` the calls that can
            be given again. Calls before and behind those were sent.
        ConfigurationError: safedefer is not configured; nothing was sent.
    """
    return defer_calls(current_runtime(), calls)


async def adefer_many(calls: Iterable[Call]) -> list[DeferredTask]:
    """`defer_many` for a coroutine: it does not block the event loop.

    Raises:
        PartlyDeferredError: Some were not deferred: `results` has what became of each, and `failed` the calls that can
            be given again.
        ConfigurationError: safedefer is not configured; nothing was sent.
    """
    return await defer_calls_async(current_runtime(), calls)


class Deferring(Protocol[P]):
    """A deferrable as mypy's `defer` sees it; its messages are better than with the class."""

    @property
    def __wrapped__(self) -> Callable[P, Any]:
        """The plain function."""
        ...


if MYPY:

    def defer(  # pyright: ignore[reportRedeclaration]
        function: Deferring[P], /, *args: P.args, **kwargs: P.kwargs
    ) -> DeferredTask:
        raise NotImplementedError

    async def adefer(  # pyright: ignore[reportRedeclaration]
        function: Deferring[P], /, *args: P.args, **kwargs: P.kwargs
    ) -> DeferredTask:
        raise NotImplementedError


if not MYPY:

    @overload
    def defer(function: Deferrable[Callable[P, Any]], /, *args: P.args, **kwargs: P.kwargs) -> DeferredTask: ...
    @overload
    def defer(
        function: Deferrable[Callable[[Unpack[Ts]], Any]], /, *args: Unpack[Ts], **options: Unpack[DeferOptions]
    ) -> DeferredTask: ...
    @overload
    def defer(
        function: Deferrable[Callable[P, Any]],
        /,
        *args: P.args,
        _queue: str = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _eta: datetime = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _countdown: float | timedelta = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _name: str = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _service: str = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _version: str = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _instance: str = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _expires: datetime | timedelta = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _deadline: float | timedelta = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _transactional: bool = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _using: str = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _small_task: bool = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _wipe_related_caches: bool = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _retry_options: RetryOptions = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _raise_if_exists: bool = ...,  # pyright: ignore[reportGeneralTypeIssues]
        **kwargs: P.kwargs,
    ) -> DeferredTask: ...
    def defer(function: Deferrable[Any], /, *args: Any, **kwargs: Any) -> DeferredTask:
        """Run `function(*args, **kwargs)` later; keyword arguments with an underscore in front are options.

        Args:
            function: What `@deferrable` returned.
            *args: Its positional arguments.
            **kwargs: Its keyword arguments, and the options of `DeferOptions`.
        Returns:
            The task's id, name and queue, and whether it was created.
        Raises:
            UsageError: The call cannot work; nothing was sent.
            ConfigurationError: safedefer is not configured, the queue is missing, or Cloud Tasks refuses the task.
            QueueUnavailableError: Cloud Tasks did not answer; the task may or may not exist.
        """
        target, options = _target(function, kwargs)
        return defer_call(current_runtime(), target, options, args, kwargs)

    @overload
    async def adefer(function: Deferrable[Callable[P, Any]], /, *args: P.args, **kwargs: P.kwargs) -> DeferredTask: ...
    @overload
    async def adefer(
        function: Deferrable[Callable[[Unpack[Ts]], Any]], /, *args: Unpack[Ts], **options: Unpack[DeferOptions]
    ) -> DeferredTask: ...
    @overload
    async def adefer(
        function: Deferrable[Callable[P, Any]],
        /,
        *args: P.args,
        _queue: str = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _eta: datetime = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _countdown: float | timedelta = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _name: str = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _service: str = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _version: str = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _instance: str = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _expires: datetime | timedelta = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _deadline: float | timedelta = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _transactional: bool = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _using: str = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _small_task: bool = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _wipe_related_caches: bool = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _retry_options: RetryOptions = ...,  # pyright: ignore[reportGeneralTypeIssues]
        _raise_if_exists: bool = ...,  # pyright: ignore[reportGeneralTypeIssues]
        **kwargs: P.kwargs,
    ) -> DeferredTask: ...
    async def adefer(function: Deferrable[Any], /, *args: Any, **kwargs: Any) -> DeferredTask:
        """`defer` for a coroutine: it does not block the event loop.

        Raises:
            UsageError: The call cannot work; nothing was sent.
            ConfigurationError: safedefer is not configured, the queue is missing, or Cloud Tasks refuses the task.
            QueueUnavailableError: Cloud Tasks did not answer; the task may or may not exist.
        """
        target, options = _target(function, kwargs)
        return await defer_call_async(current_runtime(), target, options, args, kwargs)


def _target(function: object, kwargs: dict[str, Any]) -> tuple[RegisteredFunction, TaskOptions]:
    """The registration of a deferrable and the options of one call, which are taken out of `kwargs`."""
    if not isinstance(function, Deferrable):
        raise UnregisteredFunctionError(
            f"{getattr(function, '__qualname__', type(function).__qualname__)} is not registered; "
            "put @deferrable over its definition and pass what that returns"
        )
    given = split_options(kwargs)
    options: TaskOptions = function.task_options
    return function.registered, options.merged(given) if given else options


def _mark_coroutine_function(target: object) -> None:
    # `inspect.markcoroutinefunction` is new in Python 3.12; asyncio and asgiref look for this name before that.
    mark = getattr(inspect, "markcoroutinefunction", None)
    if mark is not None:
        mark(target)
    else:
        vars(target)["_is_coroutine"] = getattr(asyncio.coroutines, "_is_coroutine", None)
