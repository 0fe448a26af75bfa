"""The handler under ASGI, where Django reads the whole request before any view."""

import asyncio
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIHandler

from safedefer.core.envelope import CONTENT_TYPE
from safedefer.core.limits import MAX_REQUEST_BYTES
from safedefer.errors import Reason
from tests.site.shop import tasks
from tests.support.site import PATH, Site


def exchange(site: Site, body: bytes, **changes: str | None) -> tuple[int, bytes]:
    """Send one dispatch to the site as an ASGI server would; gives status and body of the answer."""
    headers: dict[str, str | None] = {
        "content-type": CONTENT_TYPE,
        "content-length": str(len(body)),
        "authorization": f"Bearer {site.token()}",
        "x-cloudtasks-queuename": "default",
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": PATH,
        "raw_path": PATH.encode(),
        "query_string": b"",
        "root_path": "",
        "server": ("localhost", 80),
        "client": ("127.0.0.1", 1),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items() if value is not None],
    }
    pieces = [body[at : at + 65_536] for at in range(0, len(body), 65_536)] or [b""]
    incoming = [
        {"type": "http.request", "body": piece, "more_body": number < len(pieces) - 1}
        for number, piece in enumerate(pieces)
    ]
    sent: list[dict[str, Any]] = []
    answered = asyncio.Event

    async def run() -> None:
        done = answered()

        async def receive() -> dict[str, Any]:
            if incoming:
                return incoming.pop(0)
            await done.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                done.set()

        await ASGIHandler()(scope, receive, send)

    asyncio.run(run())
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def test_dispatch_runs(site: Site) -> None:
    assert exchange(site, site.seal(tasks.note, "x")) == (204, b"")
    assert site.traces() == ["note x"]


def test_coroutine_function_runs(site: Site) -> None:
    assert exchange(site, site.seal(tasks.anote, "x")) == (204, b"")
    assert site.traces() == ["anote x"]


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"authorization": None}, 401, Reason.TOKEN_MISSING),
        ({"authorization": "Bearer a.b.c"}, 401, Reason.TOKEN_MALFORMED),
        ({"content_length": None}, 411, Reason.LENGTH_MISSING),
        ({"content_length": "x"}, 400, Reason.LENGTH_WRONG),
        ({"content_length": str(MAX_REQUEST_BYTES + 1)}, 413, Reason.BODY_TOO_LARGE),
        ({"content_length": "5000"}, 400, Reason.LENGTH_WRONG),
        ({"content_type": "application/json"}, 415, Reason.CONTENT_TYPE_WRONG),
        ({"x_cloudtasks_queuename": None}, 204, Reason.QUEUE_MISMATCH),
    ],
)
def test_dispatch_that_is_wrong_is_refused_as_elsewhere(
    site: Site, changes: dict[str, str | None], status: int, reason: Reason
) -> None:
    assert exchange(site, site.seal(tasks.note, "x"), **changes) == (status, b"")
    (event,) = site.dispatches()
    assert event.reason is reason
    assert site.traces() == []


def test_twenty_megabytes_without_a_length_are_refused(site: Site) -> None:
    status, body = exchange(site, b"x" * 20_000_000, content_length=None)
    assert (status, body) == (411, b"")
    assert site.traces() == []
