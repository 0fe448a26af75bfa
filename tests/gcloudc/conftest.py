"""The local cloud and the site run before Django is set up, whose settings say where they are."""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from wsgiref.simple_server import WSGIRequestHandler

import django
import pytest
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application

from safedefer.emulator import LocalCloud
from tests.support.serve import Server

QUEUES = [f"projects/local/locations/local1/queues/{name}" for name in ("default", "walks")]
WAIT_SECONDS = 20.0

_running = ExitStack()
_cloud = LocalCloud(queues=QUEUES)


class QuietHandler(WSGIRequestHandler):
    """Writes no log."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # The base class's name.
        pass


def pytest_configure(config: pytest.Config) -> None:
    """Start everything, then Django."""
    config.add_cleanup(_running.close)
    _running.enter_context(_cloud)
    server = Server(("127.0.0.1", 0), QuietHandler)
    _running.callback(server.server_close)
    os.environ.update(_cloud.environment())
    os.environ["SITE_HANDLER_URL"] = f"http://127.0.0.1:{server.server_port}/_safedefer/"
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.gcloudc.settings"
    django.setup()
    server.set_app(get_wsgi_application())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    _running.callback(thread.join, WAIT_SECONDS)
    _running.callback(server.shutdown)


@pytest.fixture
def cloud() -> Iterator[LocalCloud]:
    """The local cloud with an empty, migrated database. Tasks that a test leaves behind are waited for."""
    _cloud.datastore.reset()
    call_command("migrate", verbosity=0)
    yield _cloud
    assert _cloud.tasks.wait_idle(WAIT_SECONDS)
