"""Keys: where each secret may be used, under which id, and for how long it is believed.

A key is found by its id and never by trying them all. Each derived key serves one purpose in one environment of one
project with one suite, so that nothing signed elsewhere with the same root secret is accepted here.
"""

import base64
import binascii
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Final, NoReturn, SupportsIndex, final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from safedefer.core.limits import MIN_KEY_BYTES
from safedefer.core.names import KEY_ID_BYTES, EnvironmentName, KeyId, ProjectName
from safedefer.core.pae import encode_pieces
from safedefer.errors import ConfigurationError, Reason, SignatureError

SUITE_HMAC_SHA256: Final = 0x01
"""The one suite of version 1. A message cannot choose: the suite belongs to the key."""

_SALT: Final = b"safedefer.hkdf.v1"
_MIN_DISTINCT_BYTES: Final = 12
"""32 random bytes have fewer distinct values about once in 10^13 tries; typed text and repeated patterns do not."""


@final
class Secret:
    """Bytes that no repr, log record, copy or pickle may show."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """The bytes, for the one computation that needs them."""
        return self._value

    def __repr__(self) -> str:
        return "<Secret>"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a secret is neither copied nor serialized")


@final
class KeyState(StrEnum):
    """The life of a key, in order: published, promoted, demoted, refused, gone."""

    PRIMARY = "primary"
    """Signs and verifies. A ring has exactly one."""
    ACTIVE = "active"
    """Verifies: published before its promotion, or kept after it for what is still queued."""
    DISABLED = "disabled"
    """Known and refused; its use is an alarm."""
    DESTROYED = "destroyed"
    """The material is gone; the id is remembered, so that its use is told apart from an unknown key."""


@final
class Key:
    """One signing key of one environment.

    Attributes:
        name: The operator's name for it.
        id: 8 bytes that travel in the envelope.
        state: What it may be used for.
        suite: Which algorithms it may be used with.
    """

    __slots__ = ("_mac", "id", "name", "state", "suite")

    def __init__(self, *, name: str, key_id: KeyId, state: KeyState, mac: Secret | None) -> None:
        self.name: str = name
        self.id: KeyId = key_id
        self.state: KeyState = state
        self.suite: int = SUITE_HMAC_SHA256
        self._mac = mac

    @property
    def mac(self) -> bytes:
        """The key of the envelope's tag.

        Raises:
            SignatureError: `KEY_DISABLED` or `KEY_DESTROYED`: such a key computes nothing.
        """
        if self.state is KeyState.DISABLED:
            raise SignatureError(Reason.KEY_DISABLED, self.name)
        if self.state is KeyState.DESTROYED or self._mac is None:
            raise SignatureError(Reason.KEY_DESTROYED, self.name)
        return self._mac.reveal()

    def __repr__(self) -> str:
        return f"<Key {self.name} {self.id.hex()} {self.state.value}>"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a key is neither copied nor serialized")


@final
class KeyRing:
    """The keys of one environment: one signs, some verify, the others are known to be refused.

    Raises:
        ConfigurationError: Not exactly one primary key, or two keys with one name or id.
    """

    __slots__ = ("_by_id", "primary")

    def __init__(self, keys: Iterable[Key]) -> None:
        known = list(keys)
        primaries = [key for key in known if key.state is KeyState.PRIMARY]
        if len(primaries) != 1:
            raise ConfigurationError(f"a key ring has exactly one primary key, this one has {len(primaries)}")
        self.primary: Key = primaries[0]
        self._by_id = {key.id: key for key in known}
        if len(self._by_id) != len(known) or len({key.name for key in known}) != len(known):
            raise ConfigurationError("two keys of the ring have the same name or the same secret")

    def find(self, key_id: KeyId) -> Key:
        """The key of an id, whatever its state.

        Raises:
            SignatureError: `KEY_UNKNOWN`.
        """
        key = self._by_id.get(key_id)
        if key is None:
            raise SignatureError(Reason.KEY_UNKNOWN, key_id.hex())
        return key

    def __iter__(self) -> Iterator[Key]:
        return iter(self._by_id.values())

    def __repr__(self) -> str:
        return f"<KeyRing {list(self._by_id.values())!r}>"


def derive_key(*, name: str, secret: bytes, state: KeyState, environment: EnvironmentName, project: ProjectName) -> Key:
    """Derive the signing key of one environment from a root secret.

    Args:
        secret: Bytes that `check_secret` accepts; may serve several environments.
    Spec: docs/reference/wire-format.md, section "Keys"."""
    key_id = KeyId(_derive(secret, "key-id", environment, project, KEY_ID_BYTES))
    mac = Secret(_derive(secret, "envelope-mac", environment, project, 32))
    return Key(name=name, key_id=key_id, state=state, mac=mac)


def check_secret(secret: bytes) -> None:
    """Refuse a secret that cannot have come from a random source.

    Raises:
        ConfigurationError: It is too short or too regular.
    """
    if len(secret) < MIN_KEY_BYTES:
        raise ConfigurationError(f"{len(secret)} bytes of secret; at least {MIN_KEY_BYTES} random ones are needed")
    if len(set(secret)) < _MIN_DISTINCT_BYTES:
        raise ConfigurationError("a secret too regular to be random")


def destroyed_key(*, name: str, key_id: KeyId) -> Key:
    """The memory of a key whose secret is gone."""
    return Key(name=name, key_id=key_id, state=KeyState.DESTROYED, mac=None)


def parse_secret(value: object) -> bytes:
    """Read a root secret: bytes as they are, or text of base64 in either alphabet, padded or not.

    Raises:
        ConfigurationError: Any other type, or text that is not base64. Never shows the value.
    """
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ConfigurationError(f"a secret is base64 text or bytes, not {type(value).__name__}")
    text = value.strip().replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ConfigurationError("a secret that is not base64 text") from None


def _derive(secret: bytes, purpose: str, environment: str, project: str, length: int) -> bytes:
    info = encode_pieces(
        b"safedefer", purpose.encode(), bytes([SUITE_HMAC_SHA256]), environment.encode(), project.encode()
    )
    return HKDF(algorithm=SHA256(), length=length, salt=_SALT, info=info).derive(secret)
