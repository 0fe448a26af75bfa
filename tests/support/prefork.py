"""A worker that can be killed: one process sets Django up and holds the port, its forks serve, one after the other.

Writes its origin, then reads jobs from standard input, one line of JSON each. While a job lasts, a fork that is killed
is followed by the next one at once; a further line ends the job, which is answered with the number of kills. So a death
costs as little as a fork, and a request that comes in between waits for whoever is born next.
"""

import json
import os
import signal
import sys
from wsgiref.simple_server import WSGIRequestHandler
from wsgiref.types import WSGIApplication

from django.core.wsgi import get_wsgi_application

from tests.support.serve import Server


def main() -> None:
    """Bind first, since the settings have to name the port."""
    server = Server(("127.0.0.1", 0), WSGIRequestHandler)
    origin = f"http://127.0.0.1:{server.server_port}"
    os.environ["WORKER_SAFEDEFER"] = json.dumps({"HANDLER_URL": f"{origin}/_safedefer/"})
    application = get_wsgi_application()
    sys.stdout.write(f"{origin}\n")
    sys.stdout.flush()
    while line := sys.stdin.readline():
        job = json.loads(line)
        kills = 0
        while live(server, application, origin, job, kills):
            kills += 1
        sys.stdout.write(f"{kills}\n")
        sys.stdout.flush()


def live(server: Server, application: WSGIApplication, origin: str, job: dict[str, object], life: int) -> bool:
    """One life of a worker; gives whether it was killed."""
    # Only once Django is set up can its models be imported.
    from tests.support.mortals import work

    if (child := os.fork()) == 0:
        try:
            work(server, application, origin, job, life)
        finally:
            # Without the clean-up of a process that the parent is still to use.
            os._exit(3)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    if status:
        sys.exit(f"a worker ended with {status}")
    return False


if __name__ == "__main__":
    main()
