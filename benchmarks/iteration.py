"""An iteration over rows of SQLite with a callback that does nothing, against a loop over `queryset.iterator()`.

All tasks of the iteration are handled by the real handler, with its rows in the same database; only the queue is in
memory. `python benchmarks/iteration.py 100000` walks fewer rows.
"""

import logging
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.site.settings"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import django

from safedefer import defer_iteration_with_finalize, deferrable
from safedefer.testing import ManualClock, TaskFailedBehaviour
from safedefer.testing.processing import process_tasks
from safedefer.testing.setup import Ports, make_ports

ROWS: Final = 1_000_000
ROUNDS: Final = 5
MEMORY: Final = "memory"
INSERT: Final = """
    WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < %s)
    INSERT INTO {table} (id, name) SELECT n, 'customer ' || n FROM numbers
"""


@deferrable(name="bench.nothing", ledger=False)
def nothing(row: Any) -> None:
    """Do nothing."""


@deferrable(name="bench.end", ledger=False)
def end() -> None:
    """Do nothing."""


django.setup()

from django.core.management import call_command
from django.db import connection

from safedefer.django.calls import DjangoClock
from safedefer.django.records import OrmRecords
from safedefer.flow.ledger import Ledger
from safedefer.flow.runtime import installed
from tests.site.shop.models import Customer


def make_site(rows: int) -> Ports:
    """The tables with their rows, and a runtime with the system's clock that keeps its records in that database."""
    call_command("migrate", run_syncdb=True, verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute(INSERT.format(table="shop_customer"), [rows])
    logging.getLogger("safedefer").setLevel(logging.CRITICAL)
    ports, clock, records = make_ports(ManualClock()), DjangoClock(), OrmRecords()
    return replace(ports, runtime=replace(ports.runtime, clock=clock, records=records, ledger=Ledger(records, clock)))


def loop() -> None:
    """The floor."""
    call = nothing.__wrapped__
    for row in Customer.objects.all().iterator():
        call(row)


def iterate(ports: Ports) -> None:
    """The whole of an iteration: its plan, its slices, its end."""
    with installed(ports.runtime):
        iteration = defer_iteration_with_finalize(Customer.objects.all(), nothing, end, _delete_marker=False)
        process_tasks(ports, None, TaskFailedBehaviour.RAISE_ERROR, only_due=False, max_dispatches=1_000)
        progress = iteration.progress()
    if progress is None or progress.rows != Customer.objects.count():
        raise RuntimeError("not every row was walked")


def measure(candidates: dict[str, Callable[[], None]], rows: int) -> dict[str, float]:
    """Seconds a row of each, the best of several rounds in which they take turns."""
    best = dict.fromkeys(candidates, float("inf"))
    for _ in range(ROUNDS):
        for name, call in candidates.items():
            started = time.perf_counter()
            call()
            best[name] = min(best[name], (time.perf_counter() - started) / rows)
    return best


def peak_bytes(rows: int) -> int:
    """The most memory of a fresh process that makes so many rows and walks them."""
    done = subprocess.run([sys.executable, __file__, MEMORY, str(rows)], check=True, capture_output=True)
    return int(done.stdout)


def main() -> None:
    """Measure time against the loop, and memory against a tenth of the rows."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    few, many = peak_bytes(rows // 10), peak_bytes(rows)
    ports = make_site(rows)
    times = measure({"loop": loop, "iteration": lambda: iterate(ports)}, rows)
    print(f"\nWalk {rows:,} rows, a callback that does nothing")
    for name, seconds in times.items():
        print(f"  {name:<44} {seconds * 1e6:9.2f} us a row   {seconds / times['loop']:5.2f} x")
    print(f"  {'peak memory':<44} {many / 2**20:9.1f} MiB        {many / few:5.2f} x that of {rows // 10:,} rows")


if __name__ == "__main__":
    if sys.argv[1:2] == [MEMORY]:
        iterate(make_site(int(sys.argv[2])))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    else:
        main()
