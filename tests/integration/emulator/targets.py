"""A web server for the emulator's tests: it gives the answers it was told to give, and keeps what it received."""

import socket
import ssl
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One request as it arrived. `headers` keeps order and case."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """Return the one value of a header, however it is written; None if it did not come."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What to answer, and what to wait for before that."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    after: threading.Event | None = None
    endless: threading.Event | None = None
    """Announce no length, and leave the body open until this is set."""


class Target:
    """Answers 200 to everything, unless it was told otherwise."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._scheme = "http" if tls is None else "https"
        self._lock = threading.Condition()
        self._replies: deque[Reply] = deque()
        self._received: list[Received] = []
        self._gates: list[threading.Event] = []
        self._server = _TargetServer(self)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="target")
        self._thread.start()

    def url(self, path: str = "/") -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}{path}"

    def reply(self, *replies: int | Reply) -> None:
        """Give these answers next, in order."""
        with self._lock:
            self._replies.extend(Reply(status=reply) if isinstance(reply, int) else reply for reply in replies)

    def gate(self) -> threading.Event:
        """Return an event to hold replies back with; it is set at the latest when the target stops."""
        gate = threading.Event()
        self._gates.append(gate)
        return gate

    @property
    def received(self) -> tuple[Received, ...]:
        with self._lock:
            return tuple(self._received)

    def wait_received(self, count: int, timeout: float = 20.0) -> bool:
        """Wait until `count` requests have arrived, answered or not."""
        with self._lock:
            return self._lock.wait_for(lambda: len(self._received) >= count, timeout)

    def take(self, request: Received) -> Reply:
        with self._lock:
            self._received.append(request)
            self._lock.notify_all()
            return self._replies.popleft() if self._replies else Reply()

    def stop(self) -> None:
        for gate in self._gates:
            gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _TargetServer(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, target: Target) -> None:
        self.target = target
        super().__init__(("127.0.0.1", 0), BaseHTTPRequestHandler)

    def finish_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        _TargetHandler(self.target, request, client_address, self)

    def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """Say nothing: tests cut connections off."""


class _TargetHandler(BaseHTTPRequestHandler):
    def __init__(
        self,
        target: Target,
        request: socket.socket | tuple[bytes, socket.socket],
        client_address: object,
        server: _TargetServer,
    ) -> None:
        self._target = target
        self.protocol_version = "HTTP/1.1"
        super().__init__(request, client_address, server)

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        request = Received(method=self.command, path=self.path, headers=tuple(self.headers.items()), body=body)
        reply = self._target.take(request)
        if reply.after is not None:
            reply.after.wait()
        self.send_response_only(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.endless is None:
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)
        if reply.endless is not None:
            reply.endless.wait()

    def __getattribute__(self, name: str) -> object:
        # http.server looks for one method per verb, and they are all the same here.
        return super().__getattribute__("_serve" if name.startswith("do_") else name)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # The base class's name.
        """Say nothing."""
