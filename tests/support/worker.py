"""A worker process: dispatches envelopes to its own handler from several threads.

Reads one line of JSON from standard input (`envelopes` in base64, `token`, `order` as indexes, `threads`) and writes
one that says how often each status was answered.
"""

import base64
import json
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import django
from django.core.handlers.wsgi import WSGIHandler
from django.db import connections

from safedefer.core.envelope import CONTENT_TYPE


def main() -> None:
    """Dispatch everything once, in the order given."""
    django.setup()
    job = json.loads(sys.stdin.readline())
    envelopes = [base64.b64decode(text) for text in job["envelopes"]]
    handler = WSGIHandler()

    def dispatch(index: int) -> str:
        try:
            return answer(handler, envelopes[index], job["token"])
        finally:
            connections.close_all()

    with ThreadPoolExecutor(job["threads"]) as pool:
        statuses = Counter(pool.map(dispatch, job["order"]))
    sys.stdout.write(json.dumps(statuses) + "\n")


def answer(handler: WSGIHandler, body: bytes, token: str) -> str:
    """The status of one dispatch."""
    statuses: list[str] = []
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/_safedefer/",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "CONTENT_TYPE": CONTENT_TYPE,
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_AUTHORIZATION": f"Bearer {token}",
        "HTTP_X_CLOUDTASKS_QUEUENAME": "default",
        "HTTP_X_CLOUDTASKS_TASKNAME": "anything",
        "wsgi.input": BytesIO(body),
        "wsgi.url_scheme": "http",
    }

    def start_response(status: str, headers: object, exc_info: object = None, /) -> Callable[[bytes], object]:
        statuses.append(status)
        return bytes

    response = handler(environ, start_response)
    b"".join(response)
    return statuses[0].partition(" ")[0]


if __name__ == "__main__":
    main()
