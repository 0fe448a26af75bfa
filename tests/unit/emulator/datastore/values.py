"""Values of every type in the order in which the local Datastore sorts them, written out by hand."""

import math
from typing import Any, Final

from safedefer.emulator.datastore.keys import Element, EntityKey, Partition
from safedefer.emulator.datastore.messages import Value

PARTITION: Final = Partition("p", "", "")


def element(kind: str, id_or_name: int | str) -> Element:
    """One element of a path."""
    if isinstance(id_or_name, int):
        return (kind.encode(), 0, id_or_name, b"")
    return (kind.encode(), 1, 0, id_or_name.encode())


def key(*path: int | str) -> EntityKey:
    """A key of a flat path."""
    pairs = zip(path[::2], path[1::2], strict=True)
    return EntityKey(PARTITION, tuple(element(str(kind), name) for kind, name in pairs))


def key_value(*path: int | str) -> Any:
    """A value that is a key."""
    return Value(key_value=key(*path).message())


def time_value(seconds: int, nanos: int = 0) -> Any:
    """A value that is a time."""
    value = Value()
    value.timestamp_value.seconds, value.timestamp_value.nanos = seconds, nanos
    return value


def point_value(latitude: float, longitude: float) -> Any:
    """A value that is a point."""
    value = Value()
    value.geo_point_value.latitude, value.geo_point_value.longitude = latitude, longitude
    return value


KEYS_IN_ORDER: Final = (
    key("A", -5),
    key("A", 1),
    key("A", 1, "A", 1),
    key("A", 1, "A", "a"),
    key("A", 1, "B", 1),
    key("A", 2),
    key("A", 10),
    key("A", "1"),
    key("A", "1", "B", 1),
    key("A", "10"),
    key("A", "2"),
    key("A", "a"),
    key("A", "\u00e9"),
    key("A", "\uffff"),
    key("A", "\U00010000"),
    key("AA", 1),
    key("B", 1),
    key("a", 1),
    key("\u00e4", 1),
)

VALUES_IN_ORDER: Final[tuple[tuple[Any, ...], ...]] = (
    (Value(null_value=0),),
    (Value(boolean_value=False),),
    (Value(boolean_value=True),),
    (Value(double_value=math.nan), Value(double_value=-math.nan)),
    (Value(double_value=-math.inf),),
    (Value(integer_value=-(1 << 63)), Value(double_value=-float(1 << 63))),
    (Value(integer_value=-1), Value(double_value=-1.0)),
    (Value(integer_value=0), Value(double_value=0.0), Value(double_value=-0.0)),
    (Value(double_value=5e-324),),
    (Value(integer_value=1), Value(double_value=1.0)),
    (Value(double_value=1.5),),
    (Value(integer_value=1 << 53), Value(double_value=float(1 << 53))),
    # No double lies between this and the one before it.
    (Value(integer_value=(1 << 53) + 1),),
    (Value(integer_value=(1 << 63) - 1),),
    (Value(double_value=float(1 << 63)),),
    (Value(double_value=math.inf),),
    (time_value(-1),),
    (time_value(0), time_value(0, 999)),
    (time_value(0, 1_000),),
    (time_value(1),),
    (Value(string_value=""),),
    (Value(string_value="B"),),
    (Value(string_value="a"),),
    (Value(string_value="aa"),),
    (Value(string_value="\uffff"),),
    (Value(string_value="\U00010000"),),
    (Value(blob_value=b""),),
    (Value(blob_value=b"\x00"),),
    (Value(blob_value=b"a"),),
    (Value(blob_value=b"\xff"),),
    *((Value(key_value=entity_key.message()),) for entity_key in KEYS_IN_ORDER),
    (point_value(-1.0, 5.0),),
    (point_value(0.0, -1.0),),
    (point_value(0.0, 1.0),),
)
"""Groups of values that are equal to each other, the groups in order."""
