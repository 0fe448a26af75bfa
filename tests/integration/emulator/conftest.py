"""A local cloud on a clock that stands still, the real client, and a target to dispatch to."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from safedefer.emulator import LocalCloud, ManualClock
from tests.integration.emulator.targets import Target
from tests.support.channels import open_channel

QUEUE = "projects/local/locations/local1/queues/default"


@pytest.fixture
def queue() -> str:
    return QUEUE


@pytest.fixture
def clock() -> ManualClock:
    # It starts at the present, since verifiers of tokens read the machine's clock.
    return ManualClock(datetime.now(UTC))


@pytest.fixture
def cloud(clock: ManualClock, target: Target) -> Iterator[LocalCloud]:
    # It asks for the target so that it stops first, and the target finds no connection still open.
    with LocalCloud(clock=clock, queues=[QUEUE]) as cloud:
        yield cloud


@pytest.fixture
def client(cloud: LocalCloud) -> Iterator[tasks_v2.CloudTasksClient]:
    with open_channel(cloud.tasks.address) as channel:
        yield tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))


@pytest.fixture
def target() -> Iterator[Target]:
    target = Target()
    yield target
    target.stop()
