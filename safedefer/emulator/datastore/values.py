"""The order of values, their index entries, and what an entity may hold."""

import math
from typing import Any, Final, TypeAlias

from safedefer.emulator.datastore.failures import MAX_DEPTH, MAX_ENTITY_BYTES, MAX_INDEXED_BYTES, invalid
from safedefer.emulator.datastore.keys import EntityKey, parse_key

SortKey: TypeAlias = tuple[Any, ...]
"""Comparable with every other: the rank of its type first."""

_NULL, _BOOL, _NUMBER, _TIME, _TEXT, _BLOB, _KEY, _GEO, _ARRAY, _ENTITY = range(10)
_NOT_A_NUMBER: Final = (_NUMBER, 0, 0)


def sort_key(value: Any, project: str, database: str) -> SortKey:
    """Where a value stands among all values: null, booleans, numbers, times, texts, blobs, keys, points, others."""
    match value.WhichOneof("value_type"):
        case None | "null_value":
            return (_NULL,)
        case "boolean_value":
            return (_BOOL, value.boolean_value)
        case "integer_value":
            return (_NUMBER, 1, value.integer_value)
        case "double_value":
            number = value.double_value
            # NaN is below every number, and equal to itself.
            return _NOT_A_NUMBER if math.isnan(number) else (_NUMBER, 1, number)
        case "timestamp_value":
            # The service keeps microseconds.
            return (_TIME, value.timestamp_value.seconds, value.timestamp_value.nanos // 1_000)
        case "string_value":
            return (_TEXT, value.string_value.encode())
        case "blob_value":
            return (_BLOB, value.blob_value)
        case "key_value":
            return key_rank(parse_key(project, database, value.key_value, allow_reserved=True))
        case "geo_point_value":
            return (_GEO, value.geo_point_value.latitude, value.geo_point_value.longitude)
        case "array_value":
            return (_ARRAY, tuple(sort_key(part, project, database) for part in value.array_value.values))
        case _:
            return (_ENTITY, value.entity_value.SerializeToString(deterministic=True))


def key_rank(key: EntityKey) -> SortKey:
    """Where a key stands among all values."""
    return (_KEY, key)


def check_entity(entity: Any, project: str, database: str) -> None:
    """Refuse what the service would refuse.

    Raises:
        CallError: INVALID_ARGUMENT: too large, nested too deep, an indexed text too long, or a reserved name.
    """
    size = entity.ByteSize()
    if size > MAX_ENTITY_BYTES:
        raise invalid(f"entity is too big: {size} bytes, at most {MAX_ENTITY_BYTES}")
    for name, value in entity.properties.items():
        if not name or (name.startswith("__") and name.endswith("__")):
            raise invalid(f"the property name {name!r} is empty or reserved")
        _check_value(name, value, project, database, 1)


def _check_value(name: str, value: Any, project: str, database: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise invalid("values nested too deep")
    kind = value.WhichOneof("value_type")
    if kind in ("string_value", "blob_value") and not value.exclude_from_indexes:
        data = value.string_value.encode() if kind == "string_value" else value.blob_value
        if len(data) > MAX_INDEXED_BYTES:
            raise invalid(f'The value of property "{name}" is longer than {MAX_INDEXED_BYTES} bytes.')
    if kind == "key_value":
        parse_key(project, database, value.key_value)
    if kind == "array_value":
        for part in value.array_value.values:
            if part.WhichOneof("value_type") == "array_value":
                raise invalid("an array inside an array")
            _check_value(name, part, project, database, depth + 1)
    if kind == "entity_value":
        for inner, part in value.entity_value.properties.items():
            _check_value(f"{name}.{inner}", part, project, database, depth + 1)
