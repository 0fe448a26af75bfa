"""Delivery of one attempt: a real HTTP request over a real socket, which can be cut off from another thread."""

import errno
import http.client
import os
import re
import selectors
import socket
import ssl
import threading
import urllib.parse
from contextlib import closing, suppress
from datetime import datetime
from typing import Protocol

from safedefer.emulator.clock import Clock
from safedefer.emulator.cloud_tasks.headers import with_authorization
from safedefer.emulator.cloud_tasks.retries import Answer, NoResponse, Response, parse_retry_after
from safedefer.emulator.cloud_tasks.state import Dispatch
from safedefer.emulator.cloud_tasks.task_forms import encoded_url

_METHODS_WITH_LENGTH = ("POST", "PUT", "PATCH")
_READ_BYTES = 64 * 1024
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class TokenMinter(Protocol):
    """Where identity tokens come from: signed, for the account `email`, meant for `audience`."""

    def mint(self, email: str, audience: str) -> str: ...


class CallCancelledError(OSError):
    """The call was cut off by this side."""


class Call:
    """The connection of one attempt, and the means to cut it off.

    A timeout on the socket would bound each read and not the whole attempt, and it would count the machine's seconds
    rather than the given clock's. So the dispatcher keeps the time, and cuts the connection when it is over.
    """

    def __init__(self) -> None:
        """Start without a connection."""
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._is_cancelled = False

    @property
    def is_cancelled(self) -> bool:
        """Whether `cancel` was called."""
        with self._lock:
            return self._is_cancelled

    def cancel(self) -> None:
        """Cut the connection off, now or as soon as there is one. The thread that reads from it wakes up."""
        with self._lock:
            self._is_cancelled = True
            if self._socket is not None:
                _shut_down(self._socket)

    def attach(self, connection: socket.socket) -> None:
        """Name the connection that `cancel` is to cut. The last one counts.

        Raises:
            CallCancelledError: The call was cancelled already.
        """
        with self._lock:
            if self._is_cancelled:
                raise CallCancelledError
            self._socket = connection


class Delivery:
    """Sends attempts. It keeps no state between them, so that many threads may share it."""

    def __init__(self, clock: Clock, minter: TokenMinter) -> None:
        """Take the clock, for Retry-After dates, and the source of tokens."""
        self._clock = clock
        self._minter = minter
        self._tls = ssl.create_default_context()

    def deliver(self, dispatch: Dispatch, call: Call) -> Answer:
        """Send one attempt and return how it ended. A redirect is an answer like any other.

        Trust: what the target sends is reduced to a status and a bounded Retry-After; its body is read and dropped.
        """
        headers = dispatch.headers
        if dispatch.identity:
            # Minted now and not when the task was created: a task may wait longer than a token lives.
            token = self._minter.mint(dispatch.identity.email, dispatch.identity.audience)
            headers = with_authorization(headers, token)
        try:
            return self._exchange(dispatch, headers, call)
        except (OSError, http.client.HTTPException, ValueError):
            # ValueError: a url, header name or header value that cannot be put on the wire.
            return NoResponse(reason="deadline" if call.is_cancelled else "unreachable")

    def _exchange(self, dispatch: Dispatch, headers: tuple[tuple[str, str], ...], call: Call) -> Response:
        url = _parse_url(dispatch.url)
        host, port = _host_and_port(url)
        with closing(http.client.HTTPConnection(host, port)) as connection:
            raw = _connect(host, port, call)
            connection.sock = raw if url.scheme == "http" else self._secure(raw, host, call)
            target = (url.path or "/") + (f"?{url.query}" if url.query else "")
            connection.putrequest(dispatch.method, target, skip_host=True, skip_accept_encoding=True)
            connection.putheader("Host", url.netloc.rpartition("@")[2])
            for name, value in headers:
                connection.putheader(name, value.encode())
            if dispatch.method in _METHODS_WITH_LENGTH:
                connection.putheader("Content-Length", str(len(dispatch.body)))
            connection.endheaders(dispatch.body or None)
            with closing(connection.getresponse()) as response:
                while response.read(_READ_BYTES):
                    pass
                # The end of the stream looks the same to http.client whoever brought it about.
                if response.length or call.is_cancelled:
                    raise http.client.IncompleteRead(b"", response.length)
                return _response(response, self._clock.now())

    def _secure(self, raw: socket.socket, host: str, call: Call) -> ssl.SSLSocket:
        secured = self._tls.wrap_socket(raw, server_hostname=host, do_handshake_on_connect=False)
        try:
            call.attach(secured)
            secured.do_handshake()
        except BaseException:
            secured.close()
            raise
        return secured


def _parse_url(text: str) -> urllib.parse.SplitResult:
    url = urllib.parse.urlsplit(encoded_url(text))
    # The service stores a url whose path cannot be decoded and fails when it comes to use it.
    if _BAD_ESCAPE.search(url.netloc + url.path):
        raise ValueError("The url has a percent sign that starts no escape.")
    return url


def _host_and_port(url: urllib.parse.SplitResult) -> tuple[str, int]:
    if not url.hostname:
        raise ValueError("The url names no host.")
    return url.hostname, url.port or (http.client.HTTPS_PORT if url.scheme == "https" else http.client.HTTP_PORT)


def _connect(host: str, port: int, call: Call) -> socket.socket:
    """Connect to the first address of `host` that accepts, in a way that `call` can cut off."""
    failure = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(0)
            _begin_to_connect(connection, address)
            # Only now: shutting down a socket that has not begun to connect would not stop it from beginning.
            call.attach(connection)
            _await_connected(connection)
        except OSError as error:
            connection.close()
            if call.is_cancelled:
                raise
            failure = error
        else:
            return connection
    raise failure


def _begin_to_connect(connection: socket.socket, address: tuple[object, ...]) -> None:
    error = connection.connect_ex(address)
    if error not in {0, errno.EINPROGRESS, errno.EWOULDBLOCK}:
        raise OSError(error, os.strerror(error))


def _await_connected(connection: socket.socket) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_WRITE)
        selector.select()
    error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _response(response: http.client.HTTPResponse, now: datetime) -> Response:
    retry_after = response.getheader("Retry-After")
    return Response(
        status=response.status, retry_after=None if retry_after is None else parse_retry_after(retry_after, now)
    )


def _shut_down(connection: socket.socket) -> None:
    # By the base class: SSLSocket.shutdown would also take down the TLS state under the thread that is reading.
    with suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
