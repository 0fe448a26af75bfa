"""The values without parts that msgpack does not have: big ints, dates and times, Decimal, UUID.

Each has one payload, and a payload is accepted only if its value has that payload again.
"""

import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Context, Decimal, InvalidOperation
from functools import cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import msgpack

from safedefer.core.wire import ExtCode, WireError, pack, unpack

_MICROSECOND: Final = timedelta(microseconds=1)
_INT64: Final = range(-(1 << 63), 1 << 64)
_DECIMAL_TEXT: Final = Context(capitals=1)
"""`str` would ask the calling thread's context whether to write `E` or `e`."""


def _dump_int(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 8) // 8, "big", signed=True)


def _load_int(data: bytes) -> int:
    value = int.from_bytes(data, "big", signed=True)
    if value in _INT64:
        raise WireError("a big int that is not big")
    return value


@cache
def zone_names() -> frozenset[str]:
    """Keys of all zones of the IANA database that this machine knows."""
    return frozenset(available_timezones())


def _dump_zone(zone: tzinfo | None) -> object:
    """None, an offset in microseconds, or the key of a zone in the IANA database."""
    match zone:
        case None:
            return None
        case timezone():
            return zone.utcoffset(None) // _MICROSECOND
        case ZoneInfo(key=str(key)) if key in zone_names():
            return key
        case _:
            raise ValueError(f"a time zone of type {type(zone).__name__}; use zoneinfo or datetime.timezone")


def _load_zone(value: object) -> tzinfo | None:
    match value:
        case None:
            return None
        case 0:
            return UTC
        case int():
            return timezone(timedelta(microseconds=value))
        case str() if value in zone_names():
            # A name that is not known must not get to ZoneInfo, which looks for it among the modules of tzdata.
            return ZoneInfo(value)
        case _:
            raise WireError("not a time zone")


def _dump_datetime(value: datetime) -> bytes:
    moment = [value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond]
    return pack([*moment, value.fold, _dump_zone(value.tzinfo)])


def _load_datetime(data: bytes) -> datetime:
    *moment, fold, zone = _parts(data, 9)
    year, month, day, hour, minute, second, microsecond = (_int(part) for part in moment)
    return datetime(year, month, day, hour, minute, second, microsecond, _load_zone(zone), fold=_int(fold))


def _dump_date(value: date) -> bytes:
    return pack([value.year, value.month, value.day])


def _load_date(data: bytes) -> date:
    year, month, day = (_int(part) for part in _parts(data, 3))
    return date(year, month, day)


def _dump_time(value: time) -> bytes:
    return pack([value.hour, value.minute, value.second, value.microsecond, value.fold, _dump_zone(value.tzinfo)])


def _load_time(data: bytes) -> time:
    hour, minute, second, microsecond, fold, zone = _parts(data, 6)
    return time(_int(hour), _int(minute), _int(second), _int(microsecond), _load_zone(zone), fold=_int(fold))


def _dump_timedelta(value: timedelta) -> bytes:
    return pack([value.days, value.seconds, value.microseconds])


def _load_timedelta(data: bytes) -> timedelta:
    days, seconds, microseconds = (_int(part) for part in _parts(data, 3))
    return timedelta(days, seconds, microseconds)


def _dump_decimal(value: Decimal) -> bytes:
    return _DECIMAL_TEXT.to_sci_string(value).encode("ascii")


def _load_decimal(data: bytes) -> Decimal:
    return Decimal(data.decode("ascii"))


def _dump_uuid(value: uuid.UUID) -> bytes:
    return value.bytes


def _load_uuid(data: bytes) -> uuid.UUID:
    return uuid.UUID(bytes=data)


def _parts(data: bytes, count: int) -> list[object]:
    tree = unpack(data)
    if not isinstance(tree, list) or len(tree) != count:
        raise WireError("a date or time with the wrong number of parts")
    return tree


def _int(value: object) -> int:
    if type(value) is not int:
        raise WireError("a date or time with a part that is no int")
    return value


_DUMPERS: Final[dict[type, tuple[ExtCode, Callable[..., bytes]]]] = {
    int: (ExtCode.BIG_INT, _dump_int),
    datetime: (ExtCode.DATETIME, _dump_datetime),
    date: (ExtCode.DATE, _dump_date),
    time: (ExtCode.TIME, _dump_time),
    timedelta: (ExtCode.TIMEDELTA, _dump_timedelta),
    Decimal: (ExtCode.DECIMAL, _dump_decimal),
    uuid.UUID: (ExtCode.UUID, _dump_uuid),
}
_LOADERS: Final[dict[int, Callable[[bytes], object]]] = {
    ExtCode.BIG_INT: _load_int,
    ExtCode.DATETIME: _load_datetime,
    ExtCode.DATE: _load_date,
    ExtCode.TIME: _load_time,
    ExtCode.TIMEDELTA: _load_timedelta,
    ExtCode.DECIMAL: _load_decimal,
    ExtCode.UUID: _load_uuid,
}

ATOM_CODES: Final = frozenset(_LOADERS)
ATOM_TYPES: Final = frozenset(_DUMPERS) - {int}
"""What travels as an ext value besides big ints, by exact type."""


def dump_atom(value: object) -> msgpack.ExtType | None:
    """Encode a value of `ATOM_TYPES`, or an int that msgpack cannot hold; None for any other type.

    Raises:
        ValueError: The value is of such a type but has a part that cannot travel, such as an unknown kind of time zone.
    """
    found = _DUMPERS.get(type(value))
    if found is None:
        return None
    code, dump = found
    return msgpack.ExtType(code, dump(value))


def load_atom(code: int, data: bytes) -> object:
    """Decode what `dump_atom` made.

    Raises:
        WireError: No such code, or a payload that its own value would not have.
    """
    load = _LOADERS.get(code)
    if load is None:
        raise WireError("an ext type that is no value")
    try:
        value = load(data)
        again = dump_atom(value)
    except (ValueError, TypeError, OverflowError, InvalidOperation, ZoneInfoNotFoundError, OSError) as error:
        if isinstance(error, WireError):
            raise
        raise WireError("an ext value out of range") from None
    if again is None or again.data != data:
        raise WireError("not the one encoding of an ext value")
    return value


def pack_atoms(values: list[object]) -> bytes:
    """Encode a row of values without parts: plain ones, None, and those of `ATOM_TYPES`.

    Raises:
        ValueError: A value of such a type that cannot travel, or a text that is no Unicode; or a value with parts.
    """
    return pack(values, _dump_known)


def unpack_atoms(data: bytes, *, count: int) -> list[object]:
    """Decode what `pack_atoms` made of that many values.

    Raises:
        WireError: Not such bytes.
    """
    tree = unpack(data)
    if not isinstance(tree, list) or len(tree) != count:
        raise WireError("not the expected number of values")
    if any(isinstance(item, list | dict) for item in tree):
        raise WireError("a value with parts")
    return [load_atom(item.code, item.data) if isinstance(item, msgpack.ExtType) else item for item in tree]


def _dump_known(value: object) -> msgpack.ExtType:
    atom = dump_atom(value)
    if atom is None:
        raise WireError(f"{type(value).__name__} is no value without parts")
    return atom
