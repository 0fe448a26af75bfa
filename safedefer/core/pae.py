"""Pre-authentication encoding: a list of byte strings as one, so that no two lists give the same bytes."""

from struct import Struct
from typing import Final

_LENGTH: Final = Struct("<Q")
_pack_length = _LENGTH.pack


def encode_length(length: int) -> bytes:
    """A count or a length as it stands in the encoding."""
    return _pack_length(length)


def encode_pieces(*pieces: bytes) -> bytes:
    """Join byte strings with their count and lengths in front, each as 8 bytes, little-endian.

    Spec: docs/reference/wire-format.md, section "Pre-authentication encoding"."""
    parts = [_pack_length(len(pieces))]
    for piece in pieces:
        parts.append(_pack_length(len(piece)))
        parts.append(piece)
    return b"".join(parts)
