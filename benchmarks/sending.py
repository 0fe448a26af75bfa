"""One `defer` against one create_task of the plain client with a task of the same size, on the local cloud.

The local cloud runs in a process of its own with its queue paused, so that nothing is dispatched meanwhile.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.site.settings"

from benchmarks.timing import measure_pairs, print_ratios

PAIRS: Final = 1_500
QUEUE: Final = "projects/local/locations/local1/queues/default"


def main() -> None:
    """Measure a small and a larger call."""
    with local_cloud() as environment:
        os.environ.update(environment)
        import django  # The settings need the addresses above.

        django.setup()
        compare("Defer three scalars", "a short text")
        compare("Defer a text of 10 kB", "x" * 10_000)


def compare(title: str, text: str) -> None:
    """Take turns between `defer` and the plain client."""
    import grpc  # After the settings.
    from google.cloud import tasks_v2
    from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

    from safedefer import defer
    from safedefer.flow.defer import seal_call
    from safedefer.flow.runtime import current_runtime
    from tests.site.shop.tasks import add

    function = add.registered
    sealed: Any = seal_call(current_runtime(), function, function.options, (1, 2), {"label": text})
    request: Any = sealed.task.task.http_request
    with grpc.insecure_channel(os.environ["CLOUD_TASKS_EMULATOR_HOST"]) as channel:
        client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
        client.pause_queue(name=QUEUE)

        def raw() -> object:
            name = f"{QUEUE}/tasks/{os.urandom(16).hex()}"
            task = tasks_v2.Task(
                name=name,
                http_request=tasks_v2.HttpRequest(
                    url=request.url,
                    headers=dict(request.headers),
                    body=request.body,
                    oidc_token=tasks_v2.OidcToken(
                        service_account_email=request.oidc_token.service_account_email,
                        audience=request.oidc_token.audience,
                    ),
                ),
            )
            return client.create_task(parent=QUEUE, task=task, timeout=10)

        def ours() -> object:
            return defer(add, 1, 2, label=text)

        raw()
        ours()
        floor, seconds = measure_pairs(raw, ours, pairs=PAIRS)
        print_ratios(title, {"floor: create_task of the plain client": floor, "safedefer: defer": seconds}, FLOOR)
        client.purge_queue(name=QUEUE)


FLOOR: Final = "floor: create_task of the plain client"


@contextmanager
def local_cloud() -> Iterator[dict[str, str]]:
    """The local cloud in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "safedefer.emulator",
        "--tasks-port",
        "0",
        "--issuer-port",
        "0",
        "--datastore-port",
        "0",
    ]
    process = subprocess.Popen([*command, "--log-level", "ERROR"], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    environment = {}
    while (line := process.stdout.readline()).startswith("export "):
        name, _, value = line.removeprefix("export ").strip().partition("=")
        environment[name] = value
    try:
        yield environment
    finally:
        process.terminate()
        process.wait(10)


if __name__ == "__main__":
    main()
