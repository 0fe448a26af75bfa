"""The SAFEDEFER setting -> a frozen `Settings`, with every problem found at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, Protocol, TypeAlias, final
from urllib.parse import urlsplit

from safedefer.core.limits import CLOUD_RUN_TIMEOUT, MAX_AGE, MAX_BODY_BYTES, MAX_INLINE_TASK_BYTES
from safedefer.core.names import (
    EnvironmentName,
    HandlerId,
    LocationName,
    ProjectName,
    QueueName,
    parse_environment_name,
    parse_handler_id,
    parse_queue_name,
)
from safedefer.core.queues import QueueSpec
from safedefer.django.conf.keys import KeySetting, read_keys
from safedefer.django.conf.places import LocalCloud, read_emails, read_handler, read_place, read_service_account
from safedefer.django.conf.reading import Problem, Reading
from safedefer.django.conf.values import (
    DatastoreSetting,
    parse_bool,
    parse_datastore,
    parse_descriptions,
    parse_inline_limit,
    parse_max_age,
    parse_module_names,
    parse_positive,
    parse_text,
    parse_time_limit,
)
from safedefer.django.queue_settings import parse_queues

Store: TypeAlias = Literal["orm", "datastore"]
"""What durable records are kept in."""


class DjangoSettings(Protocol):
    """What is read of Django's settings."""

    DEBUG: bool
    SECRET_KEY: str


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
    iteration_time_limit: timedelta | None
    modules: tuple[str, ...]
    queryset_descriptions: frozenset[str]
    outbox: bool
    store: Store
    datastore: DatastoreSetting
    local: LocalCloud | None


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
    reading = Reading(given, environ, debug=bool(getattr(django_settings, "DEBUG", False)))
    reading.check_keys()
    settings = _read(reading, django_settings)
    failed = any(problem.is_error for problem in reading.problems)
    return (None if failed else settings), reading.problems


def _read(reading: Reading, django_settings: object) -> Settings:
    handler_url, local = read_handler(reading)
    service_account = read_service_account(reading, local)
    project, location = read_place(reading, django_settings, local)
    parts = urlsplit(handler_url)
    origin = f"{parts.scheme}://{parts.netloc}"
    return Settings(
        project=project,
        location=location,
        environment=reading.parse("ENVIRONMENT", parse_environment_name, EnvironmentName("production")),
        handler_url=handler_url,
        handler_id=reading.parse("HANDLER_ID", parse_handler_id, HandlerId(parts.path or "/")),
        service_account=service_account,
        audience=reading.parse("AUDIENCE", parse_text, handler_url if local else origin),
        allowed_emails=read_emails(reading, service_account),
        keys=read_keys(reading, django_settings),
        default_queue=reading.parse("DEFAULT_QUEUE", parse_queue_name, QueueName("default")),
        queues=_read_queues(reading, django_settings),
        sync_queues=reading.parse("SYNC_QUEUES", parse_bool, default=True),
        inline_limit_bytes=reading.parse("INLINE_LIMIT", parse_inline_limit, MAX_INLINE_TASK_BYTES),
        body_cap_bytes=reading.parse("BODY_CAP", parse_positive, MAX_BODY_BYTES),
        max_age=reading.parse("MAX_AGE", parse_max_age, MAX_AGE),
        iteration_time_limit=reading.parse(
            "ITERATION_TIME_LIMIT", parse_time_limit, CLOUD_RUN_TIMEOUT if reading.environ.get("K_SERVICE") else None
        ),
        modules=reading.parse("MODULES", parse_module_names, ("tasks",)),
        queryset_descriptions=reading.parse("QUERYSET_DESCRIPTIONS", parse_descriptions, frozenset({"*"})),
        store=_read_store(reading),
        outbox=reading.parse("OUTBOX", parse_bool, True),  # noqa: FBT003  # The default.
        datastore=reading.parse("DATASTORE", parse_datastore, DatastoreSetting()),
        local=local,
    )


def _read_queues(reading: Reading, django_settings: object) -> tuple[QueueSpec, ...]:
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


def _read_store(reading: Reading) -> Store:
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
