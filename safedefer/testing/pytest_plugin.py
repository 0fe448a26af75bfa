"""Fixtures for pytest, there by themselves where safedefer is installed. The only module that imports pytest.

Every run of pytest in the environment imports this module, whatever it tests: nothing here needs the settings of Django
before a fixture is used.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from safedefer.testing.capture import CapturedTasks, capture_tasks
from safedefer.testing.fakes import ManualClock

if TYPE_CHECKING:
    from safedefer.emulator import LocalCloud


@pytest.fixture
def deferred_tasks() -> Iterator[CapturedTasks]:
    """Keep what the test defers in memory, to be looked at and run."""
    with capture_tasks() as tasks:
        yield tasks


@pytest.fixture
def safedefer_clock(deferred_tasks: CapturedTasks) -> ManualClock:
    """The clock of `deferred_tasks`, which moves when it is told."""
    return deferred_tasks.clock


@pytest.fixture
def safedefer_local_cloud(transactional_db: None, live_server: object) -> "Iterator[LocalCloud]":  # noqa: ARG001
    """Start the local cloud, and have it call the live server of pytest-django.

    What the test defers goes the whole way: the client of Cloud Tasks, HTTP, the URL configuration, the token and the
    signature.
    """
    # Only here: the servers, and the clients of Google, take longer to load than most tests run.
    from safedefer.testing.local_cloud import run_local_cloud  # noqa: PLC0415

    with run_local_cloud(str(live_server)) as cloud:
        yield cloud
