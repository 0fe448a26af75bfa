"""Filters: a query's filter as alternatives, each of which is a set of conditions that hold together."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, final

from safedefer.emulator.datastore.entries import KEY, Entries, Entry, Index
from safedefer.emulator.datastore.failures import invalid
from safedefer.emulator.datastore.keys import EntityKey, parse_key
from safedefer.emulator.datastore.storage import Bound, Path
from safedefer.emulator.datastore.values import SortKey

Test: TypeAlias = Callable[[SortKey], bool]

_LESS, _LESS_EQUAL, _GREATER, _GREATER_EQUAL, _EQUAL = 1, 2, 3, 4, 5
_IN, _NOT_EQUAL, _ANCESTOR, _NOT_IN = 6, 9, 11, 13
_AND, _OR = 1, 2
MAX_ALTERNATIVES: Final = 30
_MOST_IN: Final = {_IN: 30, _NOT_IN: 10}
_BEHIND_EVERY_KIND: Final = (b"\xff",)
"""Sorts behind every element of a path, since no kind in UTF-8 begins with this byte."""

_COMPARISONS: Final[Mapping[int, Callable[[SortKey, SortKey], bool]]] = {
    _LESS: lambda entry, bound: entry < bound,
    _LESS_EQUAL: lambda entry, bound: entry <= bound,
    _GREATER: lambda entry, bound: entry > bound,
    _GREATER_EQUAL: lambda entry, bound: entry >= bound,
    _NOT_EQUAL: lambda entry, bound: entry != bound,
}


@final
@dataclass(frozen=True, slots=True)
class Alternative:
    """Conditions that hold together.

    Attributes:
        ancestors: Paths that the key begins with.
        equalities: For each, one entry of the property is among the wanted ones; several may rest on different entries.
        inequalities: For each property, one single entry passes all of its tests.
        low, high: Where the keys lie that can match.
    """

    ancestors: tuple[Path, ...]
    equalities: tuple[tuple[str, frozenset[SortKey]], ...]
    inequalities: Mapping[str, tuple[Test, ...]]
    low: Bound | None
    high: Bound | None

    def matches(self, key: EntityKey, entries: Entries) -> bool:
        """Whether an entity passes."""
        return (
            all(key.path[: len(path)] == path for path in self.ancestors)
            and all(any(entry in wanted for entry, _ in entries(name)) for name, wanted in self.equalities)
            and all(self.candidates(entries, name) for name in self.inequalities)
        )

    def candidates(self, entries: Entries, name: str) -> list[Entry]:
        """The entries of a property under which the entity may be found: those that pass its inequalities."""
        tests = self.inequalities.get(name, ())
        return [entry for entry in entries(name) if all(test(entry[0]) for test in tests)]


def parse_filter(message: Any, index: Index) -> list[Alternative]:
    """Read a filter as alternatives, of which one is enough.

    Raises:
        CallError: INVALID_ARGUMENT: not a filter that the service takes.
    """
    branches = _spread(message)
    for branch in branches:
        if sum(part.op in (_NOT_EQUAL, _NOT_IN) for part in branch) > 1:
            raise invalid("more than one NOT_EQUAL or NOT_IN")
        if any(part.op == _NOT_IN for part in branch) and (len(branches) > 1 or any(part.op == _IN for part in branch)):
            raise invalid("NOT_IN together with IN or OR")
    alternatives = [_alternative(branch, index) for branch in branches]
    if sum(_weight(branch) for branch in branches) > MAX_ALTERNATIVES:
        raise invalid(f"more than {MAX_ALTERNATIVES} alternatives in OR and IN")
    return alternatives


def _spread(message: Any) -> list[list[Any]]:
    """A filter in disjunctive normal form: lists of property filters."""
    match message.WhichOneof("filter_type"):
        case "property_filter":
            return [[message.property_filter]]
        case "composite_filter":
            composite = message.composite_filter
        case _:
            raise invalid("a filter that is empty")
    if composite.op not in (_AND, _OR) or not composite.filters:
        raise invalid("a composite filter needs an operator and filters")
    parts = [_spread(part) for part in composite.filters]
    if composite.op == _OR:
        spread = [branch for part in parts for branch in part]
    else:
        count = 1
        for part in parts:
            count *= len(part)
            if count > MAX_ALTERNATIVES:
                raise invalid(f"more than {MAX_ALTERNATIVES} alternatives in OR and IN")
        spread = [list(itertools.chain(*branches)) for branches in itertools.product(*parts)]
    if len(spread) > MAX_ALTERNATIVES:
        raise invalid(f"more than {MAX_ALTERNATIVES} alternatives in OR and IN")
    return spread


def _weight(branch: list[Any]) -> int:
    weight = 1
    for part in branch:
        if part.op == _IN:
            weight *= len(part.value.array_value.values)
    return weight


def _alternative(branch: list[Any], index: Index) -> Alternative:
    ancestors: list[Path] = []
    equalities: list[tuple[str, frozenset[SortKey]]] = []
    inequalities: dict[str, tuple[Test, ...]] = {}
    low: Bound | None = None
    high: Bound | None = None
    for part in branch:
        name, value = part.property.name, part.value
        if not name:
            raise invalid("a filter without a property")
        if part.op == _ANCESTOR:
            path = _ancestor(name, value, index)
            ancestors.append(path)
            low, high = _higher(low, (path, True)), _lower(high, ((*path, _BEHIND_EVERY_KIND), False))
        elif part.op in _MOST_IN or part.op == _EQUAL:
            wanted = _wanted(part, index)
            if part.op == _NOT_IN:
                inequalities[name] = (*inequalities.get(name, ()), _none_of(wanted))
            else:
                equalities.append((name, wanted))
        else:
            inequalities[name] = (*inequalities.get(name, ()), _inequality(part.op, index.entry(value)[0]))
        if name == KEY and part.op not in (_ANCESTOR, *_MOST_IN):
            new_low, new_high = _range(part.op, value, index)
            low, high = _higher(low, new_low), _lower(high, new_high)
    return Alternative(tuple(ancestors), tuple(equalities), inequalities, low, high)


def _wanted(part: Any, index: Index) -> frozenset[SortKey]:
    if part.op == _EQUAL:
        return frozenset({index.entry(part.value)[0]})
    values = part.value.array_value.values
    if not 0 < len(values) <= _MOST_IN[part.op]:
        raise invalid(f"an IN or NOT_IN of 1 to {_MOST_IN[part.op]} values")
    return frozenset(index.entry(value)[0] for value in values)


def _inequality(operator: int, bound: SortKey) -> Test:
    compare = _COMPARISONS.get(operator)
    if compare is None:
        raise invalid("an unknown operator")
    # The order goes through all types, and so does a range: `> null` finds all that is not null.
    return lambda entry: compare(entry, bound)


def _none_of(wanted: frozenset[SortKey]) -> Test:
    return lambda entry: entry not in wanted


def _ancestor(name: str, value: Any, index: Index) -> Path:
    if name != KEY or value.WhichOneof("value_type") != "key_value":
        raise invalid("HAS_ANCESTOR compares __key__ with a key")
    return _path(value, index)


def _path(value: Any, index: Index) -> Path:
    partition = index.partition
    key = parse_key(partition.project, partition.database, value.key_value, allow_reserved=True)
    if key.partition != partition:
        raise invalid("a filter by a key of another namespace than the query's")
    return key.path


def _range(operator: int, value: Any, index: Index) -> tuple[Bound | None, Bound | None]:
    """Where the keys lie that pass a comparison with a key."""
    if value.WhichOneof("value_type") != "key_value":
        raise invalid("__key__ is compared with keys")
    path = _path(value, index)
    low = (path, operator != _GREATER) if operator in (_GREATER, _GREATER_EQUAL, _EQUAL) else None
    high = (path, operator != _LESS) if operator in (_LESS, _LESS_EQUAL, _EQUAL) else None
    return low, high


def _higher(first: Bound | None, second: Bound | None) -> Bound | None:
    """The tighter of two lower bounds; of the same path the one that leaves it out."""
    if first is None or second is None:
        return first or second
    return max(first, second, key=lambda bound: (bound[0], not bound[1]))


def _lower(first: Bound | None, second: Bound | None) -> Bound | None:
    """The tighter of two upper bounds."""
    if first is None or second is None:
        return first or second
    return min(first, second)
