"""When a call ends without having been executed: it is kept, or it stays in its queue."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from safedefer import Drop, Retry, RetryOptions
from safedefer.core.audit import Action
from safedefer.core.claims import Storage
from safedefer.core.deadletter import DeadLetter, make_letter, put_letter
from safedefer.core.limits import DEAD_LETTER_SLOTS, MAX_SKEW_AGE, MAX_SKEW_ATTEMPTS
from safedefer.core.names import FunctionName
from safedefer.core.options import TaskOptions
from safedefer.core.records import Put, RecordKey, RecordKind
from safedefer.core.routing import Route
from safedefer.errors import (
    DeadLetterError,
    InvalidOptionError,
    QueueUnavailableError,
    Reason,
    StoreUnavailableError,
    UnavailableError,
)
from safedefer.flow.deadletters import find_letter, list_letters, read_envelope, remove_letter
from safedefer.flow.defer import defer_call
from safedefer.flow.execute import handle_dispatch
from safedefer.flow.giving_up import Attempted
from safedefer.flow.outcome import Outcome, Verdict
from safedefer.flow.overflow import purge_expired, write_overflow
from safedefer.flow.redrive import purge_letter, redrive_letter
from safedefer.flow.runtime import Runtime
from tests.support.builders import NOW, Row, Rows, make_claims, make_envelope, verified
from tests.unit.flow.ports import ERRORS, Ports, make_dispatch, ran


@pytest.fixture(autouse=True)
def _nothing_has_run() -> Iterator[None]:
    ran.clear()
    ERRORS["fault"] = ValueError("a canary in the message")
    yield
    ran.clear()
    ERRORS.clear()


@pytest.fixture
def ports() -> Ports:
    return Ports()


@pytest.fixture
def runtime(ports: Ports) -> Runtime:
    return ports.runtime()


def failing(ports: Ports, runtime: Runtime, max_attempts: int | None = 2, **claims: Any) -> bytes:
    retry = None if max_attempts is None else RetryOptions(max_attempts=max_attempts)
    return ports.envelope(runtime, "shop.raises", "fault", retry=retry, **claims)


def dump_letter_of(letter_id: str) -> bytes:
    """The record of another letter."""
    letter = make_letter(
        None, b"x", reason=Reason.TAG_INVALID, detail="", now=NOW, attempts=0, queue=None, slot=letter_id
    )
    change = put_letter(letter, b"x")[0]
    assert isinstance(change, Put)
    return change.data


def letters(ports: Ports) -> list[DeadLetter]:
    return list(list_letters(ports.records))


def test_last_attempt_ends_in_a_dead_letter(ports: Ports, runtime: Runtime) -> None:
    data = failing(ports, runtime)
    assert handle_dispatch(runtime, make_dispatch(data)) == Outcome(Verdict.FAILED, Reason.FUNCTION_FAILED)
    assert letters(ports) == []
    assert handle_dispatch(runtime, make_dispatch(data)) == Outcome(Verdict.DEAD, Reason.FUNCTION_FAILED)
    (letter,) = letters(ports)
    assert (letter.id, letter.reason, letter.detail) == ((b"t" * 16).hex(), Reason.FUNCTION_FAILED, "ValueError")
    assert (letter.function, letter.queue, letter.attempts) == ("shop.raises v1", "default", 2)
    assert read_envelope(ports.records, letter) == data
    assert ports.audit.events[-1].outcome == "dead"


def test_what_was_given_up_never_runs_again(ports: Ports, runtime: Runtime) -> None:
    data = failing(ports, runtime, 1)
    handle_dispatch(runtime, make_dispatch(data))
    ERRORS.clear()
    assert handle_dispatch(runtime, make_dispatch(data)) == Outcome(Verdict.DROP, Reason.ALREADY_DEAD)
    assert ran == ["fault"]
    assert len(letters(ports)) == 1


def test_call_without_a_policy_is_tried_until_it_expires(ports: Ports, runtime: Runtime) -> None:
    data = failing(ports, runtime, None)
    for _ in range(5):
        assert handle_dispatch(runtime, make_dispatch(data)).verdict is Verdict.FAILED
    ports.clock.now = NOW + 3_600 + 31
    assert handle_dispatch(runtime, make_dispatch(data)) == Outcome(Verdict.DEAD, Reason.EXPIRED)
    (letter,) = letters(ports)
    assert (letter.reason, letter.attempts) == (Reason.EXPIRED, 5)


def test_attempts_are_counted_by_the_ledger_and_not_by_the_queue(ports: Ports, runtime: Runtime) -> None:
    data = failing(ports, runtime, 3)
    verdicts = [handle_dispatch(runtime, make_dispatch(data, retry_count="99")).verdict for _ in range(3)]
    assert verdicts == [Verdict.FAILED, Verdict.FAILED, Verdict.DEAD]


def test_without_a_ledger_the_queue_counts(ports: Ports, runtime: Runtime) -> None:
    runtime.registry.find(FunctionName("shop.raises"), 1).ledger = False
    data = failing(ports, runtime, 3)
    assert handle_dispatch(runtime, make_dispatch(data, retry_count="1")).verdict is Verdict.FAILED
    assert handle_dispatch(runtime, make_dispatch(data, retry_count="2")).verdict is Verdict.DEAD
    assert len(letters(ports)) == 1


def test_duration_counts_from_the_first_possible_moment(ports: Ports, runtime: Runtime) -> None:
    retry = RetryOptions(max_duration=timedelta(minutes=10))
    data = ports.envelope(runtime, "shop.raises", "fault", retry=retry)
    ports.clock.now = NOW + 599
    assert handle_dispatch(runtime, make_dispatch(data)).verdict is Verdict.FAILED
    ports.clock.now = NOW + 600
    assert handle_dispatch(runtime, make_dispatch(data)).verdict is Verdict.DEAD


def test_store_that_fails_leaves_the_task_to_its_queue(ports: Ports, runtime: Runtime) -> None:
    data = failing(ports, runtime, 1)

    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(ports.records, name)

        def commit(self, changes: Any) -> None:
            if any(change.key.kind is RecordKind.DEAD for change in changes):
                raise StoreUnavailableError("full")
            ports.records.commit(changes)

    full = ports.runtime(records=Full())
    assert handle_dispatch(full, make_dispatch(data)) == Outcome(Verdict.FAILED, Reason.FUNCTION_FAILED)
    assert handle_dispatch(full, make_dispatch(b"garbage" * 20)).verdict is Verdict.REFUSED
    # The lease was given back: the next attempt need not wait for its end.
    assert handle_dispatch(runtime, make_dispatch(data)).verdict is Verdict.DEAD


def test_envelope_that_nobody_vouches_for_is_kept_once(ports: Ports, runtime: Runtime) -> None:
    for _ in range(3):
        assert handle_dispatch(runtime, make_dispatch(b"garbage" * 20)).verdict is Verdict.DEAD
    (letter,) = letters(ports)
    assert not letter.is_signed
    assert (letter.function, letter.reason) == ("", Reason.FRAME_MAGIC)


def test_envelopes_that_nobody_vouches_for_cannot_fill_the_store(ports: Ports, runtime: Runtime) -> None:
    verdicts = {
        handle_dispatch(runtime, make_dispatch(b"garbage %d" % number + b"x" * 60)).verdict
        for number in range(4 * DEAD_LETTER_SLOTS)
    }
    # What finds no place stays in the queue; success is never answered for what is not kept.
    assert verdicts == {Verdict.DEAD, Verdict.REFUSED}
    assert len(letters(ports)) <= DEAD_LETTER_SLOTS


def test_genuine_claims_with_another_body_do_not_end_the_genuine_call(ports: Ports, runtime: Runtime) -> None:
    genuine = ports.envelope(runtime, "shop.note", "genuine")
    tampered = genuine[:-1] + bytes([genuine[-1] ^ 1])
    assert handle_dispatch(runtime, make_dispatch(tampered)) == Outcome(Verdict.DEAD, Reason.BODY_DIGEST)
    assert handle_dispatch(runtime, make_dispatch(genuine, queue="other")).reason is Reason.QUEUE_MISMATCH
    assert handle_dispatch(runtime, make_dispatch(genuine)).verdict is Verdict.DONE
    assert ran == ["genuine"]


def test_duplicate_of_an_executed_call_is_no_dead_letter_when_it_has_expired(ports: Ports, runtime: Runtime) -> None:
    data = ports.envelope(runtime, "shop.note", "x")
    handle_dispatch(runtime, make_dispatch(data))
    ports.clock.now = NOW + 7_200
    assert handle_dispatch(runtime, make_dispatch(data)) == Outcome(Verdict.DONE, Reason.ALREADY_EXECUTED)
    assert letters(ports) == []


def test_call_that_no_revision_knows_is_given_up_after_attempts_and_time(ports: Ports, runtime: Runtime) -> None:
    claims = make_claims()
    data = make_envelope(replace(claims, expires_at=NOW + 30 * 86_400))
    many = str(MAX_SKEW_ATTEMPTS)
    assert handle_dispatch(runtime, make_dispatch(data, retry_count=many)).verdict is Verdict.RETRY
    ports.clock.now = NOW + MAX_SKEW_AGE.total_seconds() + 1
    assert handle_dispatch(runtime, make_dispatch(data, retry_count="3")).verdict is Verdict.RETRY
    assert handle_dispatch(runtime, make_dispatch(data, retry_count=many)).verdict is Verdict.DEAD
    (letter,) = letters(ports)
    assert letter.reason in (Reason.FUNCTION_UNKNOWN, Reason.FUNCTION_VERSION_UNKNOWN, Reason.ARGUMENTS_MISMATCH)


def test_function_that_asks_for_later_comes_again_then_and_not_before(ports: Ports, runtime: Runtime) -> None:
    ERRORS["fault"] = Retry(after=120)
    data = failing(ports, runtime, None)
    assert handle_dispatch(runtime, make_dispatch(data)) == Outcome(Verdict.REISSUE, Reason.POSTPONED)
    (task,) = ports.sender.sent
    assert (task.envelope, task.schedule_time) == (data, NOW + 120)
    assert ports.failures.told == []
    # A duplicate of the first dispatch waits as well.
    assert handle_dispatch(runtime, make_dispatch(data)).reason is Reason.LEASE_HELD
    ports.clock.now = NOW + 121
    del ERRORS["fault"]
    ERRORS["fault"] = Retry(after=timedelta(minutes=1))
    assert handle_dispatch(runtime, make_dispatch(data, task_name=task.name)).reason is Reason.POSTPONED
    names = [task.name for task in ports.sender.sent]
    assert len(set(names)) == len(names)
    assert ran == ["fault", "fault"]


def test_later_that_cannot_be_arranged_is_an_outage(ports: Ports, runtime: Runtime) -> None:
    ERRORS["fault"] = Retry(after=120)
    ports.sender.answers = [QueueUnavailableError("down")]
    data = failing(ports, runtime, None)
    assert handle_dispatch(runtime, make_dispatch(data)).verdict is Verdict.UNAVAILABLE
    assert handle_dispatch(runtime, make_dispatch(data)).verdict is Verdict.REISSUE


def test_asking_for_later_for_ever_is_given_up_as_well(ports: Ports, runtime: Runtime) -> None:
    ERRORS["fault"] = Retry(after=0)
    data = failing(ports, runtime, 2)
    assert handle_dispatch(runtime, make_dispatch(data)).verdict is Verdict.REISSUE
    assert handle_dispatch(runtime, make_dispatch(data)).verdict is Verdict.DEAD
    assert letters(ports)[0].detail == "Retry"


def test_function_that_drops_its_task_ends_it(ports: Ports, runtime: Runtime) -> None:
    ERRORS["fault"] = Drop("nothing\x00 to do" + "x" * 500)
    data = failing(ports, runtime, 5)
    assert handle_dispatch(runtime, make_dispatch(data)) == Outcome(Verdict.DROP, Reason.DROPPED)
    assert handle_dispatch(runtime, make_dispatch(data)).reason is Reason.ALREADY_EXECUTED
    assert letters(ports) == []
    assert ports.failures.told == []
    event = next(event for event in ports.audit.events if event.reason is Reason.DROPPED)
    assert event.detail.startswith("nothing to do")
    assert len(event.detail) <= 200


@pytest.mark.parametrize("after", [-1, "5", None, True, timedelta(days=31)])
def test_later_has_to_be_a_duration(after: Any) -> None:
    with pytest.raises(InvalidOptionError, match="after"):
        Retry(after=after)


def test_letter_is_driven_again_as_a_call_of_its_own(ports: Ports, runtime: Runtime) -> None:
    data = failing(ports, runtime, 1)
    handle_dispatch(runtime, make_dispatch(data))
    ports.clock.now = NOW + 40 * 86_400  # Long after it has expired.
    new_id = redrive_letter(runtime, (b"t" * 16).hex())
    assert letters(ports) == []
    (task,) = ports.sender.sent
    claims = verified(task.envelope).claims
    assert claims.task_id.hex() == new_id != (b"t" * 16).hex()
    assert (claims.lineage.parent, claims.lineage.generation) == (b"t" * 16, 1)
    assert claims.retry == RetryOptions(max_attempts=1)
    ERRORS["fault"] = Drop("now it is known what to do")
    assert handle_dispatch(runtime, make_dispatch(task.envelope)).reason is Reason.DROPPED
    assert [event.action for event in ports.audit.events].count(Action.REDRIVE) == 1


def test_driving_a_letter_again_twice_makes_one_task(ports: Ports, runtime: Runtime) -> None:
    handle_dispatch(runtime, make_dispatch(failing(ports, runtime, 1)))
    letter = letters(ports)[0]
    ports.sender.answers = [QueueUnavailableError("down")]
    with pytest.raises(QueueUnavailableError):
        redrive_letter(runtime, letter.id)
    assert letters(ports) == [letter]
    redrive_letter(runtime, letter.id)
    first, second = ports.sender.sent
    assert first.name == second.name
    with pytest.raises(DeadLetterError, match="no such"):
        redrive_letter(runtime, letter.id)


def test_letter_with_a_stored_body_keeps_it(ports: Ports, runtime: Runtime) -> None:
    inline = verified(failing(ports, runtime, 1))
    body = inline._body
    claims = replace(inline.claims, body=replace(inline.claims.body, storage=Storage.OVERFLOW))
    write_overflow(ports.records, claims, body)
    data = make_envelope(claims, b"")
    assert handle_dispatch(runtime, make_dispatch(data)).verdict is Verdict.DEAD
    (record,) = ports.records.scan(RecordKind.OVERFLOW, limit=9)
    assert record.expires_at >= NOW + 90 * 86_400
    redrive_letter(runtime, letters(ports)[0].id)
    (task,) = ports.sender.sent
    assert handle_dispatch(runtime, make_dispatch(task.envelope)).verdict is Verdict.DEAD
    assert ran == ["fault", "fault"]
    assert len(ports.records.scan(RecordKind.OVERFLOW, limit=9)) == 1


@pytest.mark.parametrize("change", ["unsigned", "executed", "another call's", "incomplete", "gone"])
def test_letter_that_proves_nothing_is_not_driven_again(ports: Ports, runtime: Runtime, change: str) -> None:
    if change == "unsigned":
        handle_dispatch(runtime, make_dispatch(b"garbage" * 20))
    else:
        handle_dispatch(runtime, make_dispatch(failing(ports, runtime, 1)))
    (letter,) = letters(ports)
    (parts,) = ports.records.scan(RecordKind.DEAD_ENVELOPE, limit=9)
    rows = ports.records._records
    if change == "executed":
        other = failing(ports, runtime, 1, task_id=b"u" * 16)
        ERRORS["fault"] = Drop("")
        handle_dispatch(runtime, make_dispatch(other))
        rows[parts.key] = replace(parts, data=other)
    elif change == "another call's":
        rows[parts.key] = replace(parts, data=failing(ports, runtime, 1, task_id=b"u" * 16))
    elif change == "incomplete":
        del rows[parts.key]
    elif change == "gone":
        remove_letter(ports.records, letter.id)
    with pytest.raises(DeadLetterError):
        redrive_letter(runtime, letter.id)
    assert ports.sender.sent == []
    if change != "gone":
        assert find_letter(ports.records, letter.id) == letter


def test_executed_call_that_the_ledger_has_forgotten_is_driven_again_by_force_alone(
    ports: Ports, runtime: Runtime
) -> None:
    data = ports.envelope(runtime, "shop.note", "x")
    handle_dispatch(runtime, make_dispatch(data))
    ports.clock.now = NOW + 3 * 86_400
    list(purge_expired(ports.records, RecordKind.LEDGER, ports.clock.now))
    assert handle_dispatch(runtime, make_dispatch(data)).verdict is Verdict.DEAD
    (letter,) = letters(ports)
    with pytest.raises(DeadLetterError, match="--force"):
        redrive_letter(runtime, letter.id)
    assert ports.sender.sent == []
    redrive_letter(runtime, letter.id, force=True)
    assert len(ports.sender.sent) == 1


def test_call_that_was_copied_into_another_queue_and_driven_again_runs_once(ports: Ports, runtime: Runtime) -> None:
    data = ports.envelope(runtime, "shop.note", "x")
    assert handle_dispatch(runtime, make_dispatch(data, queue="billing")).reason is Reason.QUEUE_MISMATCH
    redrive_letter(runtime, letters(ports)[0].id)
    handle_dispatch(runtime, make_dispatch(ports.sender.sent[0].envelope))
    assert handle_dispatch(runtime, make_dispatch(data)).reason is Reason.ALREADY_DEAD
    assert ran == ["x"]


def test_call_that_is_being_executed_is_not_driven_again(ports: Ports, runtime: Runtime) -> None:
    data = ports.envelope(runtime, "shop.note", "x")
    handle_dispatch(runtime, make_dispatch(data, queue="billing"))
    claims = verified(data).claims
    runtime.ledger.claim(claims, runtime.ledger.look(claims))
    with pytest.raises(DeadLetterError, match="being executed"):
        redrive_letter(runtime, letters(ports)[0].id)


def test_call_is_driven_again_by_the_version_that_runs_now(ports: Ports) -> None:
    old = ports.runtime(default_route=Route(service="web", version="v1"))
    function = old.registry.find(FunctionName("shop.raises"), 1)
    defer_call(old, function, TaskOptions(retry_options=RetryOptions(max_attempts=1)), ("fault",), {})
    handle_dispatch(old, make_dispatch(ports.sender.sent[0].envelope))
    redrive_letter(ports.runtime(default_route=Route(service="web", version="v2")), letters(ports)[0].id)
    assert ports.sender.sent[-1].route == Route(service="web", version="v2")


def test_attempt_is_one_only_if_the_function_was_called(ports: Ports, runtime: Runtime) -> None:
    ports.rows.rows[1] = Row(1)
    data = ports.envelope(runtime, "shop.greet", Row(1), retry=RetryOptions(max_attempts=2))

    class Down(Rows):
        def resolve(self, references: Any) -> dict[Any, object]:
            raise UnavailableError("down")

    outage = ports.runtime(resolver=Down())
    for _ in range(5):
        assert handle_dispatch(outage, make_dispatch(data)).verdict is Verdict.UNAVAILABLE
    assert letters(ports) == []
    assert handle_dispatch(runtime, make_dispatch(data)).verdict is Verdict.DONE
    assert ports.audit.events[-1].attempt == 1


def test_row_that_never_comes_back_is_given_up_as_the_policy_says(ports: Ports, runtime: Runtime) -> None:
    runtime.registry.find(FunctionName("shop.greet"), 1).missing = "retry"
    data = ports.envelope(runtime, "shop.greet", Row(7), retry=RetryOptions(max_attempts=2))
    assert handle_dispatch(runtime, make_dispatch(data)).verdict is Verdict.RETRY
    assert handle_dispatch(runtime, make_dispatch(data)) == Outcome(Verdict.DEAD, Reason.REFERENCE_MISSING)


def deferred_large(ports: Ports, runtime: Runtime) -> bytes:
    """A call whose body is stored, and which expires in an hour."""
    function = runtime.registry.find(FunctionName("shop.raises"), 1)
    ERRORS["x" * 5_000] = Retry(after=86_400)
    defer_call(runtime, function, TaskOptions(expires=timedelta(hours=1)), ("x" * 5_000,), {})
    return ports.sender.sent[-1].envelope


def test_asking_for_later_than_the_expiry_ends_at_once_with_its_body(ports: Ports) -> None:
    runtime = ports.runtime(inline_limit_bytes=1_000)
    data = deferred_large(ports, runtime)
    assert handle_dispatch(runtime, make_dispatch(data)) == Outcome(Verdict.DEAD, Reason.EXPIRED)
    redrive_letter(runtime, letters(ports)[0].id)


def test_body_outlives_a_call_that_expires_in_a_queue_that_is_paused(ports: Ports) -> None:
    runtime = ports.runtime(inline_limit_bytes=1_000)
    data = deferred_large(ports, runtime)
    ports.clock.now = NOW + 20 * 86_400
    for kind in RecordKind:
        list(purge_expired(ports.records, kind, ports.clock.now))
    assert handle_dispatch(runtime, make_dispatch(data)) == Outcome(Verdict.DEAD, Reason.EXPIRED)
    redrive_letter(runtime, letters(ports)[0].id, force=True)


def test_clock_that_is_slow_ends_no_call(ports: Ports, runtime: Runtime) -> None:
    data = ports.envelope(runtime, "shop.note", "x", issued_at=NOW + 40, not_before=NOW + 40)
    assert handle_dispatch(runtime, make_dispatch(data)) == Outcome(Verdict.RETRY, Reason.ISSUED_IN_FUTURE)
    ports.clock.now = NOW + 40
    assert handle_dispatch(runtime, make_dispatch(data)).verdict is Verdict.DONE


@pytest.mark.parametrize("data", [b"junk", b"", dump_letter_of("another")])
def test_letter_that_cannot_be_read_is_listed_and_purged(ports: Ports, runtime: Runtime, data: bytes) -> None:
    key = RecordKey(RecordKind.DEAD, "aa")
    ports.records.commit([Put(key=key, data=data, expires_at=NOW, expected=None)])
    handle_dispatch(runtime, make_dispatch(b"garbage" * 20))
    unreadable, other = letters(ports)
    assert (unreadable.id, unreadable.detail) == ("aa", "its record cannot be read")
    with pytest.raises(DeadLetterError):
        redrive_letter(runtime, unreadable.id)
    purge_letter(runtime, unreadable.id)
    assert letters(ports) == [other]


def test_purge_removes_the_stored_body_as_well(ports: Ports) -> None:
    runtime = ports.runtime(inline_limit_bytes=1_000)
    handle_dispatch(runtime, make_dispatch(deferred_large(ports, runtime)))
    assert ports.records.scan(RecordKind.OVERFLOW, limit=9)
    purge_letter(runtime, letters(ports)[0].id)
    for kind in (RecordKind.OVERFLOW, RecordKind.DEAD, RecordKind.DEAD_ENVELOPE):
        assert ports.records.scan(kind, limit=9) == []


def test_what_is_known_of_a_dispatch_shows_no_envelope_in_its_repr() -> None:
    assert "canary" not in repr(Attempted(envelope=b"canary"))


def test_letter_holds_no_argument(ports: Ports, runtime: Runtime) -> None:
    ERRORS["canary"] = ValueError("canary")
    data = ports.envelope(runtime, "shop.raises", "canary", retry=RetryOptions(max_attempts=1))
    handle_dispatch(runtime, make_dispatch(data))
    (record,) = ports.records.scan(RecordKind.DEAD, limit=9)
    assert b"canary" not in record.data
    assert "canary" not in repr(letters(ports))
