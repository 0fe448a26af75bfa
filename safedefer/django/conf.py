"""The SAFEDEFER setting -> a frozen `Settings`, with every problem found at once.

Nothing else reads the setting or the environment. Reading does no I/O: what only the metadata server knows stays None
and is asked for when the runtime is built.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from difflib import get_close_matches
from hashlib import sha256
from ipaddress import ip_address
from typing import Final, Literal, Protocol, TypeAlias, TypeVar, final
from urllib.parse import SplitResult, urlsplit

from safedefer.core.keys import KeyState, Secret, check_secret, parse_secret
from safedefer.core.limits import MAX_AGE, MAX_BODY_BYTES, MAX_INLINE_TASK_BYTES
from safedefer.core.names import (
    KEY_ID_BYTES,
    EnvironmentName,
    HandlerId,
    KeyId,
    LocationName,
    ProjectName,
    QueueName,
    parse_environment_name,
    parse_handler_id,
    parse_location_name,
    parse_project_name,
    parse_queue_name,
)
from safedefer.core.queues import QueueSpec
from safedefer.django.queue_settings import parse_queues
from safedefer.errors import ConfigurationError, InvalidNameError

LOCAL_PROJECT: Final = ProjectName("local")
LOCAL_LOCATION: Final = LocationName("local1")
LOCAL_TASKS_HOST: Final = "127.0.0.1:9022"
LOCAL_ISSUER: Final = "http://127.0.0.1:9024"
LOCAL_HANDLER_URL: Final = "http://127.0.0.1:8000/_safedefer/"
LOCAL_SERVICE_ACCOUNT: Final = "safedefer@local.iam.gserviceaccount.com"
LOCAL_DATASTORE_HOST: Final = "127.0.0.1:9023"
EMULATOR_VARIABLES: Final = ("CLOUD_TASKS_EMULATOR_HOST", "TASKS_EMULATOR_HOST", "SAFEDEFER_LOCAL_ISSUER")
DATASTORE_EMULATOR_VARIABLE: Final = "DATASTORE_EMULATOR_HOST"

_KEYS: Final = (
    "ALLOWED_EMAILS",
    "AUDIENCE",
    "BODY_CAP",
    "DATASTORE",
    "DEFAULT_QUEUE",
    "ENVIRONMENT",
    "HANDLER_ID",
    "HANDLER_URL",
    "INLINE_LIMIT",
    "KEYS",
    "LOCATION",
    "MAX_AGE",
    "MODULES",
    "PROJECT",
    "QUEUES",
    "SERVICE_ACCOUNT",
    "OUTBOX",
    "STORE",
    "SYNC_QUEUES",
)
_SHARED_ACCOUNTS: Final = ("-compute@developer.gserviceaccount.com", "@appspot.gserviceaccount.com")
_INSECURE_PREFIX: Final = "django-insecure-"
_GENERATE: Final = "Generate one with `python manage.py safedefer_keys generate` and keep it in a secret manager."
_PLACE_HINTS: Final = {
    "PROJECT": "Set it to the id of the Google Cloud project that has the queues.",
    "LOCATION": 'Set it to the region of the queues, for example "europe-west1".',
}
_T = TypeVar("_T")

Store: TypeAlias = Literal["orm", "datastore"]
"""What durable records are kept in."""


class DjangoSettings(Protocol):
    """What is read of Django's settings."""

    DEBUG: bool
    SECRET_KEY: str


@final
@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong with the settings. An id that starts with E keeps safedefer from starting."""

    id: str
    message: str
    hint: str

    @property
    def is_error(self) -> bool:
        """Whether safedefer can not start with it."""
        return self.id.startswith("E")

    def __str__(self) -> str:
        return f"(safedefer.{self.id}) {self.message} {self.hint}"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class KeySetting:
    """One entry of KEYS."""

    name: str
    state: KeyState
    secret: Secret | None
    key_id: KeyId | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCloud:
    """Where the local cloud listens; only ever loopback addresses, only with DEBUG, never on a Google platform."""

    tasks_host: str
    issuer: str
    datastore_host: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DatastoreSetting:
    """Which Datastore database records are kept in; `project` is None where it is the project of the queues."""

    project: str | None = None
    database: str = ""
    namespace: str = ""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one process. `project` and `location` are None where the metadata server has to be asked."""

    project: ProjectName | None
    location: LocationName | None
    environment: EnvironmentName
    handler_url: str
    handler_id: HandlerId
    service_account: str
    audience: str
    allowed_emails: frozenset[str]
    keys: tuple[KeySetting, ...]
    default_queue: QueueName
    queues: tuple[QueueSpec, ...]
    sync_queues: bool
    inline_limit_bytes: int
    body_cap_bytes: int
    max_age: timedelta
    modules: tuple[str, ...]
    outbox: bool
    store: Store
    datastore: DatastoreSetting
    local: LocalCloud | None


@final
@dataclass(slots=True, repr=False)
class _Reading:
    """One reading of the settings, and the problems it meets."""

    given: Mapping[str, object]
    environ: Mapping[str, str]
    debug: bool
    problems: list[Problem] = field(default_factory=list)

    def error(self, id: str, message: str, hint: str = "") -> None:  # noqa: A002  # As Django's checks call it.
        self.problems.append(Problem(id, message, hint))

    def parse(self, key: str, parser: Callable[[object], _T], default: _T) -> _T:
        if key not in self.given:
            return default
        try:
            return parser(self.given[key])
        except (InvalidNameError, ConfigurationError) as error:
            self.error("E002", f"SAFEDEFER['{key}']: {error}.")
            return default


def read_settings(django_settings: object, environ: Mapping[str, str]) -> tuple[Settings | None, list[Problem]]:
    """Read the settings.

    Args:
        django_settings: Django's settings, or anything with such attributes.
        environ: The environment variables.
    Returns:
        The settings, or None where a problem keeps safedefer from starting; and all problems.
    """
    given = getattr(django_settings, "SAFEDEFER", {})
    if not isinstance(given, dict):
        return None, [Problem("E001", f"SAFEDEFER is a {type(given).__name__}, not a dict.", "")]
    reading = _Reading(given, environ, debug=bool(getattr(django_settings, "DEBUG", False)))
    _check_keys(reading)
    settings = _read(reading, django_settings)
    failed = any(problem.is_error for problem in reading.problems)
    return (None if failed else settings), reading.problems


def _check_keys(reading: _Reading) -> None:
    for key in reading.given:
        if key not in _KEYS:
            near = get_close_matches(str(key), _KEYS, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Known keys are {', '.join(_KEYS)}."
            reading.error("E001", f"SAFEDEFER has an unknown key {key!r}.", hint)


def _read(reading: _Reading, django_settings: object) -> Settings:
    handler_url, local = _read_handler(reading)
    service_account = _read_service_account(reading, local)
    project, location = _read_place(reading, django_settings, local)
    parts = urlsplit(handler_url)
    origin = f"{parts.scheme}://{parts.netloc}"
    return Settings(
        project=project,
        location=location,
        environment=reading.parse("ENVIRONMENT", parse_environment_name, EnvironmentName("production")),
        handler_url=handler_url,
        handler_id=reading.parse("HANDLER_ID", parse_handler_id, HandlerId(parts.path or "/")),
        service_account=service_account,
        audience=reading.parse("AUDIENCE", _text, handler_url if local else origin),
        allowed_emails=_read_emails(reading, service_account),
        keys=_read_keys(reading, django_settings),
        default_queue=reading.parse("DEFAULT_QUEUE", parse_queue_name, QueueName("default")),
        queues=_read_queues(reading, django_settings),
        sync_queues=reading.parse("SYNC_QUEUES", _switch, default=True),
        inline_limit_bytes=reading.parse("INLINE_LIMIT", _inline_limit, MAX_INLINE_TASK_BYTES),
        body_cap_bytes=reading.parse("BODY_CAP", _positive, MAX_BODY_BYTES),
        max_age=reading.parse("MAX_AGE", _max_age, MAX_AGE),
        modules=reading.parse("MODULES", _module_names, ("tasks",)),
        store=_read_store(reading),
        outbox=reading.parse("OUTBOX", _bool, True),  # noqa: FBT003  # The default.
        datastore=reading.parse("DATASTORE", _datastore, DatastoreSetting()),
        local=local,
    )


def _read_handler(reading: _Reading) -> tuple[str, LocalCloud | None]:
    """HANDLER_URL, and the local cloud if that URL can only be reached from this machine."""
    if "HANDLER_URL" not in reading.given and not reading.debug:
        reading.error(
            "E005",
            "SAFEDEFER['HANDLER_URL'] is missing.",
            "Set it to the public https URL at which safedefer.urls is mounted, "
            'for example "https://shop.example.com/_safedefer/".',
        )
        return LOCAL_HANDLER_URL, None
    url = reading.parse("HANDLER_URL", _url, LOCAL_HANDLER_URL)
    parts = urlsplit(url)
    loopback = is_loopback(parts.hostname or "")
    platform = _platform_variables(reading.environ)
    variables: tuple[str, ...] = EMULATOR_VARIABLES
    if reading.given.get("STORE") == "datastore":
        variables = (*variables, DATASTORE_EMULATOR_VARIABLE)
    emulator = [name for name in variables if reading.environ.get(name)]
    if loopback and reading.debug and not platform:
        return url, _read_local_cloud(reading)
    if emulator:
        why = "DEBUG is off" if not reading.debug else f"{platform[0]} is set" if platform else "HANDLER_URL is public"
        reading.error(
            "E009",
            f"{', '.join(emulator)} would point safedefer at a local cloud, but {why}.",
            "Unset it: the local cloud can vouch for anybody.",
        )
    if loopback:
        reading.error(
            "E005",
            "SAFEDEFER['HANDLER_URL'] is a loopback address, which Cloud Tasks cannot reach.",
            "Set it to the public https URL at which safedefer.urls is mounted.",
        )
    elif parts.scheme != "https":
        reading.error("E005", "SAFEDEFER['HANDLER_URL'] is not https.", "Tokens and arguments travel over it.")
    return url, None


def _platform_variables(environ: Mapping[str, str]) -> list[str]:
    """Which variables say that this is App Engine or Cloud Run."""
    return sorted(
        name
        for name, value in environ.items()
        if value and (name.startswith("GAE_") or name in ("K_SERVICE", "CLOUD_RUN_JOB"))
    )


def _read_local_cloud(reading: _Reading) -> LocalCloud:
    environ = reading.environ
    host = environ.get("CLOUD_TASKS_EMULATOR_HOST") or environ.get("TASKS_EMULATOR_HOST") or LOCAL_TASKS_HOST
    issuer = environ.get("SAFEDEFER_LOCAL_ISSUER") or LOCAL_ISSUER
    datastore = environ.get(DATASTORE_EMULATOR_VARIABLE) or LOCAL_DATASTORE_HOST
    addresses = [("CLOUD_TASKS_EMULATOR_HOST", f"http://{host}"), ("SAFEDEFER_LOCAL_ISSUER", issuer.rstrip("/"))]
    # The variable is also that of other libraries, whose Datastore may be elsewhere.
    if reading.given.get("STORE") == "datastore":
        addresses.append((DATASTORE_EMULATOR_VARIABLE, f"http://{datastore}"))
    for name, address in addresses:
        if not _is_local_address(address):
            reading.error("E009", f"{name} is not a loopback address.", "The local cloud is for one machine only.")
    return LocalCloud(tasks_host=host, issuer=issuer.rstrip("/"), datastore_host=datastore)


def _read_service_account(reading: _Reading, local: LocalCloud | None) -> str:
    if "SERVICE_ACCOUNT" not in reading.given:
        if local is None:
            reading.error(
                "E006",
                "SAFEDEFER['SERVICE_ACCOUNT'] is missing.",
                "Set it to the e-mail address of the service account that Cloud Tasks calls the handler as.",
            )
        return LOCAL_SERVICE_ACCOUNT
    account = reading.parse("SERVICE_ACCOUNT", _email, LOCAL_SERVICE_ACCOUNT)
    _check_shared(reading, "SERVICE_ACCOUNT", account)
    return account


def _read_emails(reading: _Reading, service_account: str) -> frozenset[str]:
    emails = reading.parse("ALLOWED_EMAILS", _emails, frozenset({service_account}))
    for email in sorted(emails - {service_account}):
        _check_shared(reading, "ALLOWED_EMAILS", email)
    return emails


def _check_shared(reading: _Reading, key: str, account: str) -> None:
    if account.endswith(_SHARED_ACCOUNTS):
        reading.error(
            "W002",
            f"SAFEDEFER['{key}'] names a default account, which other services may share.",
            "Create an account for nothing but calling this handler.",
        )


def _read_place(
    reading: _Reading, django_settings: object, local: LocalCloud | None
) -> tuple[ProjectName | None, LocationName | None]:
    if local is not None:
        project = reading.parse("PROJECT", parse_project_name, LOCAL_PROJECT)
        return project, reading.parse("LOCATION", parse_location_name, LOCAL_LOCATION)
    environ = reading.environ
    named_project = (
        getattr(django_settings, "CLOUD_TASKS_PROJECT_ID", None)
        or environ.get("GOOGLE_CLOUD_PROJECT")
        or environ.get("GCLOUD_PROJECT")
    )
    named_location = getattr(django_settings, "CLOUD_TASKS_LOCATION", None)
    return (
        _place(reading, "PROJECT", parse_project_name, named_project),
        _place(reading, "LOCATION", parse_location_name, named_location),
    )


def _place(reading: _Reading, key: str, parser: Callable[[object], _T], fallback: object) -> _T | None:
    value = reading.given.get(key, fallback)
    if value is None:
        if not _platform_variables(reading.environ):
            reading.error("E008", f"SAFEDEFER['{key}'] is missing.", _PLACE_HINTS[key])
        return None
    try:
        return parser(value)
    except InvalidNameError as error:
        reading.error("E002", f"SAFEDEFER['{key}']: {error}.")
        return None


def _read_keys(reading: _Reading, django_settings: object) -> tuple[KeySetting, ...]:
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


def _development_key(reading: _Reading, django_settings: object) -> tuple[KeySetting, ...]:
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


def _read_key(reading: _Reading, index: int, entry: object) -> KeySetting | None:
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
            return KeySetting(name=entry["id"], state=state, secret=None, key_id=_key_id(entry.get("key_id")))
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


def _check_ring(reading: _Reading, keys: Sequence[KeySetting]) -> None:
    primaries = sum(key.state is KeyState.PRIMARY for key in keys)
    if primaries != 1:
        reading.error("E004", f"SAFEDEFER['KEYS'] has {primaries} primary keys.", "Exactly one signs new calls.")
    secrets = [key.secret.reveal() for key in keys if key.secret is not None]
    if len({key.name for key in keys}) != len(keys) or len(set(secrets)) != len(secrets):
        reading.error("E004", "Two of SAFEDEFER['KEYS'] have the same id or the same secret.")


def _read_queues(reading: _Reading, django_settings: object) -> tuple[QueueSpec, ...]:
    """QUEUES, or the setting that djangae has for it."""
    where, given = "SAFEDEFER['QUEUES']", reading.given.get("QUEUES", ())
    if "QUEUES" not in reading.given:
        where, given = "CLOUD_TASKS_QUEUES", getattr(django_settings, "CLOUD_TASKS_QUEUES", None) or ()
    specs, mistakes = parse_queues(given, where)
    for mistake in mistakes:
        reading.error("E020", mistake.message, mistake.hint)
    for spec in specs:
        if spec.gives_up:
            reading.error(
                "W020",
                f"The queue {spec.name} gives up on tasks in the end, and nothing remembers them.",
                "Leave retry_max_attempts and retry_max_duration out: RetryOptions give up with a dead letter.",
            )
    return specs


def _read_store(reading: _Reading) -> Store:
    value = reading.given.get("STORE", "orm" if reading.debug else None)
    if value == "datastore":
        return "datastore"
    if value != "orm":
        reading.error(
            "E007",
            "SAFEDEFER['STORE'] is missing." if value is None else "SAFEDEFER['STORE'] is unknown.",
            'Set it to "datastore", or to "orm" for a table of the Django database: '
            "it keeps which tasks were executed, and arguments that are too large for a task.",
        )
    return "orm"


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError("expected True or False")  # Ours: a setting is wrong.
    return value


def _datastore(value: object) -> DatastoreSetting:
    if not isinstance(value, Mapping) or not value.keys() <= {"project", "database", "namespace"}:
        raise ConfigurationError("expected a dict of project, database and namespace")
    if not all(isinstance(part, str) for part in value.values()):
        raise ConfigurationError("project, database and namespace are texts")
    return DatastoreSetting(**value)


def _key_id(value: object) -> KeyId:
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


def _is_local_address(address: str) -> bool:
    """Whether this is http at a loopback host, and nothing beside it that another parser could take for the host."""
    try:
        parts = _split(address)
    except ConfigurationError:
        return False
    return is_loopback(parts.hostname or "") and "@" not in address and address == f"http://{parts.netloc}"


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ConfigurationError("not a URL") from None
    return parts


def _url(value: object) -> str:
    parts = _split(_text(value))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError("not an absolute http or https URL")
    if parts.query or parts.fragment or parts.username is not None or parts.password is not None:
        raise ConfigurationError("a URL with a query, a fragment or credentials")
    return _text(value)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigurationError("expected a text that is not empty")
    return value


def _email(value: object) -> str:
    text = _text(value)
    if text.count("@") != 1 or text != text.strip():
        raise ConfigurationError("expected one e-mail address")
    return text


def _emails(value: object) -> frozenset[str]:
    if not isinstance(value, Sequence | set | frozenset) or isinstance(value, str | bytes) or not value:
        raise ConfigurationError("expected a list of e-mail addresses")
    return frozenset(_email(item) for item in value)


def _positive(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ConfigurationError("expected a number of bytes")
    return value


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError("expected True or False")
    return value


def _inline_limit(value: object) -> int:
    if _positive(value) > MAX_INLINE_TASK_BYTES:
        raise ConfigurationError(f"at most {MAX_INLINE_TASK_BYTES:,} bytes: Cloud Tasks takes no larger task")
    return _positive(value)


def _max_age(value: object) -> timedelta:
    if not isinstance(value, timedelta) or not timedelta(0) < value <= MAX_AGE:
        raise ConfigurationError(f"expected a timedelta of at most {MAX_AGE.days} days")
    return value


def _module_names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(
        isinstance(item, str) and all(part.isidentifier() for part in item.split(".")) for item in value
    ):
        raise ConfigurationError("expected a list of module names within each app, such as tasks")
    return tuple(value)
