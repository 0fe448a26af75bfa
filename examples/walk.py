"""The walk of the demo: every row in shards, with a worker that is killed in the middle.

Nothing of the protocol is shortened. A lease outlives its worker by up to two minutes, in which the shard belongs to
nobody else. So that nobody has to sit through that, the clock of the local cloud and of the worker is moved on.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Final

from stage import CLOCK_FILE, Line, Shop, Stage, say, wait_until

ROWS: Final = 20_000
SHARDS: Final = 4
DEADLINE: Final = timedelta(seconds=15)
"""The shortest that Cloud Tasks has. A lease is that and a minute; half a minute later it is another worker's turn."""

_LONGEST_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.1
_TEXT: Final = "thank you"


@dataclass(frozen=True)
class Crash:
    """What the killed worker left behind.

    Attributes:
        signal: That it died of.
        handled: Rows whose letter was written.
        kept: Rows that a checkpoint speaks of.
        held: Shards that it had a lease of.
    """

    signal: int
    handled: int
    kept: int
    held: int

    @property
    def lost(self) -> int:
        """Rows that were handled, and of which only the database of letters knows."""
        return self.handled - self.kept


def walk_all_rows(shop: Shop, stage: Stage, site: subprocess.Popen[str], port: int) -> Iterator[Line]:
    """A function for every row of a queryset, in shards, and another one at the end, through the death of a worker."""
    from orders.models import Customer, Letter  # noqa: PLC0415  # Django is set up by now.
    from orders.tasks import thank, thanked, visitors  # noqa: PLC0415

    from safedefer import defer_iteration_with_finalize  # noqa: PLC0415

    Customer.objects.bulk_create(Customer(name=f"visitor {number}") for number in range(ROWS))
    say(f"Walking {ROWS:,} rows in {SHARDS} shards; the worker is to die in the middle ...")
    iteration = defer_iteration_with_finalize(
        visitors.bind(), thank, thanked, _TEXT, _shards=SHARDS, _deadline=DEADLINE, _delete_marker=False
    )
    walk = Walk(iteration.id)
    walk.watch(until=walk.is_in_the_middle)
    crash = walk.look_at(stage.kill(site))
    say(
        f"Killed the worker, process {site.pid}, with SIGKILL: {crash.handled:,} rows handled, "
        f"{crash.lost:,} of them since the last checkpoints."
    )
    recorded = len(shop.audit())
    left_alone = partial(shop.count_tasks, "lease_held", behind=recorded)
    new, _ = stage.start_site(port=port)
    say(f"Started it again, as process {new.pid}. It may not touch the shards while the dead one could be alive ...")
    waiting = wait_until("shards left alone", lambda: min(crash.held, left_alone()), crash.held)
    moved = move_clock()
    say(f"Moved the clock of the local cloud and the worker on by {moved} s: nobody has to wait for the leases to end.")
    walk.watch(until=lambda: False, moved=moved)
    finished = Letter.objects.filter(text=f"All: {_TEXT}")
    wait_until("finalize", finished.count, 1)

    yield Line("worker killed in the middle, by signal", "9", str(crash.signal))
    yield Line("shards that its successor left alone at first", str(crash.held), str(waiting))
    yield Line("rows handled at least once", f"{ROWS:,}", f"{walk.count_rows():,}")
    yield Line("rows handled again: those since the checkpoints", f"{crash.lost:,}", f"{walk.count_rows(again=True):,}")
    yield Line("letters, of rows and repeats together", f"{ROWS + crash.lost:,}", f"{walk.count_letters():,}")
    yield Line("finalized", "1", str(finished.count()))
    yield Line("finalize, by the audit log", "1", str(shop.count_executed("orders.thanked")))


def move_clock() -> int:
    """Move the clock to where a lease that was just taken is over for everybody; by how many seconds."""
    from safedefer.core.limits import CLOCK_SKEW, LEASE_RESERVE  # noqa: PLC0415  # Late, like all of safedefer.

    seconds = int((DEADLINE + LEASE_RESERVE + CLOCK_SKEW + CLOCK_SKEW).total_seconds()) + 1
    written = CLOCK_FILE.with_suffix(".new")
    written.write_text(str(seconds))
    written.replace(CLOCK_FILE)
    return seconds


class Walk:
    """One iteration, looked at from outside."""

    def __init__(self, iteration_id: str) -> None:
        from safedefer.django.progress_display import ProgressDisplay  # noqa: PLC0415  # Django is set up by now.
        from safedefer.flow.iterations import Iteration  # noqa: PLC0415
        from safedefer.flow.runtime import current_runtime  # noqa: PLC0415

        self._run_id = Iteration(iteration_id).run_id
        self._runtime = current_runtime()
        self._display = ProgressDisplay(sys.stdout)

    def watch(self, *, until: Callable[[], bool], moved: int = 0) -> None:
        """Show how far it is until something is so, or it has ended.

        Args:
            moved: Seconds that its clock was moved on by, which its workers did not work.
        """
        from safedefer.core.iteration.state import ENDED  # noqa: PLC0415
        from safedefer.django.progress_display import read_frame  # noqa: PLC0415
        from safedefer.flow.iteration_walk import read_run  # noqa: PLC0415

        give_up = time.monotonic() + _LONGEST_SECONDS
        while time.monotonic() < give_up:
            run = read_run(self._runtime, self._run_id)
            if run is not None and run.state in ENDED:
                run = replace(run, idle_seconds=run.idle_seconds + moved)
            if run is not None:
                self._display.show(read_frame(self._runtime, run))
                if run.state in ENDED or until():
                    break
            time.sleep(_LOOK_SECONDS)
        self._display.leave()

    def is_in_the_middle(self) -> bool:
        """Whether there is something to lose: every shard is being worked on, and was since its last checkpoint."""
        handled = self.count_letters()
        if handled < 0.4 * ROWS or len(self._held()) < SHARDS:
            return False
        return handled - self._kept() >= SHARDS * 50 or handled >= 0.7 * ROWS

    def look_at(self, signal: int) -> Crash:
        """What there is now that nobody works on it."""
        return Crash(signal=signal, handled=self.count_letters(), kept=self._kept(), held=len(self._held()))

    def count_letters(self) -> int:
        """How often a row was handled."""
        from orders.models import Letter  # noqa: PLC0415

        return Letter.objects.filter(text=_TEXT).count()

    def count_rows(self, *, again: bool = False) -> int:
        """How many rows were handled, or were handled again."""
        from django.db.models import Count  # noqa: PLC0415
        from orders.models import Customer  # noqa: PLC0415

        rows = Customer.objects.filter(name__startswith="visitor ", letter__text=_TEXT)
        return rows.alias(letters=Count("letter")).filter(letters__gt=1 if again else 0).count()

    def _kept(self) -> int:
        from safedefer.flow.iteration_walk import read_run  # noqa: PLC0415
        from safedefer.flow.iterations import progress_of  # noqa: PLC0415

        run = read_run(self._runtime, self._run_id)
        return 0 if run is None else progress_of(self._runtime, run).rows

    def _held(self) -> list[int]:
        from safedefer.core.iteration.rows import open_shard_keys, parse_shard  # noqa: PLC0415
        from safedefer.core.iteration.state import ShardState  # noqa: PLC0415
        from safedefer.flow.iteration_walk import read_run  # noqa: PLC0415

        run = read_run(self._runtime, self._run_id)
        keys = [] if run is None else open_shard_keys(run)
        shards = map(parse_shard, self._runtime.records.get(keys).values())
        return [shard.index for shard in shards if shard.state is ShardState.RUNNING]
