"""Serve a Django project on a port that the system chooses, and say which.

The settings find the handler's URL in SITE_HANDLER_URL.
"""

import os
import sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from django.core.wsgi import get_wsgi_application


class Server(ThreadingMixIn, WSGIServer):
    """A thread for each request."""

    daemon_threads = True


def main() -> None:
    """Bind first, since the settings have to name the port."""
    server = Server(("127.0.0.1", 0), WSGIRequestHandler)
    origin = f"http://127.0.0.1:{server.server_port}"
    os.environ["SITE_HANDLER_URL"] = f"{origin}/_safedefer/"
    server.set_app(get_wsgi_application())
    sys.stdout.write(f"{origin}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
