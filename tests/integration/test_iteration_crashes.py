"""Iterations whose workers are killed, on a cloud that misbehaves: every row, none lost, and one finalize."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from safedefer import Iteration, defer_iteration_with_finalize
from safedefer.core.iteration.state import RunState
from safedefer.core.ledger import LedgerState, parse_entry
from safedefer.core.limits import FIRST_BATCH_ROWS
from safedefer.core.records import RecordKind
from safedefer.emulator import LocalCloud
from safedefer.flow.deadletters import list_letters
from safedefer.flow.runtime import install, install_problem
from safedefer.key_ranges import sequential_int_key_ranges
from tests.site.shop import tasks
from tests.site.shop.models import Customer
from tests.support.journal import check_journal
from tests.support.lives import Lives, Prefork, open_cloud, open_prefork
from tests.support.mortals import ANY, Death, FileClock, site_runtime

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other", "postgres"])
STORES = [("default", "orm"), ("postgres", "orm"), ("default", "datastore")]
ROWS = 60
SEEDS = range(1, 1 + int(os.environ.get("SAFEDEFER_CHAOS_SEEDS", "1")))


@pytest.fixture(scope="module")
def preforks(
    django_db_setup: None, local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Prefork]]:
    """The parents of this module's workers, each started when it is first asked for."""
    folder = tmp_path_factory.mktemp("preforks")
    with ExitStack() as stack:
        yield cache(lambda alias: stack.enter_context(open_prefork(alias, folder, local_cloud.environment())))


@pytest.fixture
def seed() -> int:
    return 0


@pytest.fixture
def at_once() -> int:
    """One dispatch after the other, so that every death comes at the same place in every run."""
    return 1


@pytest.fixture(params=STORES, ids="-".join)
def lives(
    request: pytest.FixtureRequest,
    preforks: Callable[[str], Prefork],
    transactional_db: None,
    tmp_path: Path,
    *,
    seed: int,
    at_once: int,
) -> Iterator[Lives]:
    """A site whose worker may be killed."""
    alias, store = request.param
    prefork = preforks(alias)
    with open_cloud(tmp_path, seed=seed, at_once=at_once) as (cloud, clock, clock_file):
        runtime = site_runtime(prefork.origin, cloud.environment(), store, alias, FileClock(clock_file))
        install(lambda: runtime)
        lives = Lives(prefork, cloud, clock, clock_file, store, runtime)
        yield lives
        if lives.running:
            lives.end()
        install_problem("this test has no site")


def populate(lives: Lives, count: int = ROWS) -> list[str]:
    names = [f"c{number:04d}" for number in range(count)]
    Customer.objects.using(lives.prefork.alias).bulk_create(Customer(name=name) for name in names)
    return names


def begin(callback: Any = tasks.pass_row, **options: Any) -> Iteration:
    """Rows take 0.4 seconds each, so that a slice does not get through its shard."""
    given = {"_shards": 2, "_deadline": 15, "_delete_marker": False, **options}
    return defer_iteration_with_finalize(Customer.objects.all(), callback, tasks.pass_end, **given)


def assert_ended(lives: Lives, iteration: Iteration, names: list[str]) -> None:
    """The iteration is over, every row is counted once, and no task is left half done or given up."""
    progress = iteration.progress()
    assert progress is not None
    assert (progress.state, progress.rows, progress.skipped) == (RunState.DONE, len(names), 0)
    records = lives.runtime.records
    entries = [parse_entry(record.data) for record in records.scan(RecordKind.LEDGER, limit=1_000)]
    assert {entry.state for entry in entries} == {LedgerState.DONE}
    assert list(list_letters(records)) == []


MOMENTS = {
    "before the first row": [Death("row")],
    "in the middle of a page": [Death("row", 8)],
    "behind a row": [Death("visited", 9)],
    "between the last row and the finish": [Death("finish")],
    "between the finish and the finalize task": [Death("finalizing committed")],
    "between a slice and the next one": [Death("hand-over committed")],
    "between the plan and its slices": [Death("plan committed")],
    "in finalize": [Death("finalize")],
    "between finalize and its end": [Death("finalized"), Death("done committed")],
}


@pytest.mark.parametrize("deaths", MOMENTS.values(), ids=MOMENTS)
def test_every_row_is_visited_and_finalize_ends_once_wherever_the_worker_is_killed(
    lives: Lives, deaths: list[Death]
) -> None:
    names = populate(lives)
    lives.begin(deaths)
    iteration = begin()
    lives.run_dry()
    assert lives.end() == len(deaths)
    traces = lives.traces()
    check_journal(traces, names)
    assert_ended(lives, iteration, names)
    assert traces.count("finalized") == 1 + sum(death.moment == "finalized" for death in deaths)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_row_is_visited_however_often_the_worker_is_killed(lives: Lives, seed: int) -> None:
    names = populate(lives)
    source = random.Random(seed)
    lives.begin([Death(ANY, source.randrange(1, 50)) for _ in range(20)])
    iteration = begin()
    lives.run_dry()
    assert lives.end() > 5
    check_journal(lives.traces(), names)
    assert_ended(lives, iteration, names)


@pytest.mark.parametrize("at_once", [4])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_row_is_visited_whatever_befalls_tasks_and_workers_that_are_killed(lives: Lives, seed: int) -> None:
    names = populate(lives, 300)
    source = random.Random(seed)
    iteration = begin(_shards=4)
    faults = lives.cloud.tasks.faults
    faults.load("duplicate=0.3,drop-response=0.3,reorder=0.3,delay=0.3:30,refuse-create=0.2,ambiguous-create=0.2")
    if lives.store == "datastore":
        lives.cloud.datastore.faults.load("abort=0.2,ambiguous-commit=0.1")
    lives.begin([Death(ANY, source.randrange(100, 500)) for _ in range(4)])
    lives.run_dry()
    lives.cloud.datastore.faults.reset()
    assert lives.end() > 0
    assert sum(faults.happened.values()) > 20
    check_journal(lives.traces(), names)
    assert_ended(lives, iteration, names)


MOMENTS_OF_CALLS = {
    "between two rows": [Death("visited", 6)],
    "behind the last row of the first call": [Death("visited", FIRST_BATCH_ROWS)],
    "before its checkpoint": [Death("checkpoint")],
    "behind its checkpoint": [Death("checkpoint committed"), Death("row", 8)],
    "again and again, so that rows go one by one": [Death("row", 4)] * 4,
}


@pytest.mark.parametrize("deaths", MOMENTS_OF_CALLS.values(), ids=MOMENTS_OF_CALLS)
def test_rows_of_one_call_are_all_visited_wherever_the_worker_is_killed(lives: Lives, deaths: list[Death]) -> None:
    names = populate(lives)
    lives.begin(deaths)
    iteration = begin(tasks.pass_rows)
    lives.run_dry()
    assert lives.end() == len(deaths)
    check_journal(lives.traces(), names, unsaved=FIRST_BATCH_ROWS)
    assert_ended(lives, iteration, names)


@pytest.mark.parametrize("lives", STORES[:2], indirect=True, ids="-".join)
@pytest.mark.parametrize("deaths", MOMENTS_OF_CALLS.values(), ids=MOMENTS_OF_CALLS)
def test_writes_of_one_call_that_are_committed_with_its_checkpoint_are_not_repeated(
    lives: Lives, deaths: list[Death]
) -> None:
    names = populate(lives)
    lives.begin(deaths)
    iteration = begin(tasks.pass_rows, _atomic="batch")
    lives.run_dry()
    assert lives.end() == len(deaths)
    assert check_journal(lives.traces(), names) == 0
    assert_ended(lives, iteration, names)


@pytest.mark.parametrize("lives", STORES[:2], indirect=True, ids="-".join)
@pytest.mark.parametrize("seed", SEEDS)
def test_writes_of_killed_workers_that_are_committed_with_their_checkpoint_are_not_repeated(
    lives: Lives, seed: int
) -> None:
    names = populate(lives)
    source = random.Random(seed)
    deaths = [Death("visited", 3), Death("checkpoint"), Death("checkpoint committed"), Death("finish"), Death("row", 7)]
    lives.begin([*deaths, *(Death(ANY, source.randrange(20, 60)) for _ in range(9))])
    iteration = begin(_atomic="batch")
    lives.run_dry()
    assert lives.end() > len(deaths)
    assert check_journal(lives.traces(), names) == 0
    assert_ended(lives, iteration, names)


def test_plan_that_comes_again_behind_the_end_begins_nothing(lives: Lives) -> None:
    names = populate(lives)
    # Behind the creation of its slices, before it is recorded as done.
    lives.begin([Death("ledger", 2)])
    iteration = begin(_delete_marker=True)
    lives.run_dry()
    assert lives.end() == 1
    check_journal(lives.traces(), names)
    assert iteration.progress() is None


@pytest.mark.parametrize("lives", [("default", "orm")], indirect=True)
def test_removal_that_was_cut_short_leaves_no_task_without_an_end(lives: Lives) -> None:
    names = populate(lives, 120)
    # The first slice comes again when its rows and the plan are removed, and the rest is not.
    lives.begin([Death("ledger", 4), Death("removal committed")])
    iteration = begin(_shards=99, _delete_marker=True, key_ranges_getter=sequential_int_key_ranges)
    lives.run_dry()
    assert lives.end() == 2
    check_journal(lives.traces(), names)
    assert iteration.progress() is None
