"""The local cloud before the running site of a test, with the project's production adapters between them."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.urls import NoReverseMatch, reverse

from safedefer.emulator import LocalCloud
from safedefer.errors import ConfigurationError
from safedefer.flow.runtime import installed
from safedefer.testing.setup import read_test_settings


@contextmanager
def run_local_cloud(origin: str) -> Iterator[LocalCloud]:
    """Send what is deferred inside the block through a local cloud to a site.

    Args:
        origin: Where the site listens, such as `http://127.0.0.1:34567`.
    Raises:
        ConfigurationError: `safedefer.urls` is not included, or the project's settings are wrong.
    """
    # Django's start-up order: it needs the app registry.
    from safedefer.django.setup import build_runtime  # noqa: PLC0415

    try:
        path = reverse("safedefer:handler")
    except NoReverseMatch:
        raise ConfigurationError('the handler is nowhere: path("_safedefer/", include("safedefer.urls"))') from None
    changes = {"HANDLER_URL": origin + path}
    settings = read_test_settings(changes)
    place = f"projects/{settings.project}/locations/{settings.location}/queues"
    names = {settings.default_queue, *(queue.name for queue in settings.queues)}
    with LocalCloud(queues=[f"{place}/{name}" for name in sorted(names)]) as cloud:
        runtime = build_runtime(read_test_settings(changes, cloud.environment()))
        with installed(runtime):
            yield cloud
