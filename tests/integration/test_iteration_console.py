"""`manage.py safedefer_iterations` where records are spoiled, shards are many, or code and keys are gone."""

import io
import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command

from safedefer import Iteration
from safedefer.core.iteration.rows import parse_run, parse_shard, run_key, shard_key
from safedefer.core.iteration.state import RunState, Shard
from safedefer.core.keys import KeyRing
from safedefer.core.ports import RecordStore
from safedefer.core.records import Change, Delete, Put, Record, RecordKey, RecordKind
from safedefer.core.registry import Registry
from safedefer.errors import IterationError, RecordConflictError, StoreUnavailableError
from safedefer.flow.ledger import Ledger
from tests.site.shop.models import Customer
from tests.support.builders import RING, ManualClock
from tests.support.site import Site
from tests.support.visits import begin, delete, finalized, populate, run_by_hand, visits

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other", "postgres"])
LONG = 2_800
CANARY = b"\x1b[31mcanary"


class TroubledRecords:
    """The site's records: what is read is counted, and commits fail where a test says so."""

    def __init__(self, real: RecordStore, fails: Callable[[RecordKey], Exception | None] = lambda _: None) -> None:
        self._real = real
        self._fails = fails
        self.reads: list[Sequence[RecordKey]] = []
        self.refused = 0

    def get(self, keys: Sequence[RecordKey]) -> Mapping[RecordKey, Record]:
        self.reads.append(keys)
        return self._real.get(keys)

    def scan(self, kind: RecordKind, *, after: str = "", limit: int) -> Sequence[Record]:
        return self._real.scan(kind, after=after, limit=limit)

    def commit(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if (error := self._fails(change.key)) is not None:
                self.refused += 1
                raise error
        self._real.commit(changes)

    def plans_read(self) -> int:
        return sum(key.kind is RecordKind.PLAN for keys in self.reads for key in keys)


def command(*args: str) -> str:
    out = io.StringIO()
    call_command("safedefer_iterations", *args, stdout=out)
    return out.getvalue()


def begin_and_lose(site: Site, shards: int = 1) -> Iteration:
    """An iteration whose plan was carried out, and whose queue is empty."""
    site.pause()
    iteration = begin(Customer.objects.all(), _shards=shards)
    (plan,) = site.tasks()
    assert site.post(plan.http_request.body).status == 204
    for task in site.tasks():
        delete(site, task.name)
    return iteration


def let_time_pass(site: Site) -> None:
    site.use(clock=ManualClock(site.runtime.clock.time() + LONG))


def insert(site: Site, key: RecordKey) -> None:
    site.runtime.records.commit([Put(key=key, data=CANARY, expires_at=2_000_000_000, expected=None)])


def spoil(site: Site, key: RecordKey) -> None:
    record = site.runtime.records.get([key])[key]
    site.runtime.records.commit([Put(key=key, data=CANARY, expires_at=2_000_000_000, expected=record.version)])


def shards_of(site: Site, iteration: Iteration) -> list[Shard]:
    records = site.runtime.records.scan(RecordKind.SHARD, after=iteration.id, limit=1_000)
    return [parse_shard(record) for record in records]


def state_of(site: Site, iteration: Iteration) -> RunState:
    key = run_key(iteration.run_id)
    return parse_run(site.runtime.records.get([key])[key]).state


RUBBISH = {
    "nothing": ("00" * 16, "00" * 16),
    "a short id": ("ab", "(no id: 6162)"),
    "an id in capitals": ("AB" * 16, f"(no id: {'4142' * 16})"),
    "an id for a terminal": ("\x1b[31mred", "(no id: 1b5b33316d726564)"),
    "a long id": ("x" * 128, f"(no id: {'78' * 32}...)"),
}


@pytest.mark.parametrize(("record_id", "shown"), RUBBISH.values(), ids=RUBBISH)
def test_record_that_is_no_iteration_stops_neither_list_nor_sweep(
    site: Site, caplog: pytest.LogCaptureFixture, record_id: str, shown: str
) -> None:
    names = populate(4)
    iteration = begin_and_lose(site)
    insert(site, RecordKey(RecordKind.RUN, record_id))
    listed = command("list")
    assert f"{shown}  the row of an iteration cannot be read\n" in listed
    assert f"{iteration.id}  running" in listed
    assert "2 iterations" in listed
    let_time_pass(site)
    with pytest.raises(CommandError, match="1 iterations could not be looked after"):
        command("sweep")
    assert f"iteration {shown} could not be swept: the row of an iteration cannot be read" in caplog.text
    assert "canary" not in listed + caplog.text
    assert "\x1b" not in listed + caplog.text
    run_by_hand(site)
    assert set(visits(site)) == set(names)


def test_a_run_under_the_id_of_another_in_capitals_is_none(site: Site) -> None:
    populate(4)
    iteration = begin_and_lose(site)
    key = run_key(iteration.run_id)
    record = site.runtime.records.get([key])[key]
    other = RecordKey(RecordKind.RUN, iteration.id.upper())
    site.runtime.records.commit([Put(key=other, data=record.data, expires_at=2_000_000_000, expected=None)])
    assert command("list").count("cannot be read") == 1


def test_shard_that_cannot_be_read_is_told_and_holds_up_no_other(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    populate(30)
    broken, whole = begin_and_lose(site, 3), begin_and_lose(site)
    spoil(site, shard_key(broken.run_id, 0))
    listed = command("list")
    assert f"{broken.id}  running; the row of a shard cannot be read\n" in listed
    assert f"{whole.id}  running" in listed
    let_time_pass(site)
    out = io.StringIO()
    with pytest.raises(CommandError):
        call_command("safedefer_iterations", "sweep", stdout=out)
    assert out.getvalue() == "3 tasks created anew, 1 iterations failed\n"
    assert f"iteration {broken.id} could not be swept: the row of a shard cannot be read" in caplog.text
    assert "canary" not in listed + caplog.text


def test_sweep_reads_all_shards_of_an_iteration_at_once(site: Site) -> None:
    populate(60)
    begin_and_lose(site, 50)
    records = TroubledRecords(site.runtime.records)
    site.use(records=records)
    assert "0 tasks" in command("sweep")
    (read,) = records.reads
    assert len(read) > 40


def test_iteration_that_stands_still_on_purpose_has_no_shard_read(site: Site) -> None:
    populate(60)
    begin_and_lose(site, 50).pause()
    let_time_pass(site)
    records = TroubledRecords(site.runtime.records)
    site.use(records=records)
    assert "0 tasks" in command("sweep")
    assert records.reads == []


@pytest.mark.parametrize("action", ["sweep", "resume"])
def test_plan_is_verified_once_for_all_shards(site: Site, action: str) -> None:
    populate(30)
    iteration = begin_and_lose(site, 10)
    let_time_pass(site)
    records = TroubledRecords(site.runtime.records)
    site.use(records=records)
    command(action, *([iteration.id] if action == "resume" else []))
    assert len(site.tasks()) == len(shards_of(site, iteration)) > 5
    assert records.plans_read() == 1
    assert len(records.reads) <= 3


@pytest.mark.parametrize("error", [RecordConflictError, StoreUnavailableError])
def test_resume_wakes_every_shard_that_can_be_woken_and_sweep_the_rest(site: Site, error: type[Exception]) -> None:
    names = populate(30)
    iteration = begin_and_lose(site, 5)
    iteration.pause()
    real = site.runtime.records
    first = shard_key(iteration.run_id, 0)
    site.use(records=TroubledRecords(real, lambda key: error("no") if key == first else None))
    with pytest.raises(StoreUnavailableError):
        iteration.resume()
    assert [shard.wake for shard in shards_of(site, iteration)] == [0, 1, 1, 1, 1]
    assert len(site.tasks()) == 4
    site.use(records=real)
    let_time_pass(site)
    assert "5 tasks" in command("sweep")
    run_by_hand(site)
    assert set(visits(site)) == set(names)
    assert finalized(site) == 1


def test_resume_ends_early_where_the_store_is_gone(site: Site) -> None:
    populate(60)
    iteration = begin_and_lose(site, 50)
    outage = StoreUnavailableError("gone")
    records = TroubledRecords(site.runtime.records, lambda key: outage if key.kind is RecordKind.SHARD else None)
    site.use(records=records)
    with pytest.raises(StoreUnavailableError, match="gone"):
        iteration.resume()
    assert records.refused == 5


def test_shard_that_another_has_changed_is_read_again(site: Site) -> None:
    populate(10)
    iteration = begin_and_lose(site, 2)
    real = site.runtime.records
    key = shard_key(iteration.run_id, 1)
    told: list[RecordKey] = []

    def fails(changed: RecordKey) -> Exception | None:
        if changed != key or told:
            return None
        told.append(changed)
        record = real.get([key])[key]
        real.commit([Put(key=key, data=record.data, expires_at=record.expires_at, expected=record.version)])
        return RecordConflictError("another was first")

    records = TroubledRecords(real, fails)
    site.use(records=records)
    iteration.resume()
    assert [shard.wake for shard in shards_of(site, iteration)] == [1, 1]
    assert [key] in records.reads


def forget_functions(site: Site) -> None:
    empty = Registry()
    empty.seal(site.runtime.resolver)
    site.use(registry=empty)


def forget_keys(site: Site) -> None:
    site.use(ring=KeyRing([RING.primary]))


def lose_plans(site: Site) -> None:
    records = site.runtime.records
    for plan in records.scan(RecordKind.PLAN, limit=9):
        records.commit([Delete(key=plan.key, expected=plan.version)])


LOSSES: dict[str, tuple[Callable[[Site], None], str]] = {
    "function": (forget_functions, r"function is not registered \(function_unknown: shop\.visit\)"),
    "key": (forget_keys, r"cannot be verified \(key_unknown: [0-9a-f]+\)"),
    "plan": (lose_plans, "the plan of an iteration is not in the store"),
}


@pytest.mark.parametrize(("lose", "message"), LOSSES.values(), ids=LOSSES)
def test_what_cannot_be_carried_out_any_more_is_seen_and_ended_and_not_resumed(
    site: Site, caplog: pytest.LogCaptureFixture, lose: Callable[[Site], None], message: str
) -> None:
    populate(10)
    iteration, other = begin_and_lose(site, 2), begin_and_lose(site)
    other.pause()
    before = shards_of(site, iteration)
    lose(site)
    with pytest.raises(CommandError, match=message):
        command("resume", other.id)
    assert state_of(site, other) is RunState.PAUSED
    let_time_pass(site)
    for _ in range(2):
        # Nothing was written, so that the next sweep tells of it as well.
        with pytest.raises(CommandError, match="1 iterations could not"):
            command("sweep")
    assert shards_of(site, iteration) == before
    (told, _) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert re.search(f"iteration {iteration.id} could not be swept: .*{message}", told.getMessage())
    assert f"{iteration.id}  running" in command("list")
    assert "running, 0 of 2 shards done" in command("show", iteration.id)
    assert "pause was asked for" in command("pause", iteration.id)
    assert "cancel was asked for" in command("cancel", iteration.id)
    assert state_of(site, iteration) is RunState.CANCELLED
    assert site.tasks() == []


def test_plan_whose_answer_was_lost_is_not_driven_again_behind_its_iteration(site: Site) -> None:
    names = populate(4)
    site.pause()
    iteration = begin(Customer.objects.all(), _shards=1)
    (plan,) = site.tasks()
    records, clock = site.runtime.records, site.runtime.clock
    written = Counter[RecordKey]()

    def answer_once(key: RecordKey) -> Exception | None:
        written[key] += 1
        lost = key == RecordKey(RecordKind.LEDGER, iteration.id) and written[key] > 1
        return StoreUnavailableError("no answer") if lost else None

    site.use(ledger=Ledger(TroubledRecords(records, answer_once), clock))
    assert site.post(plan.http_request.body).status == 503
    delete(site, plan.name)
    site.use(ledger=Ledger(records, clock))
    run_by_hand(site)
    late = ManualClock(clock.time() + timedelta(days=31, minutes=10).total_seconds())
    site.use(clock=late, ledger=Ledger(records, late))
    assert site.post(plan.http_request.body).status == 204
    with pytest.raises(CommandError, match="1 of 1 could not be done"):
        call_command("safedefer_deadletters", "redrive", "--all", stderr=io.StringIO())
    run_by_hand(site)
    assert visits(site) == Counter(names)
    assert finalized(site) == 1


def test_each_of_several_iterations_is_changed_whatever_becomes_of_the_others(site: Site) -> None:
    populate(4)
    iteration = begin_and_lose(site)
    missing = "00" * 16
    with pytest.raises(CommandError, match=f"{missing}: there is no such iteration"):
        command("cancel", missing, "rubbish", iteration.id)
    assert state_of(site, iteration) is RunState.CANCELLED
    with pytest.raises(IterationError):
        iteration.resume()
