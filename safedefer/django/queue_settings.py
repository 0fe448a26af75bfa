"""The QUEUES setting -> `QueueSpec`s. The keys of djangae's CLOUD_TASKS_QUEUES mean what they mean there."""

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from difflib import get_close_matches
from types import MappingProxyType
from typing import Final, NamedTuple

from safedefer.core.limits import MAX_QUEUE_CONCURRENCY, MAX_QUEUE_RATE
from safedefer.core.names import parse_queue_name
from safedefer.core.queues import UNLIMITED_ATTEMPTS, QueueField, QueueSpec, QueueValue
from safedefer.errors import ConfigurationError, InvalidNameError

_KEYS: Final = ("name", *QueueField)
_EXAMPLE: Final = 'Like {"name": "default", "rate_per_second": 10}.'
_ONE_SECOND: Final = timedelta(seconds=1)


class QueueMistake(NamedTuple):
    """Something that is wrong with the setting."""

    message: str
    hint: str


def parse_queues(value: object, where: str) -> tuple[tuple[QueueSpec, ...], list[QueueMistake]]:
    """Read a list of queues.

    Args:
        where: How the setting is called, for messages.
    Returns:
        The queues that are right, and what is wrong with the others.
    """
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        return (), [QueueMistake(f"{where} is not a list of queues.", _EXAMPLE)]
    specs: dict[str, QueueSpec] = {}
    mistakes: list[QueueMistake] = []
    for index, entry in enumerate(value):
        try:
            spec = _parse_queue(entry)
        except (ConfigurationError, InvalidNameError) as error:
            mistakes.append(QueueMistake(f"{where}[{index}]: {error}.", _EXAMPLE))
            continue
        if spec.name in specs:
            mistakes.append(QueueMistake(f"{where}[{index}]: a second queue is called {spec.name}.", ""))
        specs[spec.name] = spec
    return tuple(specs.values()), mistakes


def _parse_queue(entry: object) -> QueueSpec:
    if not isinstance(entry, Mapping) or "name" not in entry:
        raise ConfigurationError("not a dict with a name")
    for key in entry:
        if key not in _KEYS:
            near = get_close_matches(str(key), _KEYS, n=1)
            advice = f"did you mean {near[0]}?" if near else f"known are {', '.join(_KEYS)}"
            raise ConfigurationError(f"unknown key {key!r}; {advice}")
    # A queue that gives up leaves no trace of a task, so that one that is managed here gives up only if it is told to.
    given = {QueueField.RETRY_MAX_ATTEMPTS.value: UNLIMITED_ATTEMPTS, **entry}
    values: dict[QueueField, QueueValue] = {}
    for field, parse in _PARSERS.items():
        if field.value in given:
            try:
                values[field] = parse(given[field.value])
            except ConfigurationError as error:
                raise ConfigurationError(f"{field.value}: {error}") from None
    _check_backoff(values)
    return QueueSpec(name=parse_queue_name(entry["name"]), values=MappingProxyType(values))


def _check_backoff(values: Mapping[QueueField, QueueValue]) -> None:
    shortest, longest = values.get(QueueField.RETRY_MIN_BACKOFF), values.get(QueueField.RETRY_MAX_BACKOFF)
    if isinstance(shortest, timedelta) and isinstance(longest, timedelta) and shortest > longest:
        raise ConfigurationError("retry_min_backoff is longer than retry_max_backoff")


def _number(value: object) -> float:
    """A number, or a text that is one, as djangae's example has it."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigurationError("expected a number")
    return float(value)


def _whole_number(value: object) -> int:
    number = _number(value)
    if not number.is_integer():
        raise ConfigurationError("expected a whole number")
    return int(number)


def _rate(value: object) -> float:
    number = _number(value)
    if not 0 < number <= MAX_QUEUE_RATE:
        raise ConfigurationError(f"expected more than 0 and at most {MAX_QUEUE_RATE} a second")
    return number


def _concurrency(value: object) -> int:
    number = _whole_number(value)
    if not 1 <= number <= MAX_QUEUE_CONCURRENCY:
        raise ConfigurationError(f"expected 1 to {MAX_QUEUE_CONCURRENCY:,}")
    return number


def _attempts(value: object) -> int:
    number = _whole_number(value)
    if number != UNLIMITED_ATTEMPTS and not 1 <= number < 2**31:
        raise ConfigurationError("expected -1 for no limit, or 1 and more")
    return number


def _doublings(value: object) -> int:
    number = _whole_number(value)
    if not 0 <= number < 2**31:
        raise ConfigurationError("expected 0 or more")
    return number


def _duration(value: object) -> timedelta:
    length = value
    if not isinstance(length, timedelta):
        try:
            length = timedelta(seconds=_number(value))
        except (ConfigurationError, OverflowError):
            raise ConfigurationError("expected a timedelta or a number of seconds") from None
    # The service cuts off the rest, and would look different from what was asked for ever after.
    if length < timedelta(0) or length % _ONE_SECOND:
        raise ConfigurationError("expected whole seconds, and no less than none")
    return length


def _backoff(value: object) -> timedelta:
    length = _duration(value)
    if not length:
        raise ConfigurationError("expected at least one second")
    return length


def _ratio(value: object) -> float:
    number = _number(value)
    if not 0 <= number <= 1:
        raise ConfigurationError("expected 0 to 1")
    return number


_PARSERS: Final[Mapping[QueueField, Callable[[object], QueueValue]]] = MappingProxyType(
    {
        QueueField.RATE_PER_SECOND: _rate,
        QueueField.RATE_MAX_CONCURRENT: _concurrency,
        QueueField.RETRY_MAX_ATTEMPTS: _attempts,
        QueueField.RETRY_MAX_DURATION: _duration,
        QueueField.RETRY_MIN_BACKOFF: _backoff,
        QueueField.RETRY_MAX_BACKOFF: _backoff,
        QueueField.RETRY_MAX_DOUBLINGS: _doublings,
        QueueField.LOGGING_SAMPLING_RATIO: _ratio,
    }
)
