"""Where tasks are sent, in whose name, and whether that is Google's cloud or the local one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, final
from urllib.parse import urlsplit

from safedefer.core.names import LocationName, ProjectName, parse_location_name, parse_project_name
from safedefer.django.conf.reading import Reading, T
from safedefer.django.conf.values import is_local_address, is_loopback, parse_email, parse_emails, parse_url
from safedefer.errors import InvalidNameError

LOCAL_PROJECT: Final = ProjectName("local")
LOCAL_LOCATION: Final = LocationName("local1")
LOCAL_TASKS_HOST: Final = "127.0.0.1:9022"
LOCAL_ISSUER: Final = "http://127.0.0.1:9024"
LOCAL_HANDLER_URL: Final = "http://127.0.0.1:8000/_safedefer/"
LOCAL_SERVICE_ACCOUNT: Final = "safedefer@local.iam.gserviceaccount.com"
LOCAL_DATASTORE_HOST: Final = "127.0.0.1:9023"
EMULATOR_VARIABLES: Final = ("CLOUD_TASKS_EMULATOR_HOST", "TASKS_EMULATOR_HOST", "SAFEDEFER_LOCAL_ISSUER")
DATASTORE_EMULATOR_VARIABLE: Final = "DATASTORE_EMULATOR_HOST"
_SHARED_ACCOUNTS: Final = ("-compute@developer.gserviceaccount.com", "@appspot.gserviceaccount.com")
_PLACE_HINTS: Final = {
    "PROJECT": "Set it to the id of the Google Cloud project that has the queues.",
    "LOCATION": 'Set it to the region of the queues, for example "europe-west1".',
}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCloud:
    """Where the local cloud listens; only ever loopback addresses, only with DEBUG, never on a Google platform."""

    tasks_host: str
    issuer: str
    datastore_host: str


def read_handler(reading: Reading) -> tuple[str, LocalCloud | None]:
    """HANDLER_URL, and the local cloud if that URL can only be reached from this machine."""
    if "HANDLER_URL" not in reading.given and not reading.debug:
        reading.error(
            "E005",
            "SAFEDEFER['HANDLER_URL'] is missing.",
            "Set it to the public https URL at which safedefer.urls is mounted, "
            'for example "https://shop.example.com/_safedefer/".',
        )
        return LOCAL_HANDLER_URL, None
    url = reading.parse("HANDLER_URL", parse_url, LOCAL_HANDLER_URL)
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


def _read_local_cloud(reading: Reading) -> LocalCloud:
    environ = reading.environ
    host = environ.get("CLOUD_TASKS_EMULATOR_HOST") or environ.get("TASKS_EMULATOR_HOST") or LOCAL_TASKS_HOST
    issuer = environ.get("SAFEDEFER_LOCAL_ISSUER") or LOCAL_ISSUER
    datastore = environ.get(DATASTORE_EMULATOR_VARIABLE) or LOCAL_DATASTORE_HOST
    addresses = [("CLOUD_TASKS_EMULATOR_HOST", f"http://{host}"), ("SAFEDEFER_LOCAL_ISSUER", issuer.rstrip("/"))]
    # The variable is also that of other libraries, whose Datastore may be elsewhere.
    if reading.given.get("STORE") == "datastore":
        addresses.append((DATASTORE_EMULATOR_VARIABLE, f"http://{datastore}"))
    for name, address in addresses:
        if not is_local_address(address):
            reading.error("E009", f"{name} is not a loopback address.", "The local cloud is for one machine only.")
    return LocalCloud(tasks_host=host, issuer=issuer.rstrip("/"), datastore_host=datastore)


def read_service_account(reading: Reading, local: LocalCloud | None) -> str:
    """In whose name Cloud Tasks calls."""
    if "SERVICE_ACCOUNT" not in reading.given:
        if local is None:
            reading.error(
                "E006",
                "SAFEDEFER['SERVICE_ACCOUNT'] is missing.",
                "Set it to the e-mail address of the service account that Cloud Tasks calls the handler as.",
            )
        return LOCAL_SERVICE_ACCOUNT
    account = reading.parse("SERVICE_ACCOUNT", parse_email, LOCAL_SERVICE_ACCOUNT)
    _check_shared(reading, "SERVICE_ACCOUNT", account)
    return account


def read_emails(reading: Reading, service_account: str) -> frozenset[str]:
    """Whose tokens are accepted."""
    emails = reading.parse("ALLOWED_EMAILS", parse_emails, frozenset({service_account}))
    for email in sorted(emails - {service_account}):
        _check_shared(reading, "ALLOWED_EMAILS", email)
    return emails


def _check_shared(reading: Reading, key: str, account: str) -> None:
    if account.endswith(_SHARED_ACCOUNTS):
        reading.error(
            "W002",
            f"SAFEDEFER['{key}'] names a default account, which other services may share.",
            "Create an account for nothing but calling this handler.",
        )


def read_place(
    reading: Reading, django_settings: object, local: LocalCloud | None
) -> tuple[ProjectName | None, LocationName | None]:
    """Project and location of the queues, each None where the metadata server has to be asked."""
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


def _place(reading: Reading, key: str, parser: Callable[[object], T], fallback: object) -> T | None:
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
