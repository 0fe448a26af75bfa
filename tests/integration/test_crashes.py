"""A process is stopped between two steps: nothing is lost, and nothing is left behind for ever."""

from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import transaction

from safedefer import defer
from safedefer.core.ports import OutgoingTask, SendableTask
from safedefer.core.records import RecordKind
from safedefer.django.models import StoredRecord
from safedefer.errors import QueueNotFoundError, QueueUnavailableError, Reason
from safedefer.flow.ledger import Lease, Ledger
from safedefer.flow.runtime import install
from tests.site.shop import tasks
from tests.support.builders import ManualClock
from tests.support.site import Site

LARGE = "x" * 1_500_000


class KilledError(BaseException):
    """What a kill looks like from inside: nothing behind this point runs."""


class Sender:
    """The real sender, and what happens around a create."""

    def __init__(self, real: Any, *, before: Callable[[], None] | None = None, after: Any = None) -> None:
        self.real = real
        self.before = before
        self.after = after

    def prepare(self, task: OutgoingTask) -> SendableTask:
        prepared: SendableTask = self.real.prepare(task)
        return prepared

    def send(self, task: SendableTask) -> bool:
        if self.before is not None:
            self.before()
        created: bool = self.real.send(task)
        if self.after is not None:
            self.after()
        return created


def with_runtime(site: Site, **changes: Any) -> None:
    runtime = replace(site.runtime, **changes)
    install(lambda: runtime)


def overflow_rows() -> int:
    return StoredRecord.objects.filter(kind=RecordKind.OVERFLOW).count()


def die() -> None:
    raise KilledError


def purge(site: Site, days: int) -> str:
    with_runtime(site, clock=ManualClock(site.runtime.clock.time() + days * 86_400))
    output = StringIO()
    call_command("safedefer_overflow", "purge", stdout=output)
    return output.getvalue()


def test_body_of_a_task_that_was_never_created_expires(site: Site) -> None:
    with_runtime(site, sender=Sender(site.runtime.sender, before=die))
    with pytest.raises(KilledError):
        defer(tasks.note, LARGE)
    assert overflow_rows() == 2
    assert "overflow: removed 0 of 2" in purge(site, 30)
    assert "overflow: removed 2 of 2" in purge(site, 32)
    assert overflow_rows() == 0


def test_task_that_was_created_before_the_kill_runs(site: Site) -> None:
    with_runtime(site, sender=Sender(site.runtime.sender, after=die))
    with pytest.raises(KilledError):
        defer(tasks.note, LARGE)
    with_runtime(site)
    site.run_tasks()
    assert site.traces() == [f"note {LARGE}"]
    assert overflow_rows() == 0


def test_body_is_removed_when_the_task_is_refused_for_good(site: Site) -> None:
    with pytest.raises(QueueNotFoundError):
        defer(tasks.note, LARGE, _queue="missing")
    assert overflow_rows() == 0


def test_body_stays_when_the_service_has_not_answered(site: Site) -> None:
    def no_answer() -> None:
        raise QueueUnavailableError("no answer")

    with_runtime(site, sender=Sender(site.runtime.sender, after=no_answer))
    with pytest.raises(QueueUnavailableError):
        defer(tasks.note, LARGE)
    with_runtime(site)
    # The task exists all the same, and finds its body.
    site.run_tasks()
    assert site.traces() == [f"note {LARGE}"]


def test_body_of_a_second_task_of_one_name_is_left_to_expire(site: Site) -> None:
    assert defer(tasks.note, LARGE, _name="once-large", _countdown=600).created is True
    assert defer(tasks.note, LARGE, _name="once-large").created is False
    assert overflow_rows() == 4
    assert "overflow: removed 0" in purge(site, days=1)
    purge(site, days=40)
    assert overflow_rows() == 0


def defer_and_roll_back() -> None:
    with transaction.atomic():
        defer(tasks.note, LARGE)
        raise InterruptedError


def test_body_deferred_in_a_transaction_goes_with_it(site: Site) -> None:
    with pytest.raises(InterruptedError):
        defer_and_roll_back()
    assert overflow_rows() == 0
    with transaction.atomic():
        defer(tasks.note, LARGE)
    site.run_tasks()
    assert site.traces() == [f"note {LARGE}"]


class KilledLedger:
    """The real ledger of a process that is killed when a task's end is to be recorded, or right behind that."""

    def __init__(self, real: Ledger, *, recorded: bool) -> None:
        self.look = real.look
        self.claim = real.claim
        self.release = real.release
        self.real = real
        self.recorded = recorded

    def finish(self, lease: Lease) -> None:
        if self.recorded:
            self.real.finish(lease)
        raise KilledError


def seal_and_store(site: Site) -> bytes:
    from safedefer.flow.defer import seal_call
    from safedefer.flow.overflow import write_overflow

    function = tasks.note.registered
    call: Any = seal_call(site.runtime, function, function.options, (LARGE,), {})
    write_overflow(site.runtime.records, call.claims, call.overflow)
    return bytes(call.task.task.http_request.body)


def test_worker_killed_between_the_end_and_the_cleanup_leaves_nothing(site: Site) -> None:
    wire = seal_and_store(site)
    with_runtime(site, ledger=KilledLedger(site.runtime.ledger, recorded=True))
    site.post(wire)
    assert overflow_rows() == 2
    with_runtime(site)
    assert site.post(wire).status == 204
    assert site.dispatches()[-1].reason is Reason.ALREADY_EXECUTED
    assert overflow_rows() == 0
    assert site.traces() == [f"note {LARGE}"]


def test_worker_killed_before_its_end_is_recorded_leaves_the_task_to_another(site: Site) -> None:
    wire = seal_and_store(site)
    with_runtime(site, ledger=KilledLedger(site.runtime.ledger, recorded=False))
    site.post(wire)
    with_runtime(site)
    # While its lease lasts the call waits as a new task; behind that it is run again.
    assert site.post(wire).status == 204
    assert site.dispatches()[-1].reason is Reason.LEASE_HELD
    later = ManualClock(site.runtime.clock.time() + 700)
    with_runtime(site, clock=later, ledger=Ledger(site.runtime.records, later))
    assert site.post(wire).status == 204
    assert site.dispatches()[-1].reason is Reason.EXECUTED
    assert site.traces() == [f"note {LARGE}"] * 2
    assert overflow_rows() == 0


def test_reissued_task_is_scheduled_for_the_end_of_the_lease(site: Site, tasks_client: Any) -> None:
    wire = site.seal(tasks.note, "x")
    with_runtime(site, ledger=KilledLedger(site.runtime.ledger, recorded=False))
    site.post(wire)
    with_runtime(site)
    assert [site.post(wire).status for _ in range(3)] == [204] * 3
    (task,) = tasks_client.list_tasks(parent="projects/local/locations/local1/queues/default")
    wait = task.schedule_time.timestamp() - site.runtime.clock.time()
    assert 660 <= wait <= 695
    # The reissued task itself, come too early, is kept by its queue and not acknowledged.
    reply = site.post(wire, headers={"X-CloudTasks-TaskName": task.name.rpartition("/")[2]})
    assert reply.status == 409
    assert site.dispatches()[-1].reason is Reason.LEASE_HELD


def test_ledger_rows_are_purged_when_nothing_can_come_for_them(site: Site) -> None:
    defer(tasks.note, "x")
    site.run_tasks()
    assert "ledger: removed 0 of 1" in purge(site, 30)
    assert "ledger: removed 1 of 1" in purge(site, 32)
