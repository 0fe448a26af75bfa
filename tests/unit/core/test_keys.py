"""Keys: where a secret may be used, and that it never shows."""

import base64
import copy
import pickle  # noqa: TID251  # What must not work.
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedefer.core.keys import Key, KeyRing, KeyState, Secret, check_secret, destroyed_key, parse_secret
from safedefer.core.names import KeyId
from safedefer.errors import ConfigurationError, Reason, SignatureError
from tests.support.builders import OTHER_SECRET, SECRET, make_key

FIRST = make_key()
SECOND = make_key("second", OTHER_SECRET, KeyState.ACTIVE)


@given(st.text("ab", min_size=1, max_size=3), st.text("ab", min_size=1, max_size=3))
def test_each_environment_and_project_has_a_key_of_its_own(environment: str, project: str) -> None:
    here = make_key(environment=environment, project=project)
    there = make_key(environment=environment + "a", project=project.removeprefix("a") or "b")
    assert here.id != there.id
    assert here.mac != there.mac


def test_id_tells_nothing_of_the_key() -> None:
    assert FIRST.id != FIRST.mac[:8]
    assert FIRST.mac != SECRET
    assert len(FIRST.mac) == 32


def test_derivation_is_the_documented_one() -> None:
    import hashlib
    import hmac

    info = b"".join(
        [(5).to_bytes(8, "little")]
        + [
            len(piece).to_bytes(8, "little") + piece
            for piece in (b"safedefer", b"envelope-mac", b"\x01", b"production", b"acme")
        ]
    )
    extracted = hmac.digest(b"safedefer.hkdf.v1", SECRET, hashlib.sha256)
    assert FIRST.mac == hmac.digest(extracted, info + b"\x01", hashlib.sha256)


@pytest.mark.parametrize(
    "keys",
    [
        [],
        [SECOND],
        [FIRST, make_key("other", OTHER_SECRET)],
        [FIRST, make_key("other", SECRET, KeyState.ACTIVE)],
        [FIRST, make_key("first", OTHER_SECRET, KeyState.ACTIVE)],
    ],
    ids=["none", "no primary", "two primaries", "one secret twice", "one name twice"],
)
def test_ring_that_is_ambiguous_is_refused(keys: list[Key]) -> None:
    with pytest.raises(ConfigurationError):
        KeyRing(keys)


@pytest.mark.parametrize("state", [KeyState.DISABLED, KeyState.DESTROYED])
def test_retired_key_gives_nothing_to_compute_with(state: KeyState) -> None:
    key = make_key(state=state) if state is KeyState.DISABLED else destroyed_key(name="x", key_id=KeyId(b"12345678"))
    with pytest.raises(SignatureError) as caught:
        _ = key.mac
    assert caught.value.reason in (Reason.KEY_DISABLED, Reason.KEY_DESTROYED)


@pytest.mark.parametrize(
    "secret", [b"", b"short", b"x" * 31, b"x" * 64, b"ab" * 32, b"password" * 8, bytes(8) * 8 + b"abc"]
)
def test_secret_that_cannot_be_random_is_refused(secret: bytes) -> None:
    with pytest.raises(ConfigurationError):
        check_secret(secret)


def test_random_secret_is_accepted() -> None:
    for _ in range(200):
        check_secret(secrets.token_bytes(32))


def test_secret_is_read_from_base64_in_either_alphabet() -> None:
    secret = bytes(range(200, 240))
    for text in (base64.b64encode(secret), base64.urlsafe_b64encode(secret)):
        assert parse_secret(text.decode()) == secret
        assert parse_secret(text.decode().rstrip("=")) == secret
    assert parse_secret(secret) == secret


@pytest.mark.parametrize("value", [None, 5, ["x"], "not base64!", "\u00e9", "a"])
def test_text_that_is_no_secret_is_refused_without_showing_it(value: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_secret(value)
    assert "not base64!" not in str(caught.value)


@pytest.mark.parametrize("value", [Secret(b"canary"), FIRST])
@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps])
def test_key_is_neither_copied_nor_stored(value: object, how: object) -> None:
    assert callable(how)
    with pytest.raises(TypeError):
        how(value)


def test_key_shows_nothing_of_its_secret() -> None:
    shown = f"{Secret(SECRET)!r} {FIRST!r} {KeyRing([FIRST, SECOND])!r}"
    for hidden in (SECRET, FIRST.mac):
        assert repr(hidden)[2:12] not in shown
        assert hidden.hex()[:16] not in shown
