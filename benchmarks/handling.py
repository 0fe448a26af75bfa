"""The handler against an empty Django view: the whole of Django's request handling, without a network between.

The function uses no ledger, which costs what the database takes for one read and two writes.
"""

import logging
import os
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, Final

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.site.settings"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import django

django.setup()

from django.conf import settings as django_settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.urls import include, path

from benchmarks.timing import measure, print_ratios
from safedefer.core.envelope import CONTENT_TYPE
from safedefer.core.function import RegisteredFunction
from safedefer.django.conf import read_settings
from safedefer.django.setup import build_runtime
from safedefer.emulator import LocalCloud
from safedefer.flow.defer import seal_call
from safedefer.flow.runtime import install
from tests.support.site import site_settings

ORIGIN: Final = "http://127.0.0.1:8000"
FLOOR: Final = "floor: an empty view"


def empty(request: HttpRequest) -> HttpResponse:
    """Read the body, answer nothing."""
    _ = request.body
    return HttpResponse(status=204)


urlpatterns = [path("empty/", empty), path("_safedefer/", include("safedefer.urls"))]


def nothing(number: int, text: str, share: float) -> None:
    """Do nothing."""


def main() -> None:
    """Measure the handler with its audit log switched off, and written to a file that is thrown away."""
    django_settings.ROOT_URLCONF = __name__
    with LocalCloud() as cloud:
        settings, _ = read_settings(site_settings(ORIGIN), cloud.environment())
        assert settings is not None
        runtime = build_runtime(settings)
        install(lambda: runtime)
        function = RegisteredFunction(nothing, name="bench.nothing", ledger=False)
        runtime.registry._functions[function.name] = {1: function}  # noqa: SLF001  # After start-up, here only.
        sealed: Any = seal_call(runtime, function, function.options, (17, "a short text", 2.5), {})
        body: bytes = sealed.task.task.http_request.body
        token = cloud.issuer.mint(settings.service_account, settings.audience)
        handler = WSGIHandler()
        logger = logging.getLogger("safedefer.audit")
        logger.propagate = False
        logger.addHandler(logging.NullHandler())
        times = {}
        for name, level in (("audit events not logged", logging.ERROR), ("audit events logged", logging.INFO)):
            logger.setLevel(level)
            found = measure(
                {
                    FLOOR: lambda: call(handler, "/empty/", body, token),
                    f"safedefer: verify and run, {name}": lambda: call(handler, "/_safedefer/", body, token),
                },
                seconds=0.1,
            )
            times.update(found)
    print_ratios("Handle one dispatch", times, FLOOR)


def call(handler: WSGIHandler, url: str, body: bytes, token: str) -> None:
    """One request through Django, from the WSGI environment to the response."""
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": url,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "CONTENT_TYPE": CONTENT_TYPE,
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_AUTHORIZATION": f"Bearer {token}",
        "HTTP_X_CLOUDTASKS_QUEUENAME": "default",
        "wsgi.input": BytesIO(body),
        "wsgi.url_scheme": "http",
    }
    statuses: list[str] = []

    def start_response(status: str, headers: object, exc_info: object = None, /) -> Callable[[bytes], object]:
        statuses.append(status)
        return bytes

    response = handler(environ, start_response)
    b"".join(response)
    if not statuses[0].startswith("204"):
        raise RuntimeError(f"answered {statuses[0]}")


if __name__ == "__main__":
    main()
