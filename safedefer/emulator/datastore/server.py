"""The server: one gRPC port, and one for health and reset over HTTP."""

import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Final, Self, final

import grpc

from safedefer.emulator.addresses import PortUnavailableError, check_port_is_free, format_address
from safedefer.emulator.clock import Clock, SystemClock
from safedefer.emulator.datastore.failures import MAX_REQUEST_BYTES
from safedefer.emulator.datastore.surface import Surface
from safedefer.emulator.faults import DATASTORE_FAULTS, Faults

_NAME: Final = "Datastore"
_THREADS: Final = 16
_GRACE_SECONDS: Final = 0.2
_STOP_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.05
SCATTER_RATE: Final = 0.5
"""A large share, since local data is small; the service marks about one key in 128."""


@final
class DatastoreServer:
    """A local Datastore. Whoever reaches its ports may do everything; state is in memory only."""

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Clock | None = None,
        scatter_rate: float = SCATTER_RATE,
        seed: int = 0,
    ) -> None:
        self._host = host
        self._port = port
        self.faults: Faults = Faults(DATASTORE_FAULTS, seed=seed)
        self._surface = Surface(clock or SystemClock(), scatter_rate, self.faults)
        self._executor: ThreadPoolExecutor | None = None
        self._server: grpc.Server | None = None
        self._admin: ThreadingHTTPServer | None = None
        self._admin_thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The gRPC port; before `start`, the one that was asked for."""
        return self._port

    @property
    def admin_port(self) -> int:
        """The port of `GET /` and `POST /reset`; 0 before `start`."""
        return 0 if self._admin is None else self._admin.server_port

    @property
    def address(self) -> str:
        """Host and port, as DATASTORE_EMULATOR_HOST carries them."""
        return format_address(self._host, self._port)

    def environment(self) -> dict[str, str]:
        """The variable by which clients find this server."""
        return {"DATASTORE_EMULATOR_HOST": self.address}

    def reset(self) -> None:
        """Forget everything."""
        self._surface.reset()

    def start(self) -> None:
        """Listen.

        Raises:
            PortUnavailableError: The port is taken.
        """
        check_port_is_free(_NAME, self._host, self._port)
        self._executor = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="datastore")
        options = [("grpc.max_receive_message_length", MAX_REQUEST_BYTES), ("grpc.so_reuseport", 0)]
        self._server = grpc.server(self._executor, handlers=[self._surface], options=options)
        try:
            self._port = self._server.add_insecure_port(self.address)
        except RuntimeError as error:
            self._executor.shutdown()
            raise PortUnavailableError(_NAME, self._host, self._port) from error
        self._server.start()
        self._admin = ThreadingHTTPServer((self._host, 0), _admin_handler(self))
        self._admin_thread = threading.Thread(
            target=self._admin.serve_forever, kwargs={"poll_interval": _POLL_SECONDS}, name="datastore-admin"
        )
        self._admin_thread.start()

    def stop(self) -> None:
        """Stop listening, and wait for the threads, for a few seconds at most. Stopping twice does nothing more."""
        if self._server is None or self._executor is None or self._admin is None or self._admin_thread is None:
            return
        self._server.stop(_GRACE_SECONDS).wait(_STOP_SECONDS)
        self._executor.shutdown()
        self._admin.shutdown()
        self._admin.server_close()
        self._admin_thread.join(_STOP_SECONDS)
        self._server = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def _admin_handler(server: DatastoreServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200 if self.path == "/" else 404, b"Ok\n")

        def do_POST(self) -> None:
            if self.path == "/reset":
                server.reset()
            self._answer(200 if self.path == "/reset" else 404, b"Reset\n")

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # The base class's name.
            pass

    return Handler
