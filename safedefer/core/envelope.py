"""The frame of an envelope: fixed offsets, read before anything is verified. No cryptography, no decoding.

Spec: docs/reference/wire-format.md, section "Frame".
"""

from dataclasses import dataclass
from struct import Struct
from typing import Final, final

from safedefer.core.limits import MAX_CLAIMS_BYTES
from safedefer.core.names import KeyId
from safedefer.errors import MalformedEnvelopeError, Reason

CONTENT_TYPE: Final = "application/vnd.safedefer.envelope"
MAGIC: Final = b"SDFR"
VERSION: Final = 1
TAG_BYTES: Final = 32

_PREAMBLE: Final = Struct(">4sBBH8sHI")
PREAMBLE_BYTES: Final = _PREAMBLE.size
MIN_ENVELOPE_BYTES: Final = PREAMBLE_BYTES + 1 + TAG_BYTES


@final
@dataclass(frozen=True, slots=True, repr=False)
class UntrustedEnvelope:
    """The parts of an envelope that nobody has vouched for.

    Attributes:
        suite: Which algorithms the sender says it used.
        key_id: Which key the sender says it used.
        preamble: The first 22 bytes, as they came.
        claims: Encoded claims.
        tag: 32 bytes.
        body: The inline body; empty where the body is kept elsewhere.
    """

    suite: int
    key_id: KeyId
    preamble: bytes
    claims: bytes
    tag: bytes
    body: bytes

    def __repr__(self) -> str:
        return f"<UntrustedEnvelope of {len(self.claims)} + {len(self.body)} bytes>"


def parse_envelope(data: bytes) -> UntrustedEnvelope:
    """Split a version 1 envelope at its fixed offsets.

    Trust: `data` comes from the network; nothing in the result has been verified yet.
    Raises:
        MalformedEnvelopeError: `FRAME_LENGTH`, `FRAME_MAGIC`, `FRAME_VERSION` or `FRAME_FLAGS`.
    Spec: docs/reference/wire-format.md, section "Frame"."""
    if len(data) < MIN_ENVELOPE_BYTES:
        raise MalformedEnvelopeError(Reason.FRAME_LENGTH)
    magic, version, suite, flags, key_id, claims_size, body_size = _PREAMBLE.unpack_from(data)
    if magic != MAGIC:
        raise MalformedEnvelopeError(Reason.FRAME_MAGIC)
    if version != VERSION:
        raise MalformedEnvelopeError(Reason.FRAME_VERSION)
    if flags != 0:
        raise MalformedEnvelopeError(Reason.FRAME_FLAGS)
    if not 0 < claims_size <= MAX_CLAIMS_BYTES:
        raise MalformedEnvelopeError(Reason.FRAME_LENGTH)
    tag_start = PREAMBLE_BYTES + claims_size
    body_start = tag_start + TAG_BYTES
    if len(data) != body_start + body_size:
        raise MalformedEnvelopeError(Reason.FRAME_LENGTH)
    return UntrustedEnvelope(
        suite=suite,
        key_id=KeyId(key_id),
        preamble=data[:PREAMBLE_BYTES],
        claims=data[PREAMBLE_BYTES:tag_start],
        tag=data[tag_start:body_start],
        body=data[body_start:],
    )


def make_preamble(suite: int, key_id: KeyId, *, claims_size: int, body_size: int) -> bytes:
    """The 22 bytes in front of the claims.

    Args:
        body_size: Bytes behind the tag: 0 where the body is kept elsewhere.
    """
    return _PREAMBLE.pack(MAGIC, VERSION, suite, 0, key_id, claims_size, body_size)
