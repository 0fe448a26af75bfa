"""The issuer's public keys: fetched from one constant place, kept as long as the issuer says, never fetched in a storm.

What a token says of its key decides nothing but which of these keys is tried.
"""

import io
import json
import os
import random
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from ipaddress import ip_address
from typing import Any, Final, cast, final
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import RSAAlgorithm
from jwt.exceptions import PyJWTError

from safedefer.errors import Reason, TokenError, TokenKeysUnavailableError

_CONNECT_SECONDS: Final = 2.0
_READ_SECONDS: Final = 3.0
_MAX_SET_BYTES: Final = 65_536
_MAX_KEYS: Final = 16
_KEY_BITS: Final = range(2048, 4097)
_MIN_FRESH_SECONDS: Final = 300.0
_MAX_FRESH_SECONDS: Final = 86_400.0
_STALE_SECONDS: Final = 21_600.0
"""How long a set is believed after it should have been fetched again, while fetching fails."""
_COOLDOWN_SECONDS: Final = 30.0
_MAX_COOLDOWN_SECONDS: Final = 600.0
_MAX_DOUBLINGS: Final = 10
_WAIT_SECONDS: Final = 1.0
_UNKNOWN_IDS: Final = 64
_UNKNOWN_SECONDS: Final = 60.0
_HTTP_OK: Final = 200
_CONNECTIONS: Final[Mapping[str, type[HTTPConnection]]] = {"https": HTTPSConnection, "http": HTTPConnection}
"""http is for the issuer of the local cloud."""


@final
class KeySetError(Exception):
    """The key set could not be fetched, or cannot be used."""


@final
@dataclass(frozen=True, slots=True)
class KeySet:
    """Usable keys by id, and how long they may be used without asking again."""

    keys: Mapping[str, RSAPublicKey]
    fresh_seconds: float


def fetch_key_set(url: str) -> KeySet:
    """Fetch a JWKS: no redirect is followed, no proxy is used, nothing large is read.

    Args:
        url: A constant of ours, never from a token or a document.
    Raises:
        KeySetError: It did not come, or is not to be used.
    """
    parts = urlsplit(url)
    connect = _CONNECTIONS.get(parts.scheme)
    if connect is None or not parts.hostname:
        raise KeySetError("the key set is at no http or https URL")
    connection = connect(parts.hostname, parts.port, timeout=_CONNECT_SECONDS)
    try:
        connection.connect()
        # Without TLS nothing vouches for what comes from another machine.
        if parts.scheme == "http" and not ip_address(connection.sock.getpeername()[0]).is_loopback:
            raise KeySetError("the key set is at an http URL of another machine")
        connection.sock.settimeout(_READ_SECONDS)
        connection.request("GET", parts.path, headers={"Accept": "application/json"})
        # `getresponse` would wait a while for each line and each piece, and so for ever.
        timed = _TimedSocket(connection.sock, time.monotonic() + _READ_SECONDS)
        response = HTTPResponse(cast("socket.socket", timed), method="GET")
        response.begin()
        if response.status != _HTTP_OK:
            raise KeySetError(f"the key set was answered with status {response.status}")
        data = response.read(_MAX_SET_BYTES + 1)
        if len(data) > _MAX_SET_BYTES:
            raise KeySetError("a key set too large")
        fresh = _fresh_seconds(response.getheader("Cache-Control"), response.getheader("Age"))
    except (OSError, HTTPException) as error:
        raise KeySetError(f"the key set could not be fetched ({type(error).__name__})") from None
    finally:
        connection.close()
    return KeySet(parse_key_set(data), fresh)


def parse_key_set(data: bytes) -> dict[str, RSAPublicKey]:
    """Take the RS256 signing keys out of a JWKS.

    Keys of other kinds are passed over, since the issuer may add some. One bad RSA key spoils the set: whoever wrote
    it is not to be trusted with the others.

    Raises:
        KeySetError: Not a key set, too many keys, a repeated id, a key of the wrong size, or no usable key.
    """
    try:
        entries = json.loads(data)["keys"]
    except (ValueError, RecursionError, TypeError, KeyError):
        raise KeySetError("not a key set") from None
    if not isinstance(entries, list) or len(entries) > _MAX_KEYS:
        raise KeySetError("not a key set, or one with too many keys")
    keys: dict[str, RSAPublicKey] = {}
    for entry in entries:
        if not isinstance(entry, dict):
            raise KeySetError("a key that is no object")
        if entry.get("kty") != "RSA" or entry.get("alg") != "RS256" or entry.get("use") != "sig":
            continue
        operations = entry.get("key_ops", ["verify"])
        if not isinstance(operations, list) or "verify" not in operations:
            continue
        key_id = entry.get("kid")
        if not isinstance(key_id, str) or not key_id or key_id in keys:
            raise KeySetError("a key without an id of its own")
        keys[key_id] = _parse_key(entry)
    if not keys:
        raise KeySetError("no usable key")
    return keys


@final
class KeySetCache:
    """Keys by id, fetched when needed and at most once per cooldown, whatever ids are asked for.

    Safe for threads: one fetches, the others use what there is or wait a moment.
    """

    def __init__(self, fetch: Callable[[], KeySet], now: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._now = now
        self._renew_locks()
        # A fork in the middle of a fetch would leave the child with a lock that nobody releases.
        os.register_at_fork(after_in_child=self._renew_locks)
        self._keys: Mapping[str, RSAPublicKey] = {}
        self._fresh_until = float("-inf")
        self._stale_until = float("-inf")
        self._next_fetch = float("-inf")
        self._failures = 0
        self._unknown: OrderedDict[str, float] = OrderedDict()

    def find(self, key_id: str) -> RSAPublicKey:
        """The key of an id.

        Raises:
            TokenError: `TOKEN_KEY_UNKNOWN`: the issuer has no such key.
            TokenKeysUnavailableError: There are no keys to look in, or they are too old to say that it has none.
        """
        now = self._now()
        if self._wants_fetch(key_id, now):
            self._refresh(key_id, now)
        if now >= self._stale_until:
            raise TokenKeysUnavailableError("the issuer's keys cannot be fetched")
        key = self._keys.get(key_id)
        if key is not None:
            return key
        if self._failures:
            raise TokenKeysUnavailableError("the issuer's keys cannot be fetched")
        self._remember_unknown(key_id, now)
        raise TokenError(Reason.TOKEN_KEY_UNKNOWN)

    def _wants_fetch(self, key_id: str, now: float) -> bool:
        if now < self._next_fetch:
            return False
        if now >= self._fresh_until:
            return True
        return key_id not in self._keys and self._unknown.get(key_id, now) <= now

    def _refresh(self, key_id: str, now: float) -> None:
        usable = key_id in self._keys and now < self._stale_until
        if not self._fetching.acquire(blocking=not usable, timeout=-1 if usable else _WAIT_SECONDS):
            return
        try:
            # Another thread may have fetched while this one waited.
            if self._wants_fetch(key_id, now):
                self._fetch_now(now)
        finally:
            self._fetching.release()

    def _fetch_now(self, now: float) -> None:
        try:
            found = self._fetch()
        except Exception as error:
            self._failures += 1
            wait = min(_COOLDOWN_SECONDS * 2 ** min(self._failures - 1, _MAX_DOUBLINGS), _MAX_COOLDOWN_SECONDS)
            # Processes that failed together should not come back together.
            self._next_fetch = now + wait * random.uniform(1.0, 1.2)  # noqa: S311
            # What nobody foresaw waits for its cooldown too, and is not hidden.
            if not isinstance(error, KeySetError):
                raise
            return
        self._keys = found.keys
        self._failures = 0
        with self._remembering:
            self._unknown.clear()
        self._fresh_until = now + found.fresh_seconds
        self._stale_until = self._fresh_until + _STALE_SECONDS
        self._next_fetch = now + _COOLDOWN_SECONDS

    def _remember_unknown(self, key_id: str, now: float) -> None:
        with self._remembering:
            # Being asked for again must not make it unknown for longer: a new key of the issuer's is asked for often.
            if self._unknown.get(key_id, now) <= now:
                self._unknown[key_id] = now + _UNKNOWN_SECONDS
            self._unknown.move_to_end(key_id)
            while len(self._unknown) > _UNKNOWN_IDS:
                self._unknown.popitem(last=False)

    def _renew_locks(self) -> None:
        self._fetching = threading.Lock()
        self._remembering = threading.Lock()


def _parse_key(entry: Mapping[str, object]) -> RSAPublicKey:
    public = {name: entry.get(name) for name in ("kty", "n", "e")}
    try:
        key = RSAAlgorithm.from_jwk(json.dumps(public))
    except (PyJWTError, ValueError, TypeError, AttributeError):
        raise KeySetError("a broken RSA key") from None
    if not isinstance(key, RSAPublicKey):
        raise KeySetError("a private key")
    if key.key_size not in _KEY_BITS:
        raise KeySetError(f"an RSA key of {key.key_size} bits")
    return key


@final
class _TimedSocket:
    """A socket whose answer has to be there by a moment, headers included, however small the pieces it comes in."""

    def __init__(self, connected: socket.socket, until: float) -> None:
        self._reader = _TimedReader(connected, until)

    def makefile(self, mode: str) -> io.BufferedReader:  # noqa: ARG002  # As HTTPResponse calls it.
        return io.BufferedReader(self._reader)


@final
class _TimedReader(io.RawIOBase):
    def __init__(self, connected: socket.socket, until: float) -> None:
        self._socket = connected
        self._until = until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # A memoryview, as BufferedReader calls it.
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
        return self._socket.recv_into(buffer)


def _fresh_seconds(cache_control: str | None, age: str | None) -> float:
    fresh = 0.0
    for directive in (cache_control or "").lower().split(","):
        name, _, value = directive.strip().partition("=")
        if name == "max-age" and value.isascii() and value.isdigit():
            fresh = float(value[:9])
    if age is not None and age.isascii() and age.isdigit():
        fresh -= float(age[:9])
    return min(max(fresh, _MIN_FRESH_SECONDS), _MAX_FRESH_SECONDS)
