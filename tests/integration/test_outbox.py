"""Transactions on real databases: what commits is sent, what is rolled back is not, whatever is killed in between."""

import io
import json
import os
import subprocess
import sys
from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync
from django.core.management import CommandError, call_command
from django.db import OperationalError, connections, transaction

from safedefer import adefer, defer
from safedefer.core.limits import OUTBOX_DELAY
from safedefer.core.records import RecordKind
from safedefer.django.models import OutboxCall
from safedefer.django.outbox import DjangoOutbox, NoOutbox
from safedefer.errors import InvalidOptionError, QueueUnavailableError, StoreUnavailableError
from safedefer.flow.outbox import relay_waiting
from tests.integration.test_many_deliveries import worker_environment
from tests.site.shop import tasks
from tests.site.shop.models import Customer
from tests.support.builders import ManualClock
from tests.support.site import Site

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other", "postgres"])
POINTS = int(os.environ.get("SAFEDEFER_CHAOS_POINTS", "40"))
ALL = ["default", "other", "postgres"]


def waiting(using: str = "default") -> int:
    return OutboxCall.objects.using(using).count()


def relay(site: Site) -> int:
    """Run the relay as it runs a minute later."""
    site.use(clock=ManualClock(site.runtime.clock.time() + 2 * OUTBOX_DELAY.total_seconds()))
    return relay_waiting(site.runtime).sent


@pytest.mark.parametrize("using", ALL)
def test_call_of_a_transaction_waits_on_its_own_alias_and_runs_after_commit(site: Site, using: str) -> None:
    with transaction.atomic(using=using):
        handle = defer(tasks.note, "x", _using=using)
        assert handle.created is None
        assert {alias: waiting(alias) for alias in ALL} == {alias: int(alias == using) for alias in ALL}
        site.run_tasks()
        assert site.traces() == []
    assert waiting(using) == 0
    site.run_tasks()
    assert site.traces() == ["note x"]


@pytest.mark.parametrize("using", ALL)
def test_call_of_what_is_rolled_back_leaves_nothing(site: Site, using: str) -> None:
    def interrupted() -> None:
        with transaction.atomic(using=using):
            defer(tasks.note, "never", _using=using)
            raise InterruptedError

    with transaction.atomic(using=using):
        defer(tasks.note, "outer", _using=using)
        with pytest.raises(InterruptedError):
            interrupted()
        with transaction.atomic(using=using):
            defer(tasks.note, "inner", _using=using)
    with pytest.raises(InterruptedError):
        interrupted()
    assert waiting(using) == 0
    site.run_tasks()
    assert sorted(site.traces()) == ["note inner", "note outer"]


def test_transaction_of_another_alias_is_not_waited_for(site: Site) -> None:
    with transaction.atomic():
        assert defer(tasks.note, "x", _using="other").created is True


def test_option_transactional_outside_of_a_transaction_changes_nothing(site: Site) -> None:
    assert defer(tasks.note, "x", _transactional=True).created is True
    with transaction.atomic():
        assert defer(tasks.note, "y", _transactional=False).created is None
    site.run_tasks()
    assert sorted(site.traces()) == ["note x", "note y"]


def test_alias_that_there_is_not_is_an_error_before_anything_is_written(site: Site) -> None:
    with pytest.raises(InvalidOptionError, match="nowhere"):
        defer(tasks.note, "x", _using="nowhere")


def test_coroutine_of_a_transaction_waits_as_well(site: Site) -> None:
    with transaction.atomic():
        handle = async_to_sync(adefer)(tasks.note, "x")
        assert (handle.created, waiting()) == (None, 1)
    site.run_tasks()
    assert site.traces() == ["note x"]


def test_call_that_the_service_did_not_take_is_sent_by_the_relay(site: Site) -> None:
    real = site.runtime.sender

    class Down:
        prepare = staticmethod(real.prepare)

        def send(self, task: object) -> bool:
            raise QueueUnavailableError("down")

    site.use(sender=Down())
    with transaction.atomic():
        defer(tasks.note, "x")
    assert waiting() == 1
    site.use(sender=real)
    assert relay(site) == 1
    assert waiting() == 0
    site.run_tasks()
    assert site.traces() == ["note x"]


def test_large_call_of_a_transaction_keeps_its_stored_body_until_it_runs(site: Site) -> None:
    text = "x" * 1_500_000
    with transaction.atomic():
        defer(tasks.note, text)
    site.run_tasks()
    assert site.traces() == [f"note {text}"]


def test_two_relays_share_the_work(site: Site) -> None:
    now = int(site.runtime.clock.time())
    for number in range(5):
        OutboxCall.objects.create(task_id=str(number), envelope=b"x", created_at=now - 60)
    first, second = DjangoOutbox(), DjangoOutbox()

    def claim(outbox: DjangoOutbox, limit: int = 9, after: int = 0) -> list[str]:
        found = outbox.claim(older_than=now - 30, now=now + after, lease=timedelta(minutes=1), limit=limit)
        return [call.task_id for call in found]

    assert claim(first, 3) + claim(second) == list("01234")
    assert claim(first) == []
    assert claim(first, after=61) == list("01234")


def test_command_sends_what_waits(site: Site) -> None:
    wire = site.seal(tasks.note, "x")
    OutboxCall.objects.create(task_id="0", envelope=wire, created_at=int(site.runtime.clock.time()))
    out = io.StringIO()
    call_command("safedefer_outbox", "run", stdout=out)
    call_command("safedefer_outbox", "run", "--older-than", "0", stdout=out)
    assert out.getvalue().splitlines() == ["0 sent, 0 given up, 0 left", "1 sent, 0 given up, 0 left"]
    site.run_tasks()
    assert site.traces() == ["note x"]


def test_command_fails_while_something_is_left(site: Site) -> None:
    wire = site.seal(tasks.note.options(queue="nowhere"), "x")
    OutboxCall.objects.create(task_id="0", envelope=wire, created_at=int(site.runtime.clock.time()))
    with pytest.raises(CommandError, match="1 calls could not be sent"):
        call_command("safedefer_outbox", "run", "--older-than", "0", stdout=io.StringIO())
    assert waiting() == 1


def test_without_its_table_an_alias_has_no_outbox(site: Site) -> None:
    with connections["default"].schema_editor() as editor:
        editor.delete_model(OutboxCall)
    try:
        site.use(outbox=DjangoOutbox())
        with transaction.atomic():
            defer(tasks.note, "x")
        site.run_tasks()
        assert site.traces() == ["note x"]
    finally:
        with connections["default"].schema_editor() as editor:
            editor.create_model(OutboxCall)


class Silent:
    """A database that does not answer."""

    def __call__(self, *args: object, **kwargs: object) -> list[str]:
        """Fail as it would."""
        raise OperationalError("down")


@pytest.mark.parametrize("using", ["default", "postgres"])
def test_outbox_that_could_not_be_looked_at_is_looked_at_again(
    site: Site, using: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.use(outbox=DjangoOutbox())
    with monkeypatch.context() as changed:
        changed.setattr(connections[using].introspection, "table_names", Silent())
        assert not site.runtime.outbox.is_waiting(older_than=0)
        with pytest.raises(StoreUnavailableError), transaction.atomic(using=using):
            defer(tasks.note, "x", _using=using)
    with transaction.atomic(using=using):
        defer(tasks.note, "x", _using=using)
        assert waiting(using) == 1


def test_outbox_can_be_turned_off(site: Site) -> None:
    site.use(outbox=NoOutbox())
    with transaction.atomic():
        defer(tasks.note, "x")
        assert waiting() == 0
    site.run_tasks()
    assert site.traces() == ["note x"]


def cause_chaos(site: Site, alias: str, *, large: bool) -> None:
    """Have a process killed at random points of an attempt to defer, on a database of this test run."""
    job = {"seed": f"chaos {alias}", "points": POINTS, "large": large}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.support.chaos"],
        env=worker_environment(site, alias, {}),
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
        timeout=60 + POINTS,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["killed"] > POINTS // 2


def test_killed_process_leaves_no_stored_body_for_ever_and_no_task_without_one(site: Site) -> None:
    cause_chaos(site, "default", large=True)
    site.run_tasks()
    assert site.tasks() == []
    traces = site.traces()
    assert 0 < len(traces) < POINTS
    assert len(set(traces)) == len(traces)
    assert all(trace.endswith(" 1200000") for trace in traces)
    records = site.runtime.records
    left = {record.key.id.partition("-")[0] for record in records.scan(RecordKind.OVERFLOW, limit=999)}
    # Of those whose task was never made; none is kept longer than its call could have lived.
    assert left
    site.use(clock=ManualClock(site.runtime.clock.time() + 32 * 86_400))
    call_command("safedefer_overflow", "purge", stdout=io.StringIO())
    assert list(records.scan(RecordKind.OVERFLOW, limit=1)) == []


@pytest.mark.parametrize("alias", ["default", "postgres"])
def test_every_committed_call_runs_and_no_other_wherever_the_process_is_killed(site: Site, alias: str) -> None:
    cause_chaos(site, alias, large=False)
    relay(site)
    site.run_tasks()
    committed = set(Customer.objects.using(alias).values_list("name", flat=True))
    assert sorted(site.traces()) == sorted(f"note {name}" for name in committed)
    assert 0 < len(committed) < POINTS
    assert waiting(alias) == 0
