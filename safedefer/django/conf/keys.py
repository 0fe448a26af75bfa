"""KEYS: the ring that signs and verifies, or the development key where there is none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, final

from safedefer.core.keys import KeyState, Secret, check_secret, parse_secret
from safedefer.core.names import KeyId
from safedefer.django.conf.reading import Reading
from safedefer.django.conf.values import parse_key_id
from safedefer.errors import ConfigurationError

_INSECURE_PREFIX: Final = "django-insecure-"
_GENERATE: Final = "Generate one with `python manage.py safedefer_keys generate` and keep it in a secret manager."


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class KeySetting:
    """One entry of KEYS."""

    name: str
    state: KeyState
    secret: Secret | None
    key_id: KeyId | None


def read_keys(reading: Reading, django_settings: object) -> tuple[KeySetting, ...]:
    """KEYS, or with DEBUG on a development key where there are none."""
    given = reading.given.get("KEYS")
    if callable(given):
        try:
            given = given()
        except Exception as error:  # noqa: BLE001  # The operator's code, which may ask anything for the keys.
            # Neither its message nor its traceback: they may hold a secret.
            reading.error("E004", f"calling SAFEDEFER['KEYS'] raised {type(error).__name__}.")
            return ()
    if given is None:
        return _development_key(reading, django_settings)
    if not isinstance(given, Sequence) or isinstance(given, str | bytes) or not given:
        reading.error("E004", "SAFEDEFER['KEYS'] is not a list of keys.", _GENERATE)
        return ()
    keys = tuple(key for index, entry in enumerate(given) if (key := _read_key(reading, index, entry)) is not None)
    if len(keys) == len(given):
        _check_ring(reading, keys)
    return keys


def _development_key(reading: Reading, django_settings: object) -> tuple[KeySetting, ...]:
    if not reading.debug:
        reading.error("E003", "SAFEDEFER['KEYS'] is missing: without a key no call can be signed.", _GENERATE)
        return ()
    reading.error(
        "W001",
        "Calls are signed with a development key made from SECRET_KEY.",
        "Fine on a laptop. With DEBUG off, SAFEDEFER['KEYS'] is required.",
    )
    material = str(getattr(django_settings, "SECRET_KEY", "")).encode()
    secret = Secret(sha256(b"safedefer development key\x00" + material).digest())
    return (KeySetting(name="development", state=KeyState.PRIMARY, secret=secret, key_id=None),)


def _read_key(reading: Reading, index: int, entry: object) -> KeySetting | None:
    where = f"SAFEDEFER['KEYS'][{index}]"
    if not isinstance(entry, Mapping) or not isinstance(entry.get("id"), str) or not entry["id"]:
        reading.error("E004", f"{where} is not a dict with an id.", 'Like {"id": "2026-11", "secret": ..., ...}.')
        return None
    unknown = sorted(map(str, set(entry) - {"id", "secret", "state", "key_id"}))
    if unknown:
        reading.error("E004", f"{where} has an unknown key {unknown[0]!r}.", "Known are id, secret, state, key_id.")
        return None
    try:
        state = KeyState(entry.get("state", KeyState.PRIMARY))
        if state is KeyState.DESTROYED:
            return KeySetting(name=entry["id"], state=state, secret=None, key_id=parse_key_id(entry.get("key_id")))
        secret = parse_secret(entry.get("secret"))
        if not reading.debug:
            check_secret(secret)
            if _INSECURE_PREFIX in str(entry.get("secret")):
                raise ConfigurationError("a secret marked as insecure")
        return KeySetting(name=entry["id"], state=state, secret=Secret(secret), key_id=None)
    except ConfigurationError as error:
        reading.error("E004", f"{where}: {error}.", _GENERATE)
    except ValueError:
        reading.error("E004", f"{where}: state is one of {', '.join(KeyState)}.")
    return None


def _check_ring(reading: Reading, keys: Sequence[KeySetting]) -> None:
    primaries = sum(key.state is KeyState.PRIMARY for key in keys)
    if primaries != 1:
        reading.error("E004", f"SAFEDEFER['KEYS'] has {primaries} primary keys.", "Exactly one signs new calls.")
    secrets = [key.secret.reveal() for key in keys if key.secret is not None]
    if len({key.name for key in keys}) != len(keys) or len(set(secrets)) != len(secrets):
        reading.error("E004", "Two of SAFEDEFER['KEYS'] have the same id or the same secret.")
