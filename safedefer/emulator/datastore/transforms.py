"""Property transforms: values that the service works out from those that are there."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

from safedefer.emulator.datastore.failures import invalid
from safedefer.emulator.datastore.messages import Value
from safedefer.emulator.datastore.paths import find_value, parse_property_path, set_value
from safedefer.emulator.datastore.values import sort_key

_REQUEST_TIME: Final = 1
_NUMBERS: Final = ("integer_value", "double_value")
_MOST: Final = (1 << 63) - 1
_LEAST: Final = -(1 << 63)


def transform_entity(entity: Any, transforms: Iterable[Any], now: float) -> list[Any]:
    """Apply transforms in their order.

    Returns:
        The result of each: the new value, or null for those of arrays.

    Raises:
        CallError: INVALID_ARGUMENT: no transform, or an operand that is no number.
    """
    results: list[Any] = []
    for transform in transforms:
        path = parse_property_path(transform.property)
        current = find_value(entity.properties, path)
        value = _transformed(transform, current, now, entity.key.partition_id)
        if current is not None:
            value.exclude_from_indexes = current.exclude_from_indexes
        set_value(entity, path, value)
        is_array = value.WhichOneof("value_type") == "array_value"
        results.append(Value(null_value=0) if is_array else value)
    return results


def _transformed(transform: Any, current: Any, now: float, partition: Any) -> Any:
    kind = transform.WhichOneof("transform_type")
    if kind is None:
        raise invalid("a property transform without a type")
    operand = getattr(transform, kind)
    if kind == "set_to_server_value":
        if operand != _REQUEST_TIME:
            raise invalid("an unknown server value")
        return _milliseconds(now)
    if kind in ("append_missing_elements", "remove_all_from_array"):
        elements: list[Any] = []
        if current is not None and current.WhichOneof("value_type") == "array_value":
            elements = list(current.array_value.values)
        return _array(kind, elements, list(operand.values), partition)
    if operand.WhichOneof("value_type") not in _NUMBERS:
        raise invalid(f"{kind} by what is no number")
    if current is None or current.WhichOneof("value_type") not in _NUMBERS:
        return _copy(operand)
    if kind == "increment":
        return _incremented(_number(current), _number(operand))
    return _copy(_chosen(kind, current, operand))


def _incremented(current: float, operand: float) -> Any:
    total = current + operand
    if isinstance(total, int):
        return Value(integer_value=max(_LEAST, min(_MOST, total)))
    return Value(double_value=total)


def _chosen(kind: str, current: Any, operand: Any) -> Any:
    """The larger or smaller of two values; what is stored, where they are equal."""
    mine, theirs = _number(current), _number(operand)
    for value, number in ((current, mine), (operand, theirs)):
        if math.isnan(number):
            return value
    is_better = theirs > mine if kind == "maximum" else theirs < mine
    return operand if is_better else current


def _array(kind: str, elements: list[Any], operands: Sequence[Any], partition: Any) -> Any:
    def rank(value: Any) -> object:
        return sort_key(value, partition.project_id, partition.database_id)

    if kind == "append_missing_elements":
        known = {rank(element) for element in elements}
        for value in operands:
            if rank(value) not in known:
                known.add(rank(value))
                elements.append(value)
    else:
        removed = {rank(value) for value in operands}
        elements = [element for element in elements if rank(element) not in removed]
    array = Value()
    array.array_value.values.extend(elements)
    array.array_value.SetInParent()
    return array


def _milliseconds(now: float) -> Any:
    milliseconds = math.floor(now * 1_000)
    value = Value()
    value.timestamp_value.seconds = milliseconds // 1_000
    value.timestamp_value.nanos = milliseconds % 1_000 * 1_000_000
    return value


def _number(value: Any) -> int | float:
    number: int | float = (
        value.integer_value if value.WhichOneof("value_type") == "integer_value" else value.double_value
    )
    return number


def _copy(value: Any) -> Any:
    copied = Value()
    copied.CopyFrom(value)
    return copied
