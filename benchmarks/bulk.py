"""`defer_many` against a loop of `defer` and a loop of plain creates, on the local cloud in a process of its own.

The queue is paused. What the client does is told apart from what it waits for by its process's own CPU time.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.site.settings"

from benchmarks.sending import local_cloud

CALLS: Final = 10_000
ROUND: Final = 1_000
QUEUE: Final = "projects/local/locations/local1/queues/default"
FLOOR: Final = "a loop of plain creates"


def main() -> None:
    """Take turns, a thousand calls each, until each has made ten thousand."""
    with local_cloud() as environment:
        os.environ.update(environment)
        import django  # The settings need the addresses above.

        django.setup()
        times = compare()
    print(f"\n{CALLS:,} calls of three scalars")
    for name, (wall, cpu) in times.items():
        print(
            f"  {name:<24} {CALLS / wall:8.0f} calls/s   {wall / times[FLOOR][0]:5.2f} x   "
            f"client {CALLS / cpu:8.0f} calls/s   {cpu / times[FLOOR][1]:5.2f} x   waits {1 - cpu / wall:4.0%}"
        )
    loop, many = times["a loop of defer"], times["defer_many"]
    print(f"  defer_many: {loop[0] / many[0]:.1f} times a loop of defer; on the client's side {loop[1] / many[1]:.1f}")


def compare() -> dict[str, tuple[float, float]]:
    """Seconds of the clock and of the CPU for each candidate."""
    from google.cloud import tasks_v2

    from safedefer import defer, defer_many
    from safedefer.core.names import LocationName, ProjectName
    from safedefer.flow.defer import seal_call
    from safedefer.flow.runtime import current_runtime
    from safedefer.gcp.cloud_tasks import TaskTarget, make_client
    from tests.site.shop.tasks import add

    function = add.registered
    sealed: Any = seal_call(current_runtime(), function, function.options, (1, 2), {"label": "a short text"})
    target = TaskTarget(
        project=ProjectName("local"),
        location=LocationName("local1"),
        handler_url="",
        audience="",
        service_account="",
        emulator_host=os.environ["CLOUD_TASKS_EMULATOR_HOST"],
    )
    client = make_client(target)
    client.pause_queue(name=QUEUE)

    def create_each() -> None:
        for _ in range(ROUND):
            task = tasks_v2.Task(
                name=f"{QUEUE}/tasks/{os.urandom(16).hex()}", http_request=sealed.task.task.http_request
            )
            client.create_task(parent=QUEUE, task=task, timeout=10)

    def defer_each() -> None:
        for _ in range(ROUND):
            defer(add, 1, 2, label="a short text")

    def defer_all() -> None:
        defer_many(add.bind(1, 2, label="a short text") for _ in range(ROUND))

    candidates: dict[str, Callable[[], None]] = {
        FLOOR: create_each,
        "a loop of defer": defer_each,
        "defer_many": defer_all,
    }
    times = dict.fromkeys(candidates, (0.0, 0.0))
    for _ in range(CALLS // ROUND):
        for name, run in candidates.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            before = times[name]
            times[name] = (before[0] + time.perf_counter() - wall, before[1] + time.process_time() - cpu)
            client.purge_queue(name=QUEUE)
    return times


if __name__ == "__main__":
    main()
