"""T18: an argument or a key shows up in a log, an error, a response or an event."""

import logging
import traceback
from typing import Any

import pytest
from django.test import Client, override_settings

from safedefer import defer
from safedefer.core.envelope import CONTENT_TYPE
from safedefer.errors import Reason, SafeDeferError
from tests.site.shop import tasks
from tests.support.site import Site

unchecked: Any = defer
CANARY = "canary-4f1c-in-the-coal-mine"


def test_T18_argument_shows_in_no_log_event_or_response(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    defer(tasks.note, CANARY)
    defer(tasks.fail, CANARY)
    site.run_tasks()
    replies = [
        site.post(site.seal(tasks.fail, CANARY)),
        site.post(site.seal(tasks.note, CANARY)[:-1] + b"x"),
        site.post(site.forge(site.seal(tasks.note, CANARY), body=b"\x92\x91\xbb" + CANARY.encode())),
    ]
    assert site.traces() == [f"note {CANARY}"]
    # The database's own log of statements is the application's to keep.
    records = [record for record in caplog.records if not record.name.startswith("django.db")]
    assert records
    for record in records:
        assert CANARY not in record.getMessage() + repr(vars(record)), record.name
    assert all(CANARY not in repr(event) for event in site.events)
    assert all(CANARY.encode() not in reply.body and CANARY not in repr(reply.headers) for reply in replies)


@pytest.mark.parametrize(
    "call",
    [
        lambda: defer(tasks.keep, {CANARY[:6]: [CANARY, object()]}),
        lambda: defer(tasks.note, CANARY * 400_000),
        lambda: defer(tasks.note, CANARY, _queue="missing"),
        lambda: unchecked(tasks.add, CANARY),
    ],
)
def test_T18_argument_shows_in_no_error_of_ours(site: Site, call: object) -> None:
    assert callable(call)
    with pytest.raises(SafeDeferError) as caught:
        call()
    assert CANARY not in str(caught.value)
    assert CANARY not in "".join(traceback.format_exception(caught.value)).replace("\n", "")


def test_T18_debug_page_is_never_reached(site: Site) -> None:
    with override_settings(DEBUG=True):
        client = Client(raise_request_exception=False)
        wire = site.seal(tasks.fail, CANARY)
        response = client.post(
            "/_safedefer/",
            data=wire,
            content_type=CONTENT_TYPE,
            headers={"authorization": f"Bearer {site.token()}", "x-cloudtasks-queuename": "default"},
        )
    assert response.status_code == 500
    assert response.content == b""


def test_T18_keys_and_bodies_have_no_telling_repr(site: Site) -> None:
    runtime = site.runtime
    wire = site.seal(tasks.note, CANARY)
    shown = repr(runtime) + repr(runtime.ring) + repr(runtime.ring.primary)
    assert runtime.ring.primary.mac.hex() not in shown
    assert repr(runtime.ring.primary.mac) not in shown
    from safedefer.core.envelope import parse_envelope
    from safedefer.core.signing import verify_body, verify_envelope

    envelope = verify_envelope(parse_envelope(wire), runtime.ring, runtime.deployment)
    assert CANARY not in repr(envelope) + repr(verify_body(envelope)) + repr(parse_envelope(wire))
    assert Reason.TAG_INVALID.value not in shown
