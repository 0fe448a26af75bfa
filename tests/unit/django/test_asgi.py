"""The handler under ASGI, where Django reads the whole request before any view."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIHandler

from safedefer.core.envelope import CONTENT_TYPE
from safedefer.core.limits import MAX_REQUEST_BYTES
from safedefer.django.signals import audit_event_recorded
from safedefer.errors import Reason
from tests.site.shop import tasks
from tests.support.site import PATH, Site


@pytest.fixture(params=["tests.site.urls", "tests.site.urls_async"], autouse=True)
def _both_handlers(request: pytest.FixtureRequest, settings: Any) -> None:
    settings.ROOT_URLCONF = request.param


def scope_of(site: Site, body: bytes, **changes: str | None) -> dict[str, Any]:
    """What an ASGI server says of one dispatch."""
    headers: dict[str, str | None] = {
        "content-type": CONTENT_TYPE,
        "content-length": str(len(body)),
        "authorization": f"Bearer {site.token()}",
        "x-cloudtasks-queuename": "default",
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    return {
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


def exchange(site: Site, body: bytes, **changes: str | None) -> tuple[int, bytes]:
    """Send one dispatch to the site as an ASGI server would; gives status and body of the answer."""
    scope = scope_of(site, body, **changes)
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


@pytest.mark.parametrize("_both_handlers", ["tests.site.urls_async"], indirect=True)
@pytest.mark.parametrize("function", [tasks.wait_for_hang_up, tasks.await_hang_up])
def test_dispatch_whose_caller_hangs_up_goes_on_to_its_end(site: Site, function: Any) -> None:
    tasks.hung_up.clear()
    tasks.begun.clear()
    asyncio.run(_hang_up(site.seal(function), site))
    assert site.traces() == ["went on"]
    assert [event.reason for event in site.dispatches()] == [Reason.EXECUTED]


async def _hang_up(body: bytes, site: Site) -> None:
    """Disconnect once the function has begun, then wait for its dispatch to end."""
    loop = asyncio.get_running_loop()
    incoming = [{"type": "http.request", "body": body}]

    async def receive() -> dict[str, Any]:
        if incoming:
            return incoming.pop()
        await loop.run_in_executor(None, tasks.begun.wait, 20)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        """Nobody listens any more."""

    await ASGIHandler()(scope_of(site, body), receive, send)
    tasks.hung_up.set()
    ended = asyncio.Event()
    audit_event_recorded.connect(lambda **_: loop.call_soon_threadsafe(ended.set), weak=False, dispatch_uid="hang up")
    while not site.dispatches():
        await asyncio.wait_for(ended.wait(), 20)
    audit_event_recorded.disconnect(dispatch_uid="hang up")


@pytest.mark.parametrize("_both_handlers", ["tests.site.urls_async"], indirect=True)
def test_coroutines_that_wait_for_the_loops_own_threads_hold_up_nobody(site: Site) -> None:
    """Each dispatch holds a thread while its coroutine waits for one, as for the address of a host."""

    async def one(body: bytes) -> int:
        incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        sent: list[Any] = []
        await incoming.put({"type": "http.request", "body": body})

        async def send(message: Any) -> None:
            sent.append(message)

        await ASGIHandler()(scope_of(site, body), incoming.get, send)
        return int(sent[0]["status"])

    async def all_at_once() -> list[int]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        bodies = [site.seal(tasks.meet_in_threads) for _ in range(2)]
        return await asyncio.wait_for(asyncio.gather(*map(one, bodies)), 20)

    tasks.meeting.reset()
    assert asyncio.run(all_at_once()) == [204, 204]
