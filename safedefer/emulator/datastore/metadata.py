"""The kinds in which the service tells what it holds: `__namespace__`, `__kind__` and `__property__`."""

from collections.abc import Iterator
from typing import Any, Final

from safedefer.emulator.datastore.entries import Row
from safedefer.emulator.datastore.failures import unsupported
from safedefer.emulator.datastore.keys import Element, EntityKey, Partition
from safedefer.emulator.datastore.messages import Entity
from safedefer.emulator.datastore.storage import Bound, Scan, Storage, Stored

_NAMESPACE, _KIND, _PROPERTY = "__namespace__", "__kind__", "__property__"
_DEFAULT_NAMESPACE_ID: Final = 1
_REPRESENTATIONS: Final = {
    "null_value": "NULL",
    "boolean_value": "BOOLEAN",
    "integer_value": "INT64",
    "timestamp_value": "INT64",
    "double_value": "DOUBLE",
    "string_value": "STRING",
    "blob_value": "STRING",
    "key_value": "REFERENCE",
    "geo_point_value": "POINT",
}
"""How an index holds a value. An entity value stands in no index itself."""


def is_metadata(kind: str | None) -> bool:
    """Whether a query of a kind is answered from here."""
    return kind is not None and kind.startswith("__") and kind.endswith("__")


def metadata_reader(storage: Storage, partition: Partition, kind: str) -> Scan:
    """What a query reads a metadata kind with.

    Raises:
        CallError: UNIMPLEMENTED: another reserved kind, such as statistics.
    """
    rows = {_NAMESPACE: _namespaces, _KIND: _kinds, _PROPERTY: _properties}.get(kind)
    if rows is None:
        raise unsupported(f"queries of {kind}")

    def scan(low: Bound | None, high: Bound | None, backwards: bool) -> Iterator[Row]:  # noqa: FBT001  # As Scan says.
        found = sorted((row for row in rows(storage, partition) if _lies_in(row[0], low, high)), key=lambda row: row[0])
        return iter(reversed(found) if backwards else found)

    return scan


def _lies_in(key: EntityKey, low: Bound | None, high: Bound | None) -> bool:
    above = low is None or (key.path >= low[0] if low[1] else key.path > low[0])
    return above and (high is None or (key.path <= high[0] if high[1] else key.path < high[0]))


def _namespaces(storage: Storage, partition: Partition) -> Iterator[Row]:
    for place in storage.partitions():
        if (place.project, place.database) == (partition.project, partition.database):
            element = _name(_NAMESPACE, place.namespace) if place.namespace else _default_namespace()
            yield _row(storage, EntityKey(partition, (element,)))


def _kinds(storage: Storage, partition: Partition) -> Iterator[Row]:
    for kind in storage.kinds(partition):
        yield _row(storage, EntityKey(partition, (_name(_KIND, kind),)))


def _properties(storage: Storage, partition: Partition) -> Iterator[Row]:
    for kind in storage.kinds(partition):
        found: dict[str, set[str]] = {}
        for _, stored in storage.scan(partition, kind, None):
            _collect(stored.entity.properties, "", found)
        for name, kinds in found.items():
            row = _row(storage, EntityKey(partition, (_name(_KIND, kind), _name(_PROPERTY, name))))
            for representation in sorted(kinds):
                values = row[1].entity.properties["property_representation"].array_value.values
                values.add(string_value=representation)
            yield row


def _collect(properties: Any, prefix: str, found: dict[str, set[str]]) -> None:
    """The indexed properties, those inside entity values among them."""
    for name, value in properties.items():
        parts = value.array_value.values if value.WhichOneof("value_type") == "array_value" else [value]
        for part in () if value.exclude_from_indexes else parts:
            kind = part.WhichOneof("value_type")
            if part.exclude_from_indexes:
                continue
            if kind == "entity_value":
                _collect(part.entity_value.properties, f"{prefix}{name}.", found)
            elif kind in _REPRESENTATIONS:
                found.setdefault(prefix + name, set()).add(_REPRESENTATIONS[kind])


def _row(storage: Storage, key: EntityKey) -> Row:
    return key, Stored(storage.version or 1, Entity(key=key.message()), 0.0, 0.0)


def _name(kind: str, name: str) -> Element:
    return (kind.encode(), 1, 0, name.encode())


def _default_namespace() -> Element:
    return (_NAMESPACE.encode(), 0, _DEFAULT_NAMESPACE_ID, b"")
