"""The outbox: what has committed is sent, once, whatever dies; the relay believes only what verifies."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from safedefer.core.claims import TaskType
from safedefer.core.deadletter import DeadLetter
from safedefer.core.ledger import Finished
from safedefer.core.limits import OUTBOX_AGE, OUTBOX_DELAY, SWEEP_BUCKET
from safedefer.core.names import FunctionName, HandlerId
from safedefer.core.options import TaskOptions
from safedefer.core.outbox import WaitingCall
from safedefer.errors import (
    QueueNotFoundError,
    QueueUnavailableError,
    Reason,
    StoreUnavailableError,
    TaskExistsError,
    TaskRefusedError,
)
from safedefer.flow.deadletters import list_letters
from safedefer.flow.defer import DeferredTask, defer_call
from safedefer.flow.execute import handle_dispatch
from safedefer.flow.outbox import relay_waiting
from safedefer.flow.outcome import Outcome, Verdict
from safedefer.flow.runtime import Runtime
from tests.support.builders import NOW, OTHER_SECRET, make_claims, make_envelope, make_key, verified
from tests.unit.flow.ports import Ports, make_dispatch, ran


@pytest.fixture(autouse=True)
def _nothing_has_run() -> Iterator[None]:
    ran.clear()
    yield
    ran.clear()


@pytest.fixture
def ports() -> Ports:
    ports = Ports()
    ports.commits.open_on = {"default"}
    ports.outbox.aliases = {"default"}
    return ports


@pytest.fixture
def runtime(ports: Ports) -> Runtime:
    return ports.runtime()


def send(runtime: Runtime, **options: object) -> DeferredTask:
    function = runtime.registry.find(FunctionName("shop.note"), 1)
    return defer_call(runtime, function, TaskOptions().merged(options), ("x",), {})


def sweeps(ports: Ports) -> list[str]:
    return [task.name for task in ports.sender.sent if verified(task.envelope).claims.type is TaskType.SWEEP]


def calls(ports: Ports) -> list[str]:
    return [task.name for task in ports.sender.sent if verified(task.envelope).claims.type is TaskType.CALL]


def letters(ports: Ports) -> list[DeadLetter]:
    return list(list_letters(ports.records))


def later(ports: Ports, time: timedelta = OUTBOX_DELAY) -> None:
    ports.clock.now += time.total_seconds() + 1


def test_call_waits_with_its_transaction_and_is_gone_once_it_is_sent(ports: Ports, runtime: Runtime) -> None:
    handle = send(runtime)
    assert handle.created is None
    assert list(ports.outbox.rows) == [("default", handle.task_id)]
    assert calls(ports) == []
    (action,) = ports.commits.waiting
    action()
    assert calls(ports) == [handle.task_name]
    assert ports.outbox.rows == {}


def test_without_an_outbox_the_call_is_sent_after_commit_all_the_same(ports: Ports, runtime: Runtime) -> None:
    ports.outbox.aliases = set()
    handle = send(runtime)
    (action,) = ports.commits.waiting
    ports.sender.answers = [QueueUnavailableError("down")]
    with pytest.raises(QueueUnavailableError):
        action()
    action()
    assert calls(ports) == [handle.task_name] * 2
    assert sweeps(ports) == []


@pytest.mark.parametrize("error", [QueueUnavailableError("down"), QueueNotFoundError("none"), TaskRefusedError("no")])
def test_what_could_not_be_sent_after_commit_is_sent_by_the_relay(
    ports: Ports, runtime: Runtime, error: Exception
) -> None:
    handle = send(runtime, countdown=600)
    ports.sender.answers = [error]
    ports.commits.waiting[0]()
    assert list(ports.outbox.rows) == [("default", handle.task_id)]
    later(ports)
    report = relay_waiting(ports.runtime())
    assert (report.sent, report.buried, report.left) == (1, 0, 0)
    assert ports.outbox.rows == {}
    first, second = (task for task in ports.sender.sent if task.name == handle.task_name)
    assert (first.envelope, int(first.schedule_time or 0)) == (second.envelope, second.schedule_time)


def test_name_that_was_asked_for_is_the_relays_as_well(ports: Ports, runtime: Runtime) -> None:
    send(runtime, name="mine")
    later(ports)
    relay_waiting(runtime)
    assert calls(ports) == ["mine"]


def test_relay_leaves_what_is_young_to_its_own_process(ports: Ports, runtime: Runtime) -> None:
    send(runtime)
    assert relay_waiting(runtime).sent == 0
    assert len(ports.outbox.rows) == 1


def test_call_that_was_sent_before_the_crash_is_not_doubled(ports: Ports, runtime: Runtime) -> None:
    send(runtime)
    later(ports)
    ports.sender.answers = [False]
    assert relay_waiting(runtime).sent == 1
    assert ports.outbox.rows == {}


def test_name_that_exists_is_told_and_the_row_does_not_stay(ports: Ports, runtime: Runtime) -> None:
    send(runtime, name="mine", raise_if_exists=True)
    ports.sender.answers = [False]
    with pytest.raises(TaskExistsError):
        ports.commits.waiting[0]()
    assert ports.outbox.rows == {}


def test_changed_row_is_never_sent(ports: Ports, runtime: Runtime) -> None:
    send(runtime)
    ((key, row),) = ports.outbox.rows.items()
    ports.outbox.rows[key] = replace(row, envelope=row.envelope[:-40] + bytes(40))
    foreign = make_envelope(make_claims(audience=replace(make_claims().audience, handler=HandlerId("/other/"))))
    ports.outbox.rows["default", "u"] = replace(row, task_id="u", envelope=foreign)
    later(ports)
    report = relay_waiting(runtime)
    # Another service on this database may know the second one; nobody has for a day.
    assert (report.buried, report.left) == (1, 1)
    later(ports, OUTBOX_AGE)
    assert relay_waiting(runtime).buried == 1
    assert calls(ports) == []
    assert ports.outbox.rows == {}
    assert {letter.reason for letter in letters(ports)} == {Reason.TAG_INVALID, Reason.AUDIENCE_MISMATCH}
    assert not any(letter.is_signed for letter in letters(ports))


def test_relay_of_an_older_revision_leaves_what_a_newer_key_has_signed(ports: Ports, runtime: Runtime) -> None:
    send(runtime)
    ((key, row),) = ports.outbox.rows.items()
    ports.outbox.rows[key] = replace(row, envelope=make_envelope(key=make_key("next", OTHER_SECRET)))
    later(ports)
    assert relay_waiting(runtime).left == 1
    assert letters(ports) == []
    assert len(ports.outbox.rows) == 1


def test_one_row_that_fails_keeps_no_other_waiting(ports: Ports, runtime: Runtime) -> None:
    send(runtime)
    handle = send(runtime)
    ports.audit.fails_from = len(ports.audit.events)
    later(ports)
    assert relay_waiting(runtime).left == 2
    ports.audit.fails_from = None
    later(ports, timedelta(minutes=2))
    assert relay_waiting(runtime).sent == 2
    assert handle.task_name in calls(ports)


def test_row_that_no_call_of_ours_can_be_is_kept_in_parts_that_can_be_read(ports: Ports, runtime: Runtime) -> None:
    huge = WaitingCall(using="default", task_id="u", envelope=b"x" * 3_000_000, created_at=NOW - 60)
    ports.outbox.rows["default", "u"] = huge
    assert relay_waiting(runtime).buried == 1
    (letter,) = letters(ports)
    assert letter.size_bytes == 1_048_576


def test_call_that_can_never_be_sent_becomes_a_dead_letter_after_a_day(ports: Ports, runtime: Runtime) -> None:
    handle = send(runtime)
    later(ports)
    ports.sender.answers = [QueueNotFoundError("none")]
    assert relay_waiting(runtime).left == 1
    assert letters(ports) == []
    later(ports, OUTBOX_AGE)
    ports.sender.answers = [QueueNotFoundError("none")]
    assert relay_waiting(runtime).buried == 1
    (letter,) = letters(ports)
    assert (letter.id, letter.reason) == (handle.task_id, Reason.NEVER_SENT)
    assert ports.outbox.rows == {}


def test_call_that_has_expired_in_the_outbox_becomes_a_dead_letter(ports: Ports, runtime: Runtime) -> None:
    send(runtime, expires=timedelta(minutes=5))
    later(ports, timedelta(minutes=6))
    assert relay_waiting(runtime).buried == 1
    assert letters(ports)[0].reason is Reason.EXPIRED
    assert calls(ports) == []


def test_call_that_was_executed_meanwhile_is_no_dead_letter(ports: Ports, runtime: Runtime) -> None:
    send(runtime, expires=timedelta(minutes=5))
    (row,) = ports.outbox.rows.values()
    handle_dispatch(runtime, make_dispatch(row.envelope))
    assert runtime.ledger.look(verified(row.envelope).claims).claim == Finished()
    later(ports, timedelta(minutes=6))
    relay_waiting(runtime)
    assert letters(ports) == []
    assert ports.outbox.rows == {}


def test_call_stays_when_its_dead_letter_cannot_be_kept(ports: Ports, runtime: Runtime) -> None:
    class Down:
        def __getattr__(self, name: str) -> object:
            raise StoreUnavailableError("down")

    send(runtime)
    ((key, row),) = ports.outbox.rows.items()
    ports.outbox.rows[key] = replace(row, envelope=row.envelope[:-40] + bytes(40))
    later(ports)
    assert relay_waiting(ports.runtime(records=Down())).left == 1
    assert len(ports.outbox.rows) == 1


def test_one_sweep_for_each_bucket_whoever_asks(ports: Ports, runtime: Runtime) -> None:
    for _ in range(3):
        send(runtime)
    send(ports.runtime())
    first = sweeps(ports)
    # A short and a long one, and the same names from another process.
    assert len(set(first)) == 2
    assert len(first) == 4
    later(ports, SWEEP_BUCKET)
    send(runtime)
    assert len(set(sweeps(ports))) == 3


def test_sweep_comes_after_everything_of_its_bucket_is_old_enough(ports: Ports, runtime: Runtime) -> None:
    send(runtime)
    task = next(task for task in ports.sender.sent)
    end = (NOW // SWEEP_BUCKET.total_seconds() + 1) * SWEEP_BUCKET.total_seconds()
    assert task.schedule_time == end + OUTBOX_DELAY.total_seconds()


def test_sweep_that_cannot_be_created_fails_no_call(ports: Ports, runtime: Runtime) -> None:
    ports.sender.answers = [QueueUnavailableError("down")]
    for _ in range(3):
        send(runtime)
    # A service that is down is not asked again in every transaction.
    assert len(sweeps(ports)) == 1
    later(ports, SWEEP_BUCKET)
    send(runtime)
    assert len(sweeps(ports)) == 3


def test_sweep_sends_what_a_crash_left_and_comes_again_while_something_is_left(ports: Ports, runtime: Runtime) -> None:
    handle = send(runtime)
    sweep = next(task for task in ports.sender.sent)
    ports.clock.now = (sweep.schedule_time or 0) + 1
    ports.sender.answers = [QueueUnavailableError("down")]
    dispatch = make_dispatch(sweep.envelope, task_name=sweep.name)
    assert handle_dispatch(runtime, dispatch) == Outcome(Verdict.DONE, Reason.SWEPT)
    assert "1 left" in ports.audit.events[-1].detail
    again = ports.sender.sent[-1]
    assert verified(again.envelope).claims.type is TaskType.SWEEP
    assert again.name != sweep.name
    ports.clock.now += 3_600
    handle_dispatch(runtime, make_dispatch(again.envelope, task_name=again.name))
    assert calls(ports) == [handle.task_name] * 2
    assert ports.outbox.rows == {}
    assert ran == []


def test_sweep_that_has_expired_is_no_dead_letter(ports: Ports, runtime: Runtime) -> None:
    handle = send(runtime)
    sweep = ports.sender.sent[0]
    ports.clock.now = (sweep.schedule_time or 0) + 3 * OUTBOX_AGE.total_seconds()
    assert handle_dispatch(runtime, make_dispatch(sweep.envelope)).reason is Reason.SWEPT
    assert calls(ports) == [handle.task_name]
    assert letters(ports) == []


def test_sweep_ends_when_nothing_is_left(ports: Ports, runtime: Runtime) -> None:
    send(runtime)
    ports.commits.waiting[0]()
    sweep = next(task for task in ports.sender.sent)
    ports.clock.now = (sweep.schedule_time or 0) + 1
    before = len(sweeps(ports))
    handle_dispatch(runtime, make_dispatch(sweep.envelope))
    assert len(sweeps(ports)) == before


def test_dispatch_replaces_a_sweep_that_is_missing(ports: Ports, runtime: Runtime) -> None:
    ports.sender.answers = [QueueUnavailableError("down")]
    send(runtime)
    later(ports, SWEEP_BUCKET)
    other = ports.runtime()
    before = len(sweeps(ports))
    for _ in range(3):
        handle_dispatch(other, make_dispatch(ports.envelope(other, "shop.note", "y")))
    assert len(sweeps(ports)) == before + 2
    # Nobody without a valid envelope makes us look.
    later(ports, SWEEP_BUCKET)
    handle_dispatch(other, make_dispatch(b"garbage" * 30))
    assert len(sweeps(ports)) == before + 2


def test_waiting_call_shows_nothing_in_its_repr(ports: Ports, runtime: Runtime) -> None:
    handle = send(runtime)
    assert repr(list(ports.outbox.rows.values())) == f"[<WaitingCall {handle.task_id} on default>]"
