"""T14: a request that is too large, lies about its length, or unfolds into far more than it weighs."""

import socket
import tracemalloc
from urllib.parse import urlsplit

import pytest

from safedefer.core.codec import decode_arguments
from safedefer.core.envelope import parse_envelope
from safedefer.core.limits import MAX_DEPTH, MAX_NODES, MAX_REQUEST_BYTES
from safedefer.core.signing import verify_body
from safedefer.errors import ArgumentsRefusedError, Reason
from tests.site.shop import tasks
from tests.support.builders import Rows, make_envelope, verified
from tests.support.site import Site


@pytest.mark.parametrize(
    ("length", "status", "reason"),
    [
        ("99999999999999999999", 413, Reason.BODY_TOO_LARGE),
        (None, 411, Reason.LENGTH_MISSING),
    ],
)
def test_T14_length_is_refused_before_the_token_is_looked_at(
    site: Site, length: str | None, status: int, reason: Reason
) -> None:
    reply = site.post(b"", token="", headers={"Content-Length": length})
    assert reply.status == status
    assert site.refusal(reply).reason is reason


@pytest.mark.parametrize("length", [MAX_REQUEST_BYTES + 1, 20_000_000])
def test_T14_large_body_is_not_read(site: Site, length: int) -> None:
    parts = urlsplit(site.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=20) as connection:
        connection.sendall(
            b"POST /_safedefer/ HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/vnd.safedefer.envelope\r\nContent-Length: %d\r\n\r\n" % length
        )
        # Not a byte of the body has been sent when the answer comes.
        assert b" 413 " in connection.recv(100)


def test_T14_chunked_body_is_refused(site: Site) -> None:
    reply = site.post(b"", headers={"Transfer-Encoding": "chunked", "Content-Length": None})
    assert reply.status == 411


def test_T14_signed_claim_of_a_huge_stored_body_is_refused_before_it_is_fetched(site: Site) -> None:
    from dataclasses import replace

    from safedefer.core.claims import Storage
    from safedefer.core.signing import sign_envelope, verify_envelope

    wire = site.seal(tasks.note, "x")
    claims = verify_envelope(parse_envelope(wire), site.runtime.ring, site.runtime.deployment).claims
    huge = replace(claims.body, size_bytes=4_000_000_000, storage=Storage.OVERFLOW)
    forged = sign_envelope(replace(claims, body=huge), b"", site.runtime.ring.primary, site.runtime.deployment)
    reply = site.post(forged)
    assert reply.status == 204
    assert site.refusal(reply).reason is Reason.BODY_LIMITS


BOMBS = {
    "nested arrays": b"\x92\x91" + b"\x91" * 200_000 + b"\x01\x80",
    "nested a little too deep": b"\x92\x91" + b"\x91" * MAX_DEPTH + b"\x01\x80",
    "an array that says it is huge": b"\x92\x91\xdd\xff\xff\xff\xff\x80",
    "a map that says it is huge": b"\x92\x91\xdf\xff\xff\xff\xff\x80",
    "many empty maps": b"\x92\x91\xdd" + (MAX_NODES + 1).to_bytes(4, "big") + b"\x80" * (MAX_NODES + 1) + b"\x80",
    "arrays in arrays in arrays": b"\x92\x91" + b"\xdc\xff\xff" * 30 + b"\x80",
    "a text that says it is huge": b"\x92\x91\xdb\xff\xff\xff\xff\x80",
}


@pytest.mark.parametrize("body", BOMBS.values(), ids=BOMBS.keys())
def test_T14_bomb_under_a_stolen_key_is_refused_within_bounds(body: bytes) -> None:
    parameters = tasks.keep.registered.parameters
    verified_body = verify_body(verified(make_envelope(body=body)))
    tracemalloc.start()
    try:
        with pytest.raises(ArgumentsRefusedError) as caught:
            decode_arguments(parameters, verified_body, Rows())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.reason in (Reason.BODY_LIMITS, Reason.BODY_MALFORMED)
    assert peak < 100_000_000


def test_T14_frame_costs_nothing_before_the_tag(site: Site) -> None:
    data = b"SDFR" + b"\xff" * 1_000_000
    tracemalloc.start()
    try:
        reply = site.post(data, token="")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert reply.status == 401
    assert peak < 4_000_000
