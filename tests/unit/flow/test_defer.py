"""Sealing and sending a call, against ports in memory."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from safedefer.core.audit import Action
from safedefer.core.claims import Storage
from safedefer.core.envelope import parse_envelope
from safedefer.core.names import FunctionName
from safedefer.core.options import TaskOptions
from safedefer.core.records import RecordKind
from safedefer.core.signing import verify_envelope
from safedefer.errors import (
    InvalidOptionError,
    PayloadTooLargeError,
    QueueNotFoundError,
    QueueUnavailableError,
    Reason,
    TaskExistsError,
    TaskRefusedError,
)
from safedefer.flow.current import executing
from safedefer.flow.defer import DeferredTask, defer_call, seal_call
from safedefer.flow.execute import handle_dispatch
from safedefer.flow.outcome import Verdict
from safedefer.flow.runtime import Runtime
from tests.support.builders import DEPLOYMENT, NOW, RING, make_claims
from tests.unit.flow.ports import Ports, make_current, make_dispatch, ran


@pytest.fixture(autouse=True)
def _nothing_has_run() -> Iterator[None]:
    ran.clear()
    yield
    ran.clear()


@pytest.fixture
def ports() -> Ports:
    return Ports()


@pytest.fixture
def runtime(ports: Ports) -> Runtime:
    return ports.runtime()


def send(runtime: Runtime, text: str = "x", **options: Any) -> DeferredTask:
    function = runtime.registry.find(FunctionName("shop.note"), 1)
    return defer_call(runtime, function, TaskOptions().merged(options), (text,), {})


def claims_sent(ports: Ports, index: int = -1) -> Any:
    return verify_envelope(parse_envelope(ports.sender.sent[index].envelope), RING, DEPLOYMENT).claims


def test_what_is_sent_is_accepted_and_runs(ports: Ports, runtime: Runtime) -> None:
    handle = send(runtime)
    (task,) = ports.sender.sent
    assert (handle.task_name, handle.queue, handle.created) == (task.name, task.queue, True)
    assert handle.task_id == handle.task_name
    assert handle_dispatch(runtime, make_dispatch(task.envelope)).reason is Reason.EXECUTED
    assert ran == ["x"]
    deferred = ports.audit.events[0]
    assert (deferred.action, deferred.reason, deferred.task_id) == (Action.DEFER, Reason.DEFERRED, handle.task_id)


def test_two_calls_never_share_an_id(ports: Ports, runtime: Runtime) -> None:
    assert len({send(runtime).task_id for _ in range(50)}) == 50


@pytest.mark.parametrize(
    ("options", "schedule", "start", "end"),
    [
        ({}, None, NOW, NOW + 31 * 86_400),
        ({"countdown": 60}, NOW + 60, NOW + 60, NOW + 60 + 31 * 86_400),
        ({"countdown": 0}, None, NOW, NOW + 31 * 86_400),
        ({"countdown": -5}, None, NOW, NOW + 31 * 86_400),
        ({"eta": datetime.fromtimestamp(NOW + 90, UTC)}, NOW + 90, NOW + 90, NOW + 90 + 31 * 86_400),
        ({"eta": datetime(2020, 1, 1)}, None, NOW, NOW + 31 * 86_400),  # noqa: DTZ001
        ({"expires": timedelta(minutes=5)}, None, NOW, NOW + 300),
        ({"expires": datetime.fromtimestamp(NOW + 77, UTC)}, None, NOW, NOW + 77),
        ({"countdown": 60, "expires": timedelta(seconds=60)}, NOW + 60, NOW + 60, NOW + 60),
    ],
)
def test_times_are_signed_as_they_are_scheduled(
    ports: Ports, runtime: Runtime, options: dict[str, Any], schedule: float | None, start: int, end: int
) -> None:
    send(runtime, **options)
    claims = claims_sent(ports)
    assert ports.sender.sent[0].schedule_time == schedule
    assert (claims.issued_at, claims.not_before, claims.expires_at) == (NOW, start, end)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"countdown": 30 * 86_400 + 1}, "30 days"),
        ({"eta": datetime(9999, 12, 31, tzinfo=UTC)}, "30 days"),
        ({"countdown": 60, "expires": timedelta(seconds=59)}, "before it may run"),
        ({"expires": timedelta(seconds=-1)}, "before it may run"),
        ({"expires": timedelta(days=32)}, "31 days"),
    ],
)
def test_time_that_cannot_be_is_refused_and_nothing_is_sent(
    ports: Ports, runtime: Runtime, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        send(runtime, **options)
    assert ports.sender.sent == []
    assert ports.audit.events == []


def test_options_are_signed(ports: Ports, runtime: Runtime) -> None:
    send(runtime, queue="billing", deadline=60, name="mine")
    claims, (task,) = claims_sent(ports), ports.sender.sent
    assert (claims.audience.queue, task.queue) == ("billing", "billing")
    assert (claims.deadline_seconds, task.deadline.total_seconds()) == (60, 60)
    assert task.name == "mine"
    assert claims.task_id.hex() != "mine"


def test_named_task_that_exists_is_not_created(ports: Ports, runtime: Runtime) -> None:
    ports.sender.answers = [False, False]
    assert send(runtime, name="once").created is False
    with pytest.raises(TaskExistsError, match="once"):
        send(runtime, name="once", raise_if_exists=True)
    assert [event.detail for event in ports.audit.events] == ["a task of that name existed already"] * 2


def test_random_name_that_exists_is_ours_from_an_earlier_try(ports: Ports, runtime: Runtime) -> None:
    ports.sender.answers = [False]
    assert send(runtime).created is True
    assert ports.audit.events[0].detail == ""


@pytest.mark.parametrize("error", [QueueNotFoundError("no"), TaskRefusedError("no"), QueueUnavailableError("no")])
def test_error_of_the_service_reaches_the_caller_and_is_no_event(
    ports: Ports, runtime: Runtime, error: Exception
) -> None:
    ports.sender.answers = [error]
    with pytest.raises(type(error)):
        send(runtime)
    assert ports.audit.events == []


def stored(ports: Ports) -> int:
    return len(ports.records.scan(RecordKind.OVERFLOW, limit=100))


def test_large_body_is_kept_outside_and_signed_as_such(ports: Ports) -> None:
    runtime = ports.runtime(inline_limit_bytes=1_000)
    send(runtime, "y" * 2_000)
    claims = claims_sent(ports)
    assert claims.body.storage is Storage.OVERFLOW
    assert len(ports.sender.sent[0].envelope) < 1_000
    assert stored(ports) == 1
    assert handle_dispatch(runtime, make_dispatch(ports.sender.sent[0].envelope)).reason is Reason.EXECUTED
    assert ran == ["y" * 2_000]
    assert stored(ports) == 0


def test_size_is_decided_on_the_whole_task(ports: Ports) -> None:
    runtime = ports.runtime(inline_limit_bytes=1_000)
    function = runtime.registry.find(FunctionName("shop.note"), 1)

    def overflows(size: int) -> bool:
        return seal_call(runtime, function, TaskOptions(), ("y" * size,), {}).overflow is not None

    edge = next(size for size in range(1_000) if overflows(size))
    assert not overflows(edge - 1)
    ports.sender.overhead += 1
    assert overflows(edge - 1)


@pytest.mark.parametrize(
    ("error", "left"),
    [(QueueNotFoundError("no"), 0), (TaskRefusedError("no"), 0), (QueueUnavailableError("perhaps"), 1)],
)
def test_stored_body_is_removed_when_there_is_certainly_no_task(ports: Ports, error: Exception, left: int) -> None:
    runtime = ports.runtime(inline_limit_bytes=1_000)
    ports.sender.answers = [error]
    with pytest.raises(type(error)):
        send(runtime, "y" * 2_000)
    assert stored(ports) == left


def test_stored_body_of_a_task_that_exists_stays_for_it_may_be_this_one(ports: Ports) -> None:
    runtime = ports.runtime(inline_limit_bytes=1_000)
    ports.sender.answers = [False]  # Also the answer to a second try, where the first went through unnoticed.
    assert send(runtime, "y" * 2_000, name="once").created is False
    assert handle_dispatch(runtime, make_dispatch(ports.sender.sent[0].envelope)).verdict is Verdict.DONE
    assert stored(ports) == 0


@pytest.mark.parametrize(("open_on", "fits"), [({"default"}, True), ({"other"}, False), ({"default", "other"}, False)])
def test_stored_body_is_part_of_no_transaction_but_the_calls(ports: Ports, open_on: set[str], fits: bool) -> None:
    runtime = ports.runtime(inline_limit_bytes=1_000, records_using="other")
    ports.commits.open_on = open_on
    if fits:
        send(runtime, "y" * 2_000)
        return
    with pytest.raises(InvalidOptionError, match="_using='other'"):
        send(runtime, "y" * 2_000)
    assert (stored(ports), ports.commits.waiting) == (0, [])
    assert send(runtime, "y" * 2_000, using="other").created is None
    assert send(runtime, "small").created is not False


def test_small_task_and_the_cap_are_kept(ports: Ports) -> None:
    runtime = ports.runtime(inline_limit_bytes=1_000, body_cap_bytes=5_000)
    with pytest.raises(PayloadTooLargeError, match="small_task"):
        send(runtime, "y" * 2_000, small_task=True)
    with pytest.raises(PayloadTooLargeError, match="cap") as caught:
        send(runtime, "y" * 6_000)
    assert caught.value.size_bytes > caught.value.limit_bytes == 5_000
    assert "yyy" not in str(caught.value)
    assert (stored(ports), ports.sender.sent) == (0, [])


def test_call_in_a_transaction_waits_for_its_commit(ports: Ports, runtime: Runtime) -> None:
    ports.commits.open_on = {"other"}
    assert send(runtime).created is True
    ports.sender.sent.clear()
    handle = send(runtime, using="other")
    assert (handle.created, ports.sender.sent) == (None, [])
    (action,) = ports.commits.waiting
    action()
    assert [task.name for task in ports.sender.sent] == [handle.task_name]


def test_bad_option_in_a_transaction_is_told_at_once(ports: Ports, runtime: Runtime) -> None:
    ports.commits.open_on = {"default"}
    with pytest.raises(InvalidOptionError):
        send(runtime, countdown=31 * 86_400)
    assert ports.commits.waiting == []


def test_call_of_a_call_names_its_parent_and_its_root(ports: Ports, runtime: Runtime) -> None:
    parent = make_claims()
    token = executing.set(make_current(parent))
    try:
        send(runtime)
    finally:
        executing.reset(token)
    lineage = claims_sent(ports).lineage
    assert (lineage.root, lineage.parent, lineage.generation) == (parent.lineage.root, parent.task_id, 1)
    send(runtime)
    claims = claims_sent(ports)
    assert (claims.lineage.root, claims.lineage.parent, claims.lineage.generation) == (claims.task_id, None, 0)


def test_sealed_call_shows_nothing_in_its_repr(ports: Ports, runtime: Runtime) -> None:
    function = runtime.registry.find(FunctionName("shop.note"), 1)
    call = seal_call(runtime, function, TaskOptions(), ("canary",), {})
    assert "canary" not in repr(call)


def test_task_that_was_sent_is_told_as_sent_whatever_becomes_of_its_event(ports: Ports, runtime: Runtime) -> None:
    ports.audit.fails_from = 0
    handle = send(runtime)
    assert handle.created
    assert [task.name for task in ports.sender.sent] == [handle.task_name]
