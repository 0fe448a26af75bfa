"""What may be asked of one task."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Final, Literal, Self, TypeAlias, final

from safedefer.core.limits import MAX_DISPATCH_DEADLINE, MIN_DISPATCH_DEADLINE
from safedefer.core.names import QueueName, TaskName, parse_queue_name, parse_task_name
from safedefer.core.retries import RetryOptions
from safedefer.core.routing import Route, is_host_part
from safedefer.errors import InvalidOptionError

Missing: TypeAlias = Literal["drop", "retry", "fail"]
"""What becomes of a task when a row that it refers to is gone."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """The options of one task; None or the default means that nothing was asked.

    Attributes:
        queue: Id of the queue; by default the function's, else the setting's.
        eta: When to run; a time that has passed means now.
        countdown: Delay before it runs; wins over `eta`.
        name: Task name within the queue; a second task of that name is not created.
        service: App Engine service that runs it; by default the one that HANDLER_URL names.
        version: Version of that service; by default the running one.
        instance: Instance of that version.
        expires: After this time it is not started any more.
        deadline: How long one dispatch may take, 15 s to 30 min.
        transactional: Send after the transaction has committed. Inside a transaction that is always so.
        using: Database alias of that transaction.
        small_task: Never keep the arguments outside the task; too large then is an error.
        wipe_related_caches: Model instances arrive bare; False brings the relations that were loaded, loaded anew.
        retry_options: How often it is tried again, and when it is given up.
        raise_if_exists: Raise TaskExistsError rather than report `created=False`.
    """

    queue: QueueName | None = None
    eta: datetime | None = None
    countdown: timedelta | None = None
    name: TaskName | None = None
    service: str | None = None
    version: str | None = None
    instance: str | None = None
    expires: datetime | timedelta | None = None
    deadline: timedelta | None = None
    transactional: bool = False
    using: str = "default"
    small_task: bool = False
    wipe_related_caches: bool = True
    retry_options: RetryOptions | None = None
    raise_if_exists: bool = False

    @property
    def route(self) -> Route:
        """Where in an App Engine application the task is to run."""
        return Route(service=self.service, version=self.version, instance=self.instance)

    def merged(self, given: Mapping[str, object]) -> Self:
        """These options with others on top, each checked.

        Args:
            given: Option names without an underscore in front. None leaves an option as it was.
        Raises:
            InvalidOptionError: An unknown option, or a value of the wrong type or out of range.
            InvalidNameError: A queue or task name that cannot be one.
        """
        checked = {name: _check(name, value) for name, value in given.items() if value is not None}
        return replace(self, **checked) if checked else self  # type: ignore[arg-type]


OPTION_NAMES: Final = frozenset(field.name for field in fields(TaskOptions))


def split_options(kwargs: dict[str, object]) -> dict[str, object]:
    """Take the options out of keyword arguments; they lose their underscore.

    Args:
        kwargs: Changed in place: what stays is the function's own.
    Raises:
        InvalidOptionError: A name with an underscore in front that is no option; names the near match.
    """
    options = {name[1:]: kwargs.pop(name) for name in [name for name in kwargs if name.startswith("_")]}
    for name in options:
        if name not in OPTION_NAMES:
            raise _unknown(name, "_")
    return options


def _check(name: str, value: object) -> object:
    check = _CHECKS.get(name)
    if check is None:
        raise _unknown(name, "")
    return check(name, value)


def _bool(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, "a bool", value)
    return value


def _alias(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _wrong(name, "a database alias", value)
    return value


def _retry_options(name: str, value: object) -> RetryOptions:
    if not isinstance(value, RetryOptions):
        raise _wrong(name, "RetryOptions", value)
    return value


def _expiry(name: str, value: object) -> datetime | timedelta:
    return value if isinstance(value, timedelta) else _datetime(name, value)


def _host_part(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _wrong(name, "a str", value)
    if not is_host_part(value):
        raise InvalidOptionError(f"option {name}: 1 to 63 lower case letters, digits and inner hyphens, without -dot-")
    return value


def _datetime(name: str, value: object) -> datetime:
    if not isinstance(value, datetime):
        raise _wrong(name, "a datetime", value)
    return value


def _duration(name: str, value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(name, "seconds or a timedelta", value)
    try:
        return timedelta(seconds=value)
    except (OverflowError, ValueError):
        raise InvalidOptionError(f"option {name}: not a duration") from None


def _deadline(name: str, value: object) -> timedelta:
    deadline = _duration(name, value)
    if not MIN_DISPATCH_DEADLINE <= deadline <= MAX_DISPATCH_DEADLINE:
        raise InvalidOptionError("option deadline: Cloud Tasks takes 15 seconds to 30 minutes")
    return deadline


_CHECKS: Final[Mapping[str, Callable[[str, object], object]]] = {
    "queue": lambda _, value: parse_queue_name(value),
    "eta": _datetime,
    "countdown": _duration,
    "name": lambda _, value: parse_task_name(value),
    "service": _host_part,
    "version": _host_part,
    "instance": _host_part,
    "expires": _expiry,
    "deadline": _deadline,
    "transactional": _bool,
    "using": _alias,
    "small_task": _bool,
    "wipe_related_caches": _bool,
    "retry_options": _retry_options,
    "raise_if_exists": _bool,
}


def _wrong(name: str, expected: str, value: object) -> InvalidOptionError:
    return InvalidOptionError(f"option {name}: expected {expected}, got {type(value).__name__}")


def _unknown(name: str, prefix: str) -> InvalidOptionError:
    near = get_close_matches(name, OPTION_NAMES, n=1)
    hint = f"; did you mean {prefix}{near[0]}?" if near else f"; known are {', '.join(sorted(OPTION_NAMES))}"
    return InvalidOptionError(f"unknown option {prefix}{name}{hint}")
