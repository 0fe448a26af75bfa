"""What a projection query answers with: values as they stand in an index."""

from collections.abc import Mapping
from typing import Any, Final

from safedefer.emulator.datastore.keys import EntityKey
from safedefer.emulator.datastore.messages import Entity, Value

_INDEX_VALUE: Final = 18
_MICROSECONDS: Final = 1_000_000


def project_entity(key: EntityKey, values: Mapping[str, Any]) -> Any:
    """An entity with the projected values alone."""
    entity = Entity(key=key.message())
    for name, value in values.items():
        entity.properties[name].CopyFrom(_project_value(value))
    return entity


def _project_value(value: Any) -> Any:
    """A value as the index has it: a time is a number of microseconds there, marked by its meaning."""
    if value.WhichOneof("value_type") != "timestamp_value":
        return value
    moment = value.timestamp_value
    return Value(integer_value=moment.seconds * _MICROSECONDS + moment.nanos // 1_000, meaning=_INDEX_VALUE)
