"""Strict msgpack: one encoding per value, bounded before it is built, nothing that was not asked for.

The plain types are None, bool, int of 64 bits, float, str, bytes, list and dict with str keys. Whatever else travels is
an ext value with a code of `ExtCode`; `safedefer.core.atoms` and `safedefer.core.shapes` give those their meaning.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import final

import msgpack

from safedefer.core.limits import MAX_NODES


@final
class ExtCode(IntEnum):
    """The msgpack ext types in use. -1 is msgpack's own timestamp, which is refused."""

    TUPLE = 1
    SET = 2
    FROZENSET = 3
    BIG_INT = 4
    DATETIME = 5
    DATE = 6
    TIME = 7
    TIMEDELTA = 8
    DECIMAL = 9
    UUID = 10
    ENUM = 11
    DATACLASS = 12
    MODEL = 13


@final
class WireError(ValueError):
    """The bytes are not the one strict encoding of anything, or are larger than allowed.

    Attributes:
        limit: True where a bound was passed, False where the form is wrong.
    """

    def __init__(self, message: str, *, limit: bool = False) -> None:
        super().__init__(message)
        self.limit = limit


def _refuse(value: object) -> object:
    raise WireError(f"{type(value).__name__} is no plain value")


def pack(value: object, default: Callable[[object], object] = _refuse) -> bytes:
    """Encode a tree of plain values.

    `strict_types` sends tuples, enums and every subclass of a plain type to `default`, where msgpack alone would
    write them as what they derive from.

    Args:
        value: The tree.
        default: Called for what is not plain; returns a plain value or an ExtType.
    """
    return msgpack.packb(value, default=default, strict_types=True)


def pack_array(items: list[bytes]) -> bytes:
    """Join encoded items to one encoded array."""
    return msgpack.Packer(autoreset=True).pack_array_header(len(items)) + b"".join(items)


def unpack(data: bytes) -> object:
    """Decode bytes that `pack` made, and only those.

    Lists stay lists, maps become dicts with str keys, ext values stay ExtType. The result encodes to `data` again:
    longer forms of a number or a length, float32 and repeated keys are refused.

    Trust: `data` has been authenticated; the bounds here limit what a wrong sender can cost.
    Raises:
        WireError: Not such an encoding, or a container larger than the bounds.
    """
    size = len(data)
    most = min(MAX_NODES, size)
    # Every value takes a byte, so that only a long text can hold too many.
    counter = _Counter() if size > MAX_NODES else None
    try:
        tree = msgpack.unpackb(
            data,
            strict_map_key=True,
            timestamp=3,  # A msgpack timestamp becomes a datetime, which `pack` below refuses.
            object_pairs_hook=_unique_keys if counter is None else counter.count_map,
            list_hook=None if counter is None else counter.count_list,
            max_str_len=size,
            max_bin_len=size,
            max_ext_len=size,
            max_array_len=most,
            max_map_len=most,
        )
    except (ValueError, OverflowError, msgpack.UnpackException) as error:
        if isinstance(error, WireError):
            raise
        # msgpack's own text may quote the input.
        raise WireError("not a msgpack value", limit="exceeds max_" in str(error)) from None
    try:
        again = pack(tree)
    except (ValueError, TypeError, OverflowError):
        raise WireError("a value of an unknown type, or nested too deep") from None
    if again != data:
        raise WireError("not the shortest encoding")
    return tree


@final
class _Counter:
    """Counts containers and their parts while they are built, so that a bomb of empty ones is stopped early."""

    __slots__ = ("_containers", "_parts")

    def __init__(self) -> None:
        self._containers = 0
        self._parts = 0

    def count_list(self, items: list[object]) -> list[object]:
        self._count(len(items))
        return items

    def count_map(self, pairs: list[tuple[object, object]]) -> dict[str, object]:
        self._count(2 * len(pairs))
        return _unique_keys(pairs)

    def _count(self, parts: int) -> None:
        self._containers += 1
        self._parts += parts
        if self._containers > MAX_NODES or self._parts > MAX_NODES:
            raise WireError("too many values", limit=True)


def _unique_keys(pairs: list[tuple[object, object]]) -> dict[str, object]:
    result: dict[str, object] = {}
    for key, value in pairs:
        if type(key) is not str:
            raise WireError("a map key that is no string")
        result[key] = value
    if len(result) != len(pairs):
        raise WireError("a repeated map key")
    return result
