"""T14: what a stranger can make the handler read, keep or wait for before the token is verified."""

import socket
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from safedefer.core.envelope import CONTENT_TYPE
from safedefer.core.limits import MAX_REQUEST_BYTES
from safedefer.errors import Reason
from safedefer.flow.dispatch import Dispatch
from safedefer.flow.execute import handle_dispatch
from tests.site.shop import tasks
from tests.support.site import PATH, WAIT_SECONDS, Site

KIB = 1_024


def must_not_read(size: int) -> bytes:
    raise AssertionError("the body was read before the token was verified")


@contextmanager
def spending_at_most(limit: int) -> Iterator[None]:
    """Fail where more than this many bytes are allocated at one time."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit


@pytest.mark.parametrize(
    ("authorization", "length", "reason"),
    [
        (None, str(MAX_REQUEST_BYTES), Reason.TOKEN_MISSING),
        ("Bearer " + "a" * 10_000_000, str(MAX_REQUEST_BYTES), Reason.TOKEN_MALFORMED),
        ("Bearer " + ".".join(["A" * 1_300] * 3), str(MAX_REQUEST_BYTES), Reason.TOKEN_MALFORMED),
        (None, "9" * 1_000_000, Reason.BODY_TOO_LARGE),
        (None, "x" * 1_000_000, Reason.LENGTH_WRONG),
        # A header of 3,000 opening brackets.
        ("Bearer " + "W1tb" * 1_000 + ".YQ.YQ", "1", Reason.TOKEN_MALFORMED),
    ],
    ids=["no token", "ten megabytes", "large segments", "long length", "no length", "nested header"],
)
def test_T14_refusal_before_the_token_costs_next_to_nothing(
    site: Site, authorization: str | None, length: str, reason: Reason
) -> None:
    dispatch = Dispatch(
        method="POST",
        content_type=CONTENT_TYPE,
        content_length=length,
        authorization=authorization,
        queue="default",
        task_name="x" * 1_000_000,
        retry_count="1" * 1_000_000,
        execution_count="1" * 1_000_000,
        read=must_not_read,
    )
    handle_dispatch(site.runtime, dispatch)  # What is loaded at first use is loaded.
    site.events.clear()
    with spending_at_most(256 * KIB):
        outcome = handle_dispatch(site.runtime, dispatch)
    assert outcome.reason is reason
    (event,) = site.events
    assert len(repr(event)) < KIB


def test_T14_longest_body_is_held_once_before_its_tag_is_compared(site: Site) -> None:
    wire = site.seal(tasks.note, "x")
    data = wire + b"\x00" * (MAX_REQUEST_BYTES - len(wire))
    left: list[Any] = [data, data]
    read: Any = lambda size: bytearray(left.pop())  # noqa: E731  # A server may hand out a bytearray.
    dispatch = Dispatch(
        method="POST",
        content_type=CONTENT_TYPE,
        content_length=str(len(data)),
        authorization=f"Bearer {site.token()}",
        queue="default",
        task_name="x",
        retry_count="0",
        execution_count="0",
        read=read,
    )
    handle_dispatch(site.runtime, dispatch)
    with spending_at_most(2 * MAX_REQUEST_BYTES + 512 * KIB):
        assert handle_dispatch(site.runtime, dispatch).reason is Reason.FRAME_LENGTH


def exchange(site: Site, *parts: bytes, end: bool = False) -> bytes:
    """Send bytes as they are; says what the server answers before it closes the connection."""
    address = urlsplit(site.origin)
    with socket.create_connection((address.hostname, address.port or 0), timeout=WAIT_SECONDS) as connection:
        for part in parts:
            connection.sendall(part)
        if end:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65_536):
            answer += part
            if b"\r\n\r\n" in answer and not end:
                break
        return answer


def head(site: Site, *lines: str, token: bool = False) -> bytes:
    """The head of a dispatch, with these lines in it."""
    usual = [f"POST {PATH} HTTP/1.1", "Host: localhost", "Connection: close", "X-CloudTasks-QueueName: default"]
    usual += [f"Authorization: Bearer {site.token()}"] if token else []
    return "\r\n".join([*usual, f"Content-Type: {CONTENT_TYPE}", *lines, "", ""]).encode()


@pytest.mark.parametrize("length", [1, 50, 10_000])
def test_T14_body_that_is_shorter_than_announced_is_refused_once_it_ends(site: Site, length: int) -> None:
    wire = site.seal(tasks.note, "x")
    answer = exchange(site, head(site, f"Content-Length: {len(wire) + length}", token=True), wire, end=True)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b"\r\n\r\n")
    (event,) = site.dispatches()
    assert event.reason is Reason.LENGTH_WRONG
    assert site.traces() == []


def test_T14_body_that_is_longer_than_announced_is_cut_and_refused(site: Site) -> None:
    wire = site.seal(tasks.note, "x")
    answer = exchange(site, head(site, f"Content-Length: {len(wire) - 1}", token=True), wire, end=True)
    assert answer.startswith(b"HTTP/1.1 204 ")
    assert [event.reason for event in site.dispatches()] == [Reason.FRAME_LENGTH]
    assert site.traces() == []


def test_T14_stranger_who_announces_a_body_and_sends_none_is_answered_at_once(site: Site) -> None:
    answer = exchange(site, head(site, f"Content-Length: {MAX_REQUEST_BYTES}"))
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert [event.reason for event in site.dispatches()] == [Reason.TOKEN_MISSING]


@pytest.mark.parametrize("token", [True, False])
def test_T14_twenty_megabytes_in_chunks_are_refused(site: Site, token: bool) -> None:
    chunk = b"%x\r\n" % 65_536 + b"x" * 65_536 + b"\r\n"
    try:
        answer = exchange(site, head(site, "Transfer-Encoding: chunked", token=token), *[chunk] * 320, b"0\r\n\r\n")
    except OSError:
        answer = b""  # The server has answered and closed before all of it was sent.
    assert answer[:13] in (b"HTTP/1.1 411 ", b"")
    assert site.dispatches()[0].reason is Reason.LENGTH_MISSING
    assert site.traces() == []


@pytest.mark.parametrize("length", ["-1", "+5", "0x10", "5, 6", "1e9", "\xb2", ""])
def test_T14_length_that_is_no_number_is_refused(site: Site, length: str) -> None:
    try:
        answer = exchange(
            site, head(site).replace(b"\r\n\r\n", f"\r\nContent-Length: {length}\r\n\r\n".encode("latin-1"))
        )
    except OSError:
        answer = b""
    assert answer[:13] in (b"HTTP/1.1 400 ", b"HTTP/1.1 411 ", b"")
    assert {event.reason for event in site.dispatches()} <= {Reason.LENGTH_WRONG, Reason.LENGTH_MISSING}
    assert site.traces() == []
