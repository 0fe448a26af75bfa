"""Counts, sums and averages over the results of a query."""

from collections.abc import Sequence
from typing import Any, Final

from safedefer.emulator.datastore.failures import invalid, unsupported
from safedefer.emulator.datastore.messages import Value
from safedefer.emulator.datastore.paths import find_value, parse_property_path
from safedefer.emulator.datastore.queries import Result

MAX_AGGREGATIONS: Final = 5
_MOST: Final = (1 << 63) - 1
_LEAST: Final = -(1 << 63)


def aggregated_properties(aggregations: Sequence[Any]) -> list[str]:
    """The properties that an entity must have to be among those aggregated.

    Raises:
        CallError: INVALID_ARGUMENT: none or too many aggregations, or one without an operator or a property.
    """
    if not 0 < len(aggregations) <= MAX_AGGREGATIONS:
        raise invalid(f"1 to {MAX_AGGREGATIONS} aggregations")
    names: list[str] = []
    for part in aggregations:
        operator = part.WhichOneof("operator")
        if operator is None:
            raise invalid("an aggregation without an operator")
        if operator != "count":
            names.append(getattr(part, operator).property.name)
    if not all(names):
        raise invalid("an aggregation without a property")
    return names


def aggregate(aggregations: Sequence[Any], results: Sequence[Result]) -> dict[str, Any]:
    """The value of each aggregation, by its alias."""
    values: dict[str, Any] = {}
    for number, part in enumerate(aggregations, 1):
        alias = part.alias or f"property_{number}"
        if alias in values:
            raise invalid(f"the alias {alias!r} is used twice")
        values[alias] = _aggregate(part, results)
    return values


def _aggregate(part: Any, results: Sequence[Result]) -> Any:
    operator = part.WhichOneof("operator")
    if operator == "count":
        most = part.count.up_to.value if part.count.HasField("up_to") else len(results)
        return Value(integer_value=min(len(results), most))
    numbers = _numbers(getattr(part, operator).property.name, results)
    if operator == "sum":
        return _sum(numbers)
    if not numbers:
        return Value(null_value=0)
    return Value(double_value=float(sum(numbers)) / len(numbers))


def _sum(numbers: list[int | float]) -> Any:
    total = sum(numbers)
    if isinstance(total, int) and _LEAST <= total <= _MOST:
        return Value(integer_value=total)
    return Value(double_value=float(total))


def _type_of(value: Any) -> str | None:
    kind: str | None = None if value is None else value.WhichOneof("value_type")
    return kind


def _numbers(name: str, results: Sequence[Result]) -> list[int | float]:
    """The numbers among the values; everything else is passed over."""
    numbers: list[int | float] = []
    for result in results:
        properties = result.stored.entity.properties
        value: Any = properties[name] if name in properties else find_value(properties, parse_property_path(name))
        match _type_of(value):
            case "integer_value":
                numbers.append(value.integer_value)
            case "double_value":
                numbers.append(value.double_value)
            case "array_value" | None:
                raise unsupported("sum and avg of arrays")
            case _:
                pass
    return numbers
