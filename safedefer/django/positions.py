"""Where a walk stands and where it ends, as values and as the bytes that records keep of them."""

from dataclasses import dataclass, field
from typing import Any, Final, final

from django.db.models import Field

from safedefer.core.atoms import pack_atoms, unpack_atoms
from safedefer.core.wire import WireError
from safedefer.django.order_field import OrderField, is_key, to_key
from safedefer.errors import InvalidKeyRangesError

MAX_KEY_BYTES: Final = 3_072
"""One encoded key. PostgreSQL indexes values of 2,704 bytes at most, Datastore of 1,500."""

_MAX_RANGE_BYTES: Final = 4 * MAX_KEY_BYTES + 8


@final
@dataclass(frozen=True, slots=True)
class Cursor:
    """A row of a walk, by its place: the value of the order field, then the primary key.

    Attributes:
        value: Of the order field; the primary key again where that is the order field.
        pk: The primary key.
    """

    # Keys are data of the application, which no log may show.
    value: object = field(repr=False)
    pk: object = field(repr=False)


@final
@dataclass(frozen=True, slots=True)
class KeyRange:
    """The rows whose order field has a value from `lo` up to, but not, `hi`.

    Attributes:
        lo: None is open below.
        hi: None is open above.
        last: The last row there was when the ranges were made; rows behind it are not walked. None freezes nothing.
    """

    lo: object = field(default=None, repr=False)
    hi: object = field(default=None, repr=False)
    last: Cursor | None = None


def encode_key(order: OrderField, value: object) -> bytes:
    """One key value as bytes.

    Raises:
        InvalidKeyRangesError: No value of that field, or one whose encoding is longer than `MAX_KEY_BYTES`.
    """
    return _pack([_bounded(order.field, value)])


def decode_key(order: OrderField, data: bytes) -> object:
    """Read what `encode_key` made for the same field.

    Trust: `data` comes from the record store, which nobody signs: who can write there can move a walk, and no more.
    Raises:
        WireError: Not such bytes, or a value of another type than the field has now.
    """
    (value,) = _unpack(data, 1)
    return _typed(order.field, value)


def encode_cursor(order: OrderField, cursor: Cursor) -> bytes:
    """A cursor as bytes; one value where the primary key is the order field.

    Raises:
        InvalidKeyRangesError: As `encode_key`.
    """
    return _pack(_position(order, cursor))


def decode_cursor(order: OrderField, data: bytes) -> Cursor:
    """Read what `encode_cursor` made for the same field.

    Trust, Raises: As `decode_key`.
    """
    return _cursor(order, _unpack(data, 1 if order.is_pk else 2))


def encode_key_range(order: OrderField, key_range: KeyRange) -> bytes:
    """A key range as bytes, with the row that it is frozen at.

    Raises:
        InvalidKeyRangesError: As `encode_key`.
    """
    bounds = [None if bound is None else _bounded(order.field, bound) for bound in (key_range.lo, key_range.hi)]
    last = [None] * (1 if order.is_pk else 2) if key_range.last is None else _position(order, key_range.last)
    return _pack(bounds + last)


def decode_key_range(order: OrderField, data: bytes) -> KeyRange:
    """Read what `encode_key_range` made for the same field.

    Trust, Raises: As `decode_key`.
    """
    lo, hi, *last = _unpack(data, 3 if order.is_pk else 4)
    return KeyRange(
        lo=None if lo is None else _typed(order.field, lo),
        hi=None if hi is None else _typed(order.field, hi),
        last=None if all(part is None for part in last) else _cursor(order, last),
    )


def _position(order: OrderField, cursor: Cursor) -> list[object]:
    pk = _bounded(order.pk_field, cursor.pk)
    return [pk] if order.is_pk else [_bounded(order.field, cursor.value), pk]


def _cursor(order: OrderField, parts: list[object]) -> Cursor:
    pk = _typed(order.pk_field, parts[-1])
    return Cursor(pk if order.is_pk else _typed(order.field, parts[0]), pk)


def _bounded(field: "Field[Any, Any]", value: object) -> object:
    key = to_key(field, value)
    size = len(_pack([key]))
    if size > MAX_KEY_BYTES:
        raise InvalidKeyRangesError(f"a value of {field} takes {size:,} bytes, a key {MAX_KEY_BYTES:,} at most")
    return key


def _pack(values: list[object]) -> bytes:
    try:
        return pack_atoms(values)
    except (ValueError, OverflowError) as error:
        raise InvalidKeyRangesError(f"a key that cannot be encoded ({type(error).__name__})") from None


def _unpack(data: bytes, count: int) -> list[object]:
    if len(data) > _MAX_RANGE_BYTES:
        raise WireError("longer than any position", limit=True)
    return unpack_atoms(data, count=count)


def _typed(field: "Field[Any, Any]", value: object) -> object:
    if not is_key(field, value):
        raise WireError("a key of another type than its field")
    return value
