"""T19: a token, or a part of one, shows up in a log, an error, a response or an event."""

import logging

import pytest

from tests.site.shop import tasks
from tests.support.site import Site

CANARY = "canary-4f1c-in-the-coal-mine"


def test_T19_token_shows_in_no_log_event_or_response(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    wire = site.seal(tasks.note, "x")
    header, payload, signature = site.token().split(".")
    tokens = [
        f"{header}.{payload}.{signature[:-4]}AAAA",
        f"{header}.{payload[:-4]}AAAA.{signature}",
        site.token(aud="https://elsewhere.example"),
        f"{CANARY}.{CANARY}.{CANARY}",
    ]
    for token in tokens:
        assert site.post(wire, token=token).status == 401
    for record in caplog.records:
        text = record.getMessage() + repr(vars(record))
        assert CANARY not in text
        assert payload[:40] not in text
        assert signature[:40] not in text
    assert all(event.reason.value.startswith("token_") for event in site.dispatches())
