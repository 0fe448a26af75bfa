"""Single values of the setting, each with the one parser of its kind."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address
from typing import Final, final
from urllib.parse import SplitResult, urlsplit

from safedefer.core.limits import CLOUD_RUN_MAX_TIMEOUT, MAX_AGE, MAX_INLINE_TASK_BYTES, MIN_DISPATCH_DEADLINE
from safedefer.core.names import KEY_ID_BYTES, KeyId
from safedefer.errors import ConfigurationError

_LABEL: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\.(\*|[A-Za-z_][A-Za-z0-9_]*)")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DatastoreSetting:
    """Which Datastore database records are kept in; `project` is None where it is the project of the queues."""

    project: str | None = None
    database: str = ""
    namespace: str = ""


def parse_bool(value: object) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise ConfigurationError("expected True or False")  # Ours: a setting is wrong.
    return value


def parse_datastore(value: object) -> DatastoreSetting:
    """A dict of project, database and namespace."""
    if not isinstance(value, Mapping) or not value.keys() <= {"project", "database", "namespace"}:
        raise ConfigurationError("expected a dict of project, database and namespace")
    if not all(isinstance(part, str) for part in value.values()):
        raise ConfigurationError("project, database and namespace are texts")
    return DatastoreSetting(**value)


def parse_key_id(value: object) -> KeyId:
    """A key id in hex, as `safedefer_keys list` shows it."""
    try:
        key_id = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        key_id = b""
    if len(key_id) != KEY_ID_BYTES:
        raise ConfigurationError("a destroyed key is remembered by key_id, 16 hex digits")
    return KeyId(key_id)


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine and no other."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def is_local_address(address: str) -> bool:
    """Whether this is http at a loopback host, and nothing beside it that another parser could take for the host."""
    try:
        parts = split_url(address)
    except ConfigurationError:
        return False
    return is_loopback(parts.hostname or "") and "@" not in address and address == f"http://{parts.netloc}"


def split_url(url: str) -> SplitResult:
    """The parts of a URL that has a scheme and a host."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ConfigurationError("not a URL") from None
    return parts


def parse_url(value: object) -> str:
    """An absolute URL without query and fragment."""
    parts = split_url(parse_text(value))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError("not an absolute http or https URL")
    if parts.query or parts.fragment or parts.username is not None or parts.password is not None:
        raise ConfigurationError("a URL with a query, a fragment or credentials")
    return parse_text(value)


def parse_text(value: object) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ConfigurationError("expected a text that is not empty")
    return value


def parse_email(value: object) -> str:
    """The address of a service account."""
    text = parse_text(value)
    if text.count("@") != 1 or text != text.strip():
        raise ConfigurationError("expected one e-mail address")
    return text


def parse_emails(value: object) -> frozenset[str]:
    """Several of them."""
    if not isinstance(value, Sequence | set | frozenset) or isinstance(value, str | bytes) or not value:
        raise ConfigurationError("expected a list of e-mail addresses")
    return frozenset(parse_email(item) for item in value)


def parse_positive(value: object) -> int:
    """An int above 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ConfigurationError("expected a number of bytes")
    return value


def parse_inline_limit(value: object) -> int:
    """A number of bytes that Cloud Tasks takes."""
    if parse_positive(value) > MAX_INLINE_TASK_BYTES:
        raise ConfigurationError(f"at most {MAX_INLINE_TASK_BYTES:,} bytes: Cloud Tasks takes no larger task")
    return parse_positive(value)


def parse_max_age(value: object) -> timedelta:
    """A timedelta that Cloud Tasks keeps a task for."""
    if not isinstance(value, timedelta) or not timedelta(0) < value <= MAX_AGE:
        raise ConfigurationError(f"expected a timedelta of at most {MAX_AGE.days} days")
    return value


def parse_time_limit(value: object) -> timedelta | None:
    """Seconds or a timedelta in which a request may be answered; None is no limit but the dispatch deadline."""
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    shortest, longest = MIN_DISPATCH_DEADLINE.total_seconds(), CLOUD_RUN_MAX_TIMEOUT.total_seconds()
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not shortest <= seconds <= longest:
        raise ConfigurationError("expected seconds, or a timedelta, from 15 s to 60 min, or None")
    return timedelta(seconds=seconds)


def parse_module_names(value: object) -> tuple[str, ...]:
    """Names of modules, relative to each app."""
    if not isinstance(value, list | tuple) or not all(
        isinstance(item, str) and all(part.isidentifier() for part in item.split(".")) for item in value
    ):
        raise ConfigurationError("expected a list of module names within each app, such as tasks")
    return tuple(value)


def parse_descriptions(value: object) -> frozenset[str]:
    """Labels of the models whose querysets may travel as descriptions; none where the setting is False."""
    if value is False:
        return frozenset()
    models = value.get("models") if isinstance(value, dict) and set(value) == {"models"} else None
    labels = [models] if models == "*" else models
    if not isinstance(labels, list | tuple) or not labels:
        raise ConfigurationError('expected False, {"models": "*"}, or {"models": ["app.model", "app.*"]}')
    for label in labels:
        if not isinstance(label, str) or (label != "*" and not _LABEL.fullmatch(label)):
            raise ConfigurationError("a model is named as app.model, all those of an app as app.*")
    return frozenset(label.lower() for label in labels)
