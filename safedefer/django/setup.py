"""Settings -> Runtime: the one place that chooses which adapter fills which port."""

import logging
import os
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Final
from urllib.parse import urlsplit

from django.apps import apps
from django.conf import settings as django_settings

from safedefer.api import registry
from safedefer.api_iteration import queryset_functions
from safedefer.core.claims import Producer
from safedefer.core.keys import Key, KeyRing, derive_key, destroyed_key
from safedefer.core.names import EnvironmentName, KeyId, ProjectName, parse_location_name, parse_project_name
from safedefer.core.policy import Policy
from safedefer.core.ports import Clock, QueueAdmin, RecordStore
from safedefer.core.routing import ANYWHERE, Route, is_app_engine_host, is_host_part
from safedefer.core.signing import Deployment
from safedefer.django.audit import LoggingAudit
from safedefer.django.calls import DjangoClock, DjangoInvoker, SignalFailures
from safedefer.django.conf import KeySetting, Settings, read_settings
from safedefer.django.descriptions import DescriptionPolicy
from safedefer.django.modelrefs import DjangoReferences
from safedefer.django.outbox import DjangoOutbox, NoOutbox
from safedefer.django.records import OrmRecords
from safedefer.django.surroundings import DjangoSurroundings, follow_requests
from safedefer.django.transactions import DjangoCommitHook
from safedefer.django.walks import DjangoQuerySets
from safedefer.errors import ConfigurationError
from safedefer.flow.ledger import Ledger
from safedefer.flow.queues import prepare_queues
from safedefer.flow.runtime import Runtime, install, install_problem
from safedefer.gcp.cloud_tasks import CloudTasksSender, TasksClient, TaskTarget, make_client
from safedefer.gcp.jwks import KeySetCache, fetch_key_set
from safedefer.gcp.metadata import read_project_id, read_region
from safedefer.gcp.oidc import GOOGLE_ISSUER, GOOGLE_KEYS_URL, OidcVerifier, TokenPolicy
from safedefer.gcp.per_process import PerProcess
from safedefer.gcp.queues import CloudTasksQueues

logger: Final = logging.getLogger("safedefer")


def start() -> None:
    """Import the modules that hold deferrables, seal the registry, and say how the runtime is built.

    Wrong settings do not keep Django from starting, since commands such as collectstatic run without secrets; they
    keep safedefer from starting: every defer raises, every dispatch is answered 503, and `manage.py check` says why.
    """
    settings, problems = read_settings(django_settings, os.environ)
    import_task_modules(settings.modules if settings is not None else ("tasks",))
    registry.seal(DjangoReferences())
    queryset_functions.seal(DjangoReferences())
    follow_requests()
    if settings is None:
        text = "safedefer is not configured: " + " ".join(str(problem) for problem in problems if problem.is_error)
        logger.error("%s", text)
        install_problem(text)
    else:
        ready = settings
        install(lambda: build_runtime(ready))


def import_task_modules(names: tuple[str, ...]) -> None:
    """Import each named module of each installed app, where there is one. An error inside of one is not hidden."""
    for config in apps.get_app_configs():
        for name in names:
            path = f"{config.name}.{name}"
            parent = path.rpartition(".")[0]
            if (parent == config.name or find_spec(parent) is not None) and find_spec(path) is not None:
                import_module(path)


def build_runtime(settings: Settings, clock: Clock | None = None) -> Runtime:
    """Fill every port.

    Args:
        clock: What time it is for leases, claims and tokens; by default the system's.
    Raises:
        ConfigurationError: The metadata server has to be asked and does not answer.
    """
    target = make_target(settings)
    clock = clock or DjangoClock()
    local = settings.local
    issuer, keys_url = GOOGLE_ISSUER, GOOGLE_KEYS_URL
    if local is not None:
        issuer, keys_url = local.issuer, f"{local.issuer}/oauth2/v3/certs"
    keys = KeySetCache(lambda: fetch_key_set(keys_url))
    token_policy = TokenPolicy(issuer=issuer, audience=settings.audience, emails=settings.allowed_emails)
    records = make_records(settings, target.project)
    return Runtime(
        registry=registry,
        queryset_functions=queryset_functions,
        ring=make_ring(settings.keys, settings.environment, target.project),
        deployment=Deployment(settings.environment, target.project),
        policy=Policy(
            environment=settings.environment,
            project=target.project,
            location=target.location,
            handler=settings.handler_id,
            max_age=settings.max_age,
        ),
        default_queue=settings.default_queue,
        producer=_producer(),
        default_route=_default_route(settings.handler_url),
        sender=CloudTasksSender(target, _queue_preparation(settings, target)),
        tokens=OidcVerifier(token_policy, keys.find, clock.time),
        resolver=DjangoReferences(),
        commits=DjangoCommitHook(),
        querysets=DjangoQuerySets(DescriptionPolicy(settings.queryset_descriptions)),
        outbox=DjangoOutbox() if settings.outbox else NoOutbox(),
        surroundings=DjangoSurroundings(),
        invoker=DjangoInvoker(),
        audit=LoggingAudit(),
        failures=SignalFailures(),
        records=records,
        records_using=records.using if isinstance(records, OrmRecords) else None,
        ledger=Ledger(records, clock),
        clock=clock,
        inline_limit_bytes=settings.inline_limit_bytes,
        body_cap_bytes=settings.body_cap_bytes,
        slice_limit=settings.iteration_time_limit,
    )


def make_target(settings: Settings) -> TaskTarget:
    """Where tasks are created and whom they call.

    Raises:
        ConfigurationError: The metadata server has to be asked and does not answer.
    """
    return TaskTarget(
        project=settings.project or parse_project_name(read_project_id()),
        location=settings.location or parse_location_name(read_region()),
        handler_url=settings.handler_url,
        audience=settings.audience,
        service_account=settings.service_account,
        emulator_host=None if settings.local is None else settings.local.tasks_host,
    )


def make_queue_admin(settings: Settings) -> QueueAdmin:
    """What manages queues, with a client of its own.

    Raises:
        ConfigurationError: The metadata server has to be asked and does not answer.
    """
    target = make_target(settings)
    return CloudTasksQueues(PerProcess(lambda: make_client(target)).get, target)


def _queue_preparation(settings: Settings, target: TaskTarget) -> Callable[[TasksClient], None] | None:
    """What brings the queues in order before a process sends its first task, if that is to be done.

    Not at start-up: a gRPC channel that was used before a fork fails in the child.
    """
    if not settings.queues or not settings.sync_queues:
        return None
    return lambda client: prepare_queues(CloudTasksQueues(lambda: client, target), settings.queues)


def make_records(settings: Settings, project: str) -> RecordStore:
    """The store of durable records.

    Raises:
        ConfigurationError: google-cloud-datastore is not installed.
    """
    if settings.store == "orm":
        return OrmRecords()
    try:
        # Installed only with the extra: whoever keeps records in the Django database does not need it.
        from safedefer.gcp.datastore import DatastoreRecords, DatastoreTarget  # noqa: PLC0415
    except ImportError:
        raise ConfigurationError(
            'SAFEDEFER["STORE"] is "datastore", which needs google-cloud-datastore: pip install "safedefer[datastore]"'
        ) from None
    target = DatastoreTarget(
        project=settings.datastore.project or project,
        database=settings.datastore.database,
        namespace=settings.datastore.namespace,
        emulator_host=None if settings.local is None else settings.local.datastore_host,
    )
    return DatastoreRecords(target)


def make_ring(keys: tuple[KeySetting, ...], environment: EnvironmentName, project: ProjectName) -> KeyRing:
    """Derive the keys of this environment and project.

    Raises:
        ConfigurationError: The keys do not make a ring.
    """
    return KeyRing(_make_key(key, environment, project) for key in keys)


def _make_key(key: KeySetting, environment: EnvironmentName, project: ProjectName) -> Key:
    if key.secret is None:
        return destroyed_key(name=key.name, key_id=key.key_id or KeyId(b""))
    secret = key.secret.reveal()
    return derive_key(name=key.name, secret=secret, state=key.state, environment=environment, project=project)


def _producer() -> Producer:
    environ = os.environ
    return Producer(
        service=_short(environ.get("K_SERVICE") or environ.get("GAE_SERVICE") or ""),
        revision=_short(environ.get("K_REVISION") or environ.get("GAE_VERSION") or ""),
    )


def _default_route(handler_url: str) -> Route:
    """On App Engine, the running version: what a version deferred is run by the same code."""
    service, version = os.environ.get("GAE_SERVICE", ""), os.environ.get("GAE_VERSION", "")
    if is_app_engine_host(urlsplit(handler_url).hostname or "") and is_host_part(service) and is_host_part(version):
        return Route(service=service, version=version)
    return ANYWHERE


def _short(text: str) -> str:
    return text[:128] if text.isprintable() else ""
