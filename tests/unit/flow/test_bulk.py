"""Many calls at once: a hundred in a request, each with its own end, none twice."""

from collections.abc import Iterator

import pytest

from safedefer.core.claims import Storage
from safedefer.core.limits import MAX_BATCH_BYTES
from safedefer.core.names import FunctionName
from safedefer.core.options import TaskOptions
from safedefer.core.records import RecordKind
from safedefer.errors import (
    InvalidCallError,
    PartlyDeferredError,
    QueueNotFoundError,
    QueueUnavailableError,
    TaskExistsError,
)
from safedefer.flow.bulk import Call, bind_call, defer_calls
from safedefer.flow.runtime import Runtime
from tests.support.builders import verified
from tests.unit.flow.ports import Ports


@pytest.fixture
def ports() -> Ports:
    return Ports()


@pytest.fixture
def runtime(ports: Ports) -> Runtime:
    return ports.runtime()


def call(runtime: Runtime, *args: object, **options: object) -> Call:
    function = runtime.registry.find(FunctionName("shop.note"), 1)
    return bind_call(function, TaskOptions().merged(options), args, {})


def test_calls_go_a_hundred_at_a_time_and_their_handles_keep_the_order(ports: Ports, runtime: Runtime) -> None:
    calls = [call(runtime, str(number)) for number in range(250)]
    handles = defer_calls(runtime, iter(calls))
    assert ports.sender.batches == [100, 100, 50]
    assert [handle.task_id for handle in handles] == [one.task_id.hex() for one in calls]
    assert all(handle.created for handle in handles)
    assert len(ports.audit.events) == 250


def test_transactions_of_what_makes_the_calls_are_not_theirs(ports: Ports, runtime: Runtime) -> None:
    ports.outbox.aliases = {"default"}

    def each_in_a_transaction_of_its_own() -> Iterator[Call]:
        for number in range(101):
            ports.commits.open_on = {"default"}
            yield call(runtime, str(number))
            ports.commits.open_on = set()

    handles = defer_calls(runtime, each_in_a_transaction_of_its_own())
    assert all(handle.created for handle in handles)
    assert ports.commits.waiting == []


def test_large_call_given_again_finds_its_own_body(ports: Ports, runtime: Runtime) -> None:
    ports.sender.answers = [QueueUnavailableError("down")]
    with pytest.raises(PartlyDeferredError) as caught:
        defer_calls(runtime, [call(runtime, "x" * 1_100_000)])
    (handle,) = defer_calls(runtime, caught.value.failed)
    assert handle.created


def test_call_given_twice_in_a_transaction_is_one_row(ports: Ports, runtime: Runtime) -> None:
    ports.commits.open_on = {"default"}
    ports.outbox.aliases = {"default"}
    twice = call(runtime, "x")
    assert len(defer_calls(runtime, [twice, twice])) == 2
    assert len(ports.outbox.rows) == 1


def test_each_queue_has_its_own_batches(ports: Ports, runtime: Runtime) -> None:
    defer_calls(runtime, [call(runtime, "x", queue=queue) for queue in ("a", "b", "a", "b", "a")])
    assert sorted(ports.sender.batches) == [2, 3]
    assert [task.queue for task in ports.sender.sent] == ["a"] * 3 + ["b"] * 2


def test_batch_stays_below_what_a_client_receives(ports: Ports, runtime: Runtime) -> None:
    text = "x" * 900_000
    defer_calls(runtime, [call(runtime, text) for _ in range(5)])
    assert ports.sender.batches == [MAX_BATCH_BYTES // 900_000, 2]


def test_call_that_cannot_work_keeps_no_other_from_being_sent(ports: Ports, runtime: Runtime) -> None:
    ports.sender.answers = [True, QueueNotFoundError("none"), QueueUnavailableError("down")]
    calls = [call(runtime, "a"), call(runtime), call(runtime, "b"), call(runtime, "c"), call(runtime, "d")]
    with pytest.raises(PartlyDeferredError, match="3 of 5") as caught:
        defer_calls(runtime, calls)
    error = caught.value
    kinds = [type(result).__name__ for result in error.results]
    assert kinds == ["DeferredTask", InvalidCallError.__name__, "QueueNotFoundError", "QueueUnavailableError", kinds[0]]
    assert list(error.failed) == [calls[1], calls[2], calls[3]]


def test_calls_given_again_keep_their_names(ports: Ports, runtime: Runtime) -> None:
    ports.sender.answers = [QueueUnavailableError("down")]
    with pytest.raises(PartlyDeferredError) as caught:
        defer_calls(runtime, [call(runtime, "a")])
    ports.sender.answers = [False]  # The first create went through after all.
    (handle,) = defer_calls(runtime, caught.value.failed)
    assert handle.created
    first, second = ports.sender.sent
    assert first.name == second.name


def test_names_and_their_options_hold(ports: Ports, runtime: Runtime) -> None:
    ports.sender.answers = [False, False]
    with pytest.raises(PartlyDeferredError) as caught:
        defer_calls(runtime, [call(runtime, "a", name="n"), call(runtime, "b", name="m", raise_if_exists=True)])
    first, second = caught.value.results
    assert getattr(first, "created", None) is False
    assert isinstance(second, TaskExistsError)


def test_large_calls_keep_their_bodies_outside_and_lose_them_when_refused(ports: Ports, runtime: Runtime) -> None:
    ports.sender.answers = [True, QueueNotFoundError("none")]
    with pytest.raises(PartlyDeferredError):
        defer_calls(runtime, [call(runtime, "x" * 1_100_000) for _ in range(2)])
    stored = {record.key.id.partition("-")[0] for record in ports.records.scan(RecordKind.OVERFLOW, limit=99)}
    first = verified(ports.sender.sent[0].envelope).claims
    assert first.body.storage is Storage.OVERFLOW
    assert stored == {first.task_id.hex()}


@pytest.mark.parametrize("outbox", [True, False])
def test_inside_a_transaction_they_wait_for_its_commit(ports: Ports, runtime: Runtime, outbox: bool) -> None:
    ports.commits.open_on = {"default"}
    ports.outbox.aliases = {"default"} if outbox else set()
    handles = defer_calls(runtime, [call(runtime, str(number)) for number in range(150)])
    assert {handle.created for handle in handles} == {None}
    assert len(ports.outbox.rows) == (150 if outbox else 0)
    assert ports.sender.batches == []
    for action in ports.commits.waiting:
        action()
    assert ports.sender.batches == [100, 50]
    assert ports.outbox.rows == {}


def test_what_is_not_sent_after_the_commit_stays_in_the_outbox(ports: Ports, runtime: Runtime) -> None:
    ports.commits.open_on = {"default"}
    ports.outbox.aliases = {"default"}
    calls = [call(runtime, str(number)) for number in range(3)]
    defer_calls(runtime, calls)
    ports.sender.answers = [True, QueueUnavailableError("down"), QueueNotFoundError("none")]
    ports.commits.waiting[0]()
    assert [task_id for _, task_id in ports.outbox.rows] == [one.task_id.hex() for one in calls[1:]]


def test_without_an_outbox_it_is_told(ports: Ports, runtime: Runtime) -> None:
    ports.commits.open_on = {"default"}
    defer_calls(runtime, [call(runtime, "a")])
    ports.sender.answers = [QueueUnavailableError("down")]
    with pytest.raises(PartlyDeferredError):
        ports.commits.waiting[0]()


def test_nothing_is_nothing(ports: Ports, runtime: Runtime) -> None:
    assert defer_calls(runtime, []) == []
    assert ports.sender.batches == []


def test_call_shows_no_arguments_in_its_repr(runtime: Runtime) -> None:
    assert repr(call(runtime, "canary")) == "<Call of shop.note>"
