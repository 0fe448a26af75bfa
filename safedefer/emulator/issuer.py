"""The token issuer's web server: discovery, and its keys in both forms in use."""

import json
import socket
import socketserver
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from safedefer.emulator.addresses import PortUnavailableError, address_family, format_address
from safedefer.emulator.clock import Clock
from safedefer.emulator.identity import TokenIssuer

_NAME = "The token issuer"
_DISCOVERY_PATH = "/.well-known/openid-configuration"
_JWKS_PATH = "/oauth2/v3/certs"
_CERTIFICATES_PATH = "/oauth2/v1/certs"
_KEYS_MAX_AGE_SECONDS = 3600
_REQUEST_SECONDS = 2.0
"""How long a client may take over one request. It bounds how long `stop` waits for one that says nothing."""
_STOP_SECONDS = 5.0
_STOP_LATENCY_SECONDS = 0.05
"""How often the server looks whether it is to stop. The default of half a second would slow a test suite down."""


class IssuerServer:
    """The token issuer on one port of this machine. It starts once and stops once."""

    def __init__(self, *, host: str, port: int, clock: Clock) -> None:
        """Prepare the issuer; no port is taken before `start`.

        Args:
            host: Where to listen.
            port: Which port; 0 lets the system choose.
            clock: When tokens are minted.
        """
        self._host = host
        self._port = port
        self._clock = clock
        self._issuer: TokenIssuer | None = None
        self._server: _KeyServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port that is listened on; before `start`, the one that was asked for."""
        return self._port

    @property
    def url(self) -> str:
        """The issuer's base URL, which is also its name in tokens."""
        return f"http://{format_address(self._host, self._port)}"

    @property
    def jwks_url(self) -> str:
        """Where the keys are published as a JSON Web Key Set."""
        return self.url + _JWKS_PATH

    @property
    def certificates_url(self) -> str:
        """Where the keys are published as PEM certificates by key id."""
        return self.url + _CERTIFICATES_PATH

    def environment(self) -> dict[str, str]:
        """Return the variables by which an application finds this server."""
        return {"SAFEDEFER_LOCAL_ISSUER": self.url}

    def start(self) -> None:
        """Listen, and make the first key.

        Raises:
            PortUnavailableError: The port is taken.
        """
        try:
            self._server = _KeyServer(self._host, self._port)
        except OSError as error:
            raise PortUnavailableError(_NAME, self._host, self._port) from error
        self._port = self._server.server_port
        # Only now: the issuer's name contains its port.
        self._issuer = self._server.issuer = TokenIssuer(url=self.url, clock=self._clock)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_STOP_LATENCY_SECONDS,), name="token-issuer", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and wait for the threads, for a few seconds at most."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(_STOP_SECONDS)
        self._server = None

    def mint(self, email: str, audience: str, **claims: object) -> str:
        """Return a signed token, as `TokenIssuer.mint` describes."""
        return self._started().mint(email, audience, **claims)

    def rotate(self) -> str:
        """Sign with a new key from now on. Earlier keys stay published. Returns the new key id."""
        return self._started().rotate()

    def _started(self) -> TokenIssuer:
        if self._issuer is None:
            raise RuntimeError("The token issuer has not been started, so it has no address to name in a token.")
        return self._issuer


class _KeyServer(ThreadingHTTPServer):
    daemon_threads = False  # So that server_close waits for the requests under way.
    request_queue_size = 128
    issuer: TokenIssuer

    def __init__(self, host: str, port: int) -> None:
        self.address_family = address_family(host)
        super().__init__((host, port), BaseHTTPRequestHandler)

    def server_bind(self) -> None:
        # HTTPServer would ask the name service for a name that nobody reads, and that can take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name = str(self.server_address[0])
        self.server_port = self.server_address[1]

    def finish_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        _KeyHandler(self.issuer, request, client_address, self)


class _KeyHandler(BaseHTTPRequestHandler):
    timeout: ClassVar[float | None] = _REQUEST_SECONDS

    def __init__(
        self,
        issuer: TokenIssuer,
        request: socket.socket | tuple[bytes, socket.socket],
        client_address: object,
        server: _KeyServer,
    ) -> None:
        self._issuer = issuer
        super().__init__(request, client_address, server)  # Which answers the request.

    def do_GET(self) -> None:
        issuer = self._issuer
        match self.path.partition("?")[0]:
            case "/":
                self._answer({"status": "ok", "issuer": issuer.url}, max_age=0)
            case str(path) if path == _DISCOVERY_PATH:
                self._answer(_discovery(issuer), max_age=_KEYS_MAX_AGE_SECONDS)
            case str(path) if path == _JWKS_PATH:
                self._answer(issuer.jwks(), max_age=_KEYS_MAX_AGE_SECONDS)
            case str(path) if path == _CERTIFICATES_PATH:
                self._answer(issuer.certificates(), max_age=_KEYS_MAX_AGE_SECONDS)
            case _:
                self.send_error(HTTPStatus.NOT_FOUND)

    def _answer(self, content: object, *, max_age: int) -> None:
        body = json.dumps(content).encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", f"public, max-age={max_age}" if max_age else "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # The base class's name.
        """Say nothing: who reads public keys is of no interest."""


def _discovery(issuer: TokenIssuer) -> dict[str, object]:
    return {
        "issuer": issuer.url,
        "jwks_uri": issuer.url + _JWKS_PATH,
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "claims_supported": ["iss", "aud", "azp", "sub", "email", "email_verified", "iat", "exp"],
    }
