"""T01: a header is sent twice, or under a name that some server takes for another."""

import socket
from urllib.parse import urlsplit

import pytest

from safedefer.core.envelope import CONTENT_TYPE
from safedefer.errors import Reason
from tests.site.shop import tasks
from tests.support.site import PATH, WAIT_SECONDS, Site


def post(site: Site, body: bytes, *lines: str) -> str:
    """Send these header lines as they are; gives the first line of the answer."""
    address = urlsplit(site.origin)
    head = [f"POST {PATH} HTTP/1.1", "Host: localhost", "Connection: close", f"Content-Type: {CONTENT_TYPE}", *lines]
    with socket.create_connection((address.hostname, address.port or 0), timeout=WAIT_SECONDS) as connection:
        connection.sendall("\r\n".join([*head, "", ""]).encode() + body)
        with connection.makefile("rb") as answer:
            return answer.readline().decode().strip()


def dispatch(site: Site, *lines: str, token: bool = True) -> Reason:
    """The reason of what becomes of a genuine envelope under these lines."""
    wire = site.seal(tasks.note, "x")
    usual = [f"Content-Length: {len(wire)}"]
    usual += [f"Authorization: Bearer {site.token()}"] if token else []
    answer = post(site, wire, *usual, *lines)
    assert site.traces() == []
    (event,) = site.dispatches()
    assert answer.startswith("HTTP/1.1 2") == (event.outcome == "dead")
    return event.reason


def test_T01_two_tokens_are_none(site: Site) -> None:
    second = f"Authorization: Bearer {site.token()}"
    assert dispatch(site, second, "X-CloudTasks-QueueName: default") is Reason.TOKEN_MALFORMED


@pytest.mark.parametrize("second", ["Authorization: Basic eDp5", "Authorization: ", "authorization: Bearer"])
def test_T01_token_beside_something_else_is_none(site: Site, second: str) -> None:
    assert dispatch(site, second, "X-CloudTasks-QueueName: default") is Reason.TOKEN_MALFORMED


def test_T01_two_queues_are_none(site: Site) -> None:
    lines = ["X-CloudTasks-QueueName: default", "X-CloudTasks-QueueName: default"]
    assert dispatch(site, *lines) is Reason.QUEUE_MISMATCH


@pytest.mark.parametrize("name", ["X_CloudTasks_QueueName", "X-CloudTasks_QueueName", "X-AppEngine-QueueName"])
def test_T01_queue_under_another_name_is_none(site: Site, name: str) -> None:
    assert dispatch(site, f"{name}: default") is Reason.QUEUE_MISMATCH


@pytest.mark.parametrize(
    "name", ["HTTP_AUTHORIZATION", "X-Authorization", "X-Goog-Iap-Jwt-Assertion", "X-Endpoint-API-UserInfo", "Cookie"]
)
def test_T01_token_under_another_name_is_none(site: Site, name: str) -> None:
    line = f"{name}: Bearer {site.token()}"
    assert dispatch(site, line, "X-CloudTasks-QueueName: default", token=False) is Reason.TOKEN_MISSING
