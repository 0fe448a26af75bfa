"""A small HTTP server of key sets, whose answers a test chooses."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm


@dataclass
class KeyServer:
    """What it answers, and how often it was asked."""

    url: str = ""
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    asked: int = 0

    def publish(self, *keys: dict[str, Any]) -> None:
        """Answer with a key set."""
        self.status, self.body = 200, json.dumps({"keys": list(keys)}).encode()


def jwk_of(private: rsa.RSAPrivateKey, kid: str, **changes: Any) -> dict[str, Any]:
    """The public half as Google publishes it."""
    key = dict(RSAAlgorithm.to_jwk(private.public_key(), as_dict=True))
    key.pop("key_ops", None)
    return {**key, "kid": kid, "alg": "RS256", "use": "sig", **changes}


@contextmanager
def serving_keys() -> Iterator[KeyServer]:
    """A running key server."""
    keys = KeyServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.asked += 1
            self.send_response(keys.status)
            for name, value in keys.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(keys.body)))
            self.end_headers()
            self.wfile.write(keys.body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # The base class's name.
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    keys.url = f"http://127.0.0.1:{server.server_port}/certs"
    try:
        yield keys
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
