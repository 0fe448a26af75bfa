"""Signs claims, and turns what is untrusted into what is verified: the one place where that happens.

`VerifiedEnvelope` and `VerifiedBody` cannot be made anywhere else; what executes a call accepts nothing but them.
"""

import hmac
from hashlib import sha256
from typing import Final, NoReturn, SupportsIndex, final

from safedefer.core.claims import CODEC_ID, BodyClaim, Claims, Storage, dump_claims, parse_claims
from safedefer.core.envelope import PREAMBLE_BYTES, TAG_BYTES, VERSION, UntrustedEnvelope, make_preamble
from safedefer.core.keys import Key, KeyRing
from safedefer.core.names import EnvironmentName, ProjectName
from safedefer.core.pae import encode_length, encode_pieces
from safedefer.errors import BodyDigestError, ClaimsError, Reason, SignatureError

_PIECES: Final = (b"safedefer.envelope", bytes([VERSION]))
# The encoding of the five signed pieces up to the preamble, which always has the same length.
_HEAD: Final = encode_length(5) + encode_pieces(*_PIECES)[8:] + encode_length(PREAMBLE_BYTES)


@final
class VerifiedEnvelope:
    """An envelope whose tag was made with one of our live keys.

    Attributes:
        claims: What the tag speaks for.
        key: The key that vouches for them.
        tag: Its 32 bytes; they identify the envelope.
    """

    __slots__ = ("_body", "claims", "key", "tag")

    claims: Claims
    key: Key
    tag: bytes
    _body: bytes

    def __init__(self) -> None:
        raise TypeError("a VerifiedEnvelope comes from verify_envelope() only")

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a VerifiedEnvelope is neither copied nor serialized")

    def __repr__(self) -> str:
        return f"<VerifiedEnvelope {self.claims.task_id.hex()} {self.claims.function.name}>"


@final
class VerifiedBody:
    """The very bytes that the claims of a verified envelope name.

    Attributes:
        data: The encoded arguments.
        claims: The claims that name them.
    """

    __slots__ = ("claims", "data")

    data: bytes
    claims: Claims

    def __init__(self) -> None:
        raise TypeError("a VerifiedBody comes from verify_body() only")

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a VerifiedBody is neither copied nor serialized")

    def __repr__(self) -> str:
        return f"<VerifiedBody of {len(self.data)} bytes>"


@final
class Deployment:
    """What both sides know and no envelope carries: the environment and the project that the tag is bound to."""

    __slots__ = ("assertion", "piece")

    def __init__(self, environment: EnvironmentName, project: ProjectName) -> None:
        self.assertion: bytes = encode_pieces(environment.encode(), project.encode())
        self.piece: bytes = encode_length(len(self.assertion)) + self.assertion


def claim_body(body: bytes, storage: Storage) -> BodyClaim:
    """What the claims say of a body."""
    return BodyClaim(codec=CODEC_ID, size_bytes=len(body), sha256=sha256(body).digest(), storage=storage)


def sign_envelope(claims: Claims, body: bytes, key: Key, deployment: Deployment) -> bytes:
    """Sign claims and return the whole envelope.

    Args:
        claims: Their body claim was made of `body`, or of the body that is kept elsewhere.
        body: What goes behind the tag; empty where the body is kept elsewhere.
    Raises:
        SignatureError: The key is disabled or destroyed.
    """
    encoded = dump_claims(claims)
    preamble = make_preamble(key.suite, key.id, claims_size=len(encoded), body_size=len(body))
    return b"".join((preamble, encoded, _tag(key.mac, preamble, encoded, deployment), body))


def verify_envelope(envelope: UntrustedEnvelope, ring: KeyRing, deployment: Deployment) -> VerifiedEnvelope:
    """Find the key by its id, compare the tag in constant time, and only then read the claims.

    Trust: the one way from an UntrustedEnvelope to a VerifiedEnvelope.
    Raises:
        SignatureError: `KEY_UNKNOWN`, `KEY_DISABLED`, `KEY_DESTROYED`, `SUITE_MISMATCH` or `TAG_INVALID`.
        ClaimsError: The signed claims cannot be read.
    """
    key = ring.find(envelope.key_id)
    if envelope.suite != key.suite:
        raise SignatureError(Reason.SUITE_MISMATCH, key.name)
    expected = _tag(key.mac, envelope.preamble, envelope.claims, deployment)
    if len(envelope.tag) != TAG_BYTES or not hmac.compare_digest(envelope.tag, expected):
        raise SignatureError(Reason.TAG_INVALID, key.name)
    claims = parse_claims(envelope.claims)
    if claims.body.storage is Storage.OVERFLOW and envelope.body:
        raise ClaimsError(Reason.CLAIMS_MALFORMED)
    verified = object.__new__(VerifiedEnvelope)
    verified.claims = claims
    verified.key = key
    verified.tag = envelope.tag
    verified._body = envelope.body  # Private to this module: nobody else may take it for verified.
    return verified


def verify_body(envelope: VerifiedEnvelope, stored: bytes | None = None) -> VerifiedBody:
    """Hold a body against the length and digest in the claims.

    Trust: `stored` may come from anywhere; it is compared before it is parsed.
    Args:
        stored: The body that was kept outside the task; None for the one behind the tag.
    Raises:
        BodyDigestError: `BODY_LENGTH` or `BODY_DIGEST`.
    """
    claim = envelope.claims.body
    body = envelope._body if stored is None else stored  # noqa: SLF001  # See above.
    if len(body) != claim.size_bytes:
        raise BodyDigestError(Reason.BODY_LENGTH, f"{len(body)} bytes instead of {claim.size_bytes}")
    if not hmac.compare_digest(sha256(body).digest(), claim.sha256):
        raise BodyDigestError(Reason.BODY_DIGEST)
    verified = object.__new__(VerifiedBody)
    verified.data = body
    verified.claims = envelope.claims
    return verified


def _tag(mac_key: bytes, preamble: bytes, claims: bytes, deployment: Deployment) -> bytes:
    # encode_pieces(*_PIECES, preamble, assertion, claims), put together of parts that are known beforehand.
    message = b"".join((_HEAD, preamble, deployment.piece, encode_length(len(claims)), claims))
    return hmac.digest(mac_key, message, "sha256")
