"""`serve.py [PORT]`: serve the example there, or on a port that the system chooses, and say where.

What `make demo` runs as the site.
"""

import os
import sys
from argparse import ArgumentParser
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server


class Server(ThreadingMixIn, WSGIServer):
    """A thread for each request."""

    daemon_threads = True
    allow_reuse_port = True
    """Whoever started this process may have reserved the port, so that it is the same after a restart."""


class Handler(WSGIRequestHandler):
    """Logs nothing: the audit log says what happened."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # The base class's name.
        """Say nothing."""


def main() -> None:
    """Bind first, since the settings have to name the port; then load Django."""
    parser = ArgumentParser(description="Serve the example on this machine.")
    parser.add_argument("port", type=int, nargs="?", default=0, help="by default one that the system chooses")
    server = make_server("127.0.0.1", parser.parse_args().port, _not_ready, server_class=Server, handler_class=Handler)
    origin = f"http://127.0.0.1:{server.server_port}"
    os.environ["SHOP_HANDLER_URL"] = f"{origin}/_safedefer/"

    # The settings are read when this module is loaded, so that it comes last.
    from shopsite.wsgi import application  # noqa: PLC0415

    if path := os.environ.get("SHOP_CLOCK_FILE"):
        # Needs the settings, too.
        from shopsite.clock import follow_clock  # noqa: PLC0415

        follow_clock(path)
    server.set_app(application)
    sys.stdout.write(f"{origin}\n")
    sys.stdout.flush()
    server.serve_forever()


def _not_ready(environ: object, start_response: object) -> list[bytes]:
    raise RuntimeError("Django is not loaded yet")


if __name__ == "__main__":
    main()
