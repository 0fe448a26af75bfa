"""What may be asked of one iteration, beside what may be asked of its tasks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, TypeAlias, TypeVar, cast, final

from safedefer.core.iteration.items import ItemPolicy, OnError
from safedefer.core.limits import MAX_SHARDS
from safedefer.errors import InvalidOptionError

KeyRangesGetter: TypeAlias = Callable[..., Sequence[object]]
T = TypeVar("T")

MAX_ITEM_ATTEMPTS: Final = 1_000
_OF_TASKS: Final = frozenset({"_queue", "_deadline", "_transactional", "_using"})
_OURS: Final = frozenset(
    {
        "key_ranges_getter",
        "order_field",
        "_shards",
        "_delete_marker",
        "_on_error",
        "_max_item_attempts",
        "_atomic",
    }
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WalkOptions:
    """The options of one iteration.

    Attributes:
        getter: Cuts the queryset into key ranges; None where the plan task does, as suits the database.
        order_field: Along which the rows are walked.
        shards: How many key ranges are wanted.
        keeps: Whether its records stay when it is done.
        policy: What becomes of rows that fail.
        atomic: Whether what the callback writes is committed together with the checkpoint.
        task: Options of its tasks, without underscores.
    """

    getter: KeyRangesGetter | None
    order_field: str
    shards: int
    keeps: bool
    policy: ItemPolicy
    atomic: bool
    task: Mapping[str, object]


def split_walk_options(kwargs: dict[str, object]) -> WalkOptions:
    """Take the options out of keyword arguments.

    Args:
        kwargs: Changed in place: what stays is for the callback and finalize.
    Raises:
        InvalidOptionError: A name with an underscore in front that is no option, or a value that it cannot have.
    """
    given = {name: kwargs.pop(name) for name in [*kwargs] if name.startswith("_") or name in _OURS}
    for name in given:
        if name not in _OURS and name not in _OF_TASKS:
            near = get_close_matches(name, _OURS | _OF_TASKS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(_OURS | _OF_TASKS))}"
            raise InvalidOptionError(f"unknown option {name}; {hint}")
    attempts = _take(given, "_max_item_attempts", _is_count(MAX_ITEM_ATTEMPTS), 3, f"1 to {MAX_ITEM_ATTEMPTS:,}")
    on_error = _take(given, "_on_error", _is_choice, OnError.RETRY.value, f"one of {', '.join(OnError)}")
    return WalkOptions(
        getter=_take(given, "key_ranges_getter", callable, None, "a callable that takes a queryset and shards"),
        order_field=_take(given, "order_field", _is_name, "pk", "the name of a field"),
        shards=_take(given, "_shards", _is_count(MAX_SHARDS), 5, f"1 to {MAX_SHARDS:,}"),
        keeps=not _take(given, "_delete_marker", _is_bool, default=True, expected="a bool"),
        policy=ItemPolicy(max_attempts=attempts, on_error=OnError(on_error)),
        atomic=_take(given, "_atomic", _is_batch, None, '"batch" or None') is not None,
        task={name[1:]: given[name] for name in _OF_TASKS & given.keys()},
    )


def _take(given: Mapping[str, object], name: str, fits: Callable[[object], bool], default: T, expected: str) -> T:
    value = given.get(name)
    if value is None:
        return default
    if not fits(value):
        raise InvalidOptionError(f"option {name}: {expected}")
    return cast("T", value)


def _is_count(most: int) -> Callable[[object], bool]:
    return lambda value: type(value) is int and 1 <= value <= most


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_choice(value: object) -> bool:
    return isinstance(value, str) and value in frozenset(OnError)


def _is_batch(value: object) -> bool:
    return value == "batch"
