"""The checks of a dispatch, in their order, against ports in memory."""

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from safedefer.core.audit import Action, AuditEvent, Severity
from safedefer.core.claims import Storage
from safedefer.core.limits import MAX_REQUEST_BYTES
from safedefer.core.names import TaskId
from safedefer.core.references import ModelReference
from safedefer.errors import (
    FunctionFailedError,
    LeaseLostError,
    QueueUnavailableError,
    Reason,
    StoreUnavailableError,
    TaskExistsError,
    UnavailableError,
)
from safedefer.flow.current import executing
from safedefer.flow.execute import handle_dispatch
from safedefer.flow.outcome import Outcome, Verdict
from safedefer.flow.runtime import Runtime
from tests.support.builders import NOW, Row, Rows, make_audience, make_claims, make_envelope
from tests.unit.flow.ports import CALLER, ERRORS, Ports, make_dispatch, ran


@pytest.fixture(autouse=True)
def _nothing_has_run() -> Iterator[None]:
    ran.clear()
    yield
    ran.clear()
    ERRORS.clear()


@pytest.fixture
def ports() -> Ports:
    return Ports()


@pytest.fixture
def runtime(ports: Ports) -> Runtime:
    return ports.runtime()


def refused(ports: Ports, outcome: Outcome) -> AuditEvent:
    """The one event of a dispatch that ran nothing."""
    assert ran == []
    (event,) = ports.audit.events
    assert (event.action, event.accepted) == (Action.DISPATCH, False)
    assert (event.reason, event.outcome) == (outcome.reason, outcome.verdict.value)
    return event


def test_call_runs_between_two_events(ports: Ports, runtime: Runtime) -> None:
    data = ports.envelope(runtime, "shop.note", "x")
    assert handle_dispatch(runtime, make_dispatch(data)) == Outcome(Verdict.DONE, Reason.EXECUTED)
    assert ran == ["x"]
    before, after = ports.audit.events
    assert (before.reason, before.outcome) == (Reason.ACCEPTED, None)
    assert (after.reason, after.outcome) == (Reason.EXECUTED, "done")
    for event in (before, after):
        assert event.accepted
        assert event.actor == CALLER.email
        assert (event.function, event.function_version, event.queue, event.key) == ("shop.note", 1, "default", "first")
        assert event.task_id == (b"t" * 16).hex()
        assert event.attempt == 1
    assert before.body_size_bytes == after.body_size_bytes
    assert after.duration_ms is not None


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "post", "OPTIONS", ""])
def test_other_method_is_refused_first(ports: Ports, runtime: Runtime, method: str) -> None:
    outcome = handle_dispatch(runtime, make_dispatch(b"", method=method, content_type="x", authorization=None))
    assert refused(ports, outcome).reason is Reason.METHOD_NOT_ALLOWED


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "application/json",
        "application/vnd.safedefer.envelope; charset=utf-8",
        "application/vnd.safedefer.envelope ",
        "Application/vnd.safedefer.envelope",
        "application/octet-stream",
    ],
)
def test_other_content_type_is_refused(ports: Ports, runtime: Runtime, content_type: str | None) -> None:
    outcome = handle_dispatch(runtime, make_dispatch(b"", content_type=content_type, authorization=None))
    assert refused(ports, outcome).reason is Reason.CONTENT_TYPE_WRONG


@pytest.mark.parametrize(
    ("length", "reason"),
    [
        (None, Reason.LENGTH_MISSING),
        ("", Reason.LENGTH_MISSING),
        ("-1", Reason.LENGTH_WRONG),
        ("+5", Reason.LENGTH_WRONG),
        (" 5", Reason.LENGTH_WRONG),
        ("5, 5", Reason.LENGTH_WRONG),
        ("0x10", Reason.LENGTH_WRONG),
        ("1e3", Reason.LENGTH_WRONG),
        ("1_000", Reason.LENGTH_WRONG),
        ("\u0665", Reason.LENGTH_WRONG),
        ("\u00b2", Reason.LENGTH_WRONG),
        ("five", Reason.LENGTH_WRONG),
        (str(MAX_REQUEST_BYTES + 1), Reason.BODY_TOO_LARGE),
        ("0" * 11, Reason.BODY_TOO_LARGE),
        ("9" * 5_000, Reason.BODY_TOO_LARGE),
    ],
)
def test_length_that_is_none_is_refused_before_the_token(
    ports: Ports, runtime: Runtime, length: str | None, reason: Reason
) -> None:
    outcome = handle_dispatch(runtime, make_dispatch(b"", content_length=length, authorization=None))
    assert refused(ports, outcome).reason is reason


def must_not_read(size: int) -> bytes:
    raise AssertionError("the body was read before the token was verified")


@pytest.mark.parametrize("authorization", [None, "", "Bearer bad", "bearer good", "Bearer good "])
def test_body_is_not_read_before_the_token_is_verified(
    ports: Ports, runtime: Runtime, authorization: str | None
) -> None:
    dispatch = make_dispatch(b"", content_length="100", authorization=authorization, read=must_not_read)
    event = refused(ports, handle_dispatch(runtime, dispatch))
    assert event.reason is Reason.TOKEN_SIGNATURE
    # And nothing that came with it is believed.
    assert (event.actor, event.attempt, event.queue) == (None, None, None)


def test_headers_are_believed_only_behind_a_verified_token(ports: Ports, runtime: Runtime) -> None:
    outcome = handle_dispatch(runtime, make_dispatch(b"x" * 200, retry_count="4"))
    event = refused(ports, outcome)
    assert (event.reason, event.attempt) == (Reason.FRAME_MAGIC, 5)


@pytest.mark.parametrize("count", [None, "", "-1", "x", "1" * 10, "\u0665", "1.5", " 1"])
def test_retry_count_that_is_no_number_is_not_recorded(ports: Ports, runtime: Runtime, count: str | None) -> None:
    outcome = handle_dispatch(runtime, make_dispatch(b"x" * 200, retry_count=count))
    assert refused(ports, outcome).attempt is None


def test_body_in_many_pieces_is_read_whole(ports: Ports, runtime: Runtime) -> None:
    data = ports.envelope(runtime, "shop.note", "x")
    pieces = [bytes([byte]) for byte in data]
    dispatch = make_dispatch(data, read=lambda size: pieces.pop(0))
    assert handle_dispatch(runtime, dispatch).reason is Reason.EXECUTED


def test_no_more_is_read_than_was_announced(ports: Ports, runtime: Runtime) -> None:
    data = ports.envelope(runtime, "shop.note", "x")
    asked: list[int] = []
    rest = [data]

    def read(size: int) -> bytes:
        asked.append(size)
        part, rest[0] = rest[0][:size], rest[0][size:]
        return part

    outcome = handle_dispatch(runtime, make_dispatch(data, content_length=str(len(data) - 1), read=read))
    assert refused(ports, outcome).reason is Reason.FRAME_LENGTH
    assert asked == [len(data) - 1]


@pytest.mark.parametrize("error", [None, OSError("reset"), ConnectionResetError("reset")])
def test_body_that_breaks_off_is_the_callers_fault(ports: Ports, runtime: Runtime, error: Exception | None) -> None:
    pieces = [b"SDFR"]

    def read(size: int) -> bytes:
        if pieces:
            return pieces.pop()
        if error is not None:
            raise error
        return b""

    outcome = handle_dispatch(runtime, make_dispatch(b"", content_length="100", read=read))
    event = refused(ports, outcome)
    assert (event.reason, event.severity) == (Reason.LENGTH_WRONG, Severity.NOTICE)


@pytest.mark.parametrize(
    ("changes", "queue", "reason"),
    [
        ({"audience": make_audience(handler="/other/")}, "default", Reason.AUDIENCE_MISMATCH),
        ({"audience": make_audience(environment="staging")}, "default", Reason.AUDIENCE_MISMATCH),
        ({"audience": make_audience(project="other")}, "default", Reason.AUDIENCE_MISMATCH),
        ({"audience": make_audience(location="europe-west3")}, "default", Reason.AUDIENCE_MISMATCH),
        ({"audience": make_audience(queue="billing")}, "default", Reason.QUEUE_MISMATCH),
        ({}, "billing", Reason.QUEUE_MISMATCH),
        ({}, None, Reason.QUEUE_MISMATCH),
        ({}, "", Reason.QUEUE_MISMATCH),
        ({}, "default ", Reason.QUEUE_MISMATCH),
        ({"expires_at": NOW - 31, "not_before": NOW - 90, "issued_at": NOW - 90}, "default", Reason.EXPIRED),
        ({"issued_at": NOW + 31, "not_before": NOW + 31}, "default", Reason.ISSUED_IN_FUTURE),
        ({"expires_at": NOW + 40 * 86_400}, "default", Reason.LIFETIME_TOO_LONG),
        ({"issued_at": NOW + 5}, "default", Reason.CLAIMS_MALFORMED),
    ],
)
def test_signed_claim_that_is_not_for_here_and_now_is_refused(
    ports: Ports, runtime: Runtime, changes: dict[str, Any], queue: str | None, reason: Reason
) -> None:
    data = ports.envelope(runtime, "shop.note", "x", **changes)
    assert refused(ports, handle_dispatch(runtime, make_dispatch(data, queue=queue))).reason is reason


@pytest.mark.parametrize("codec", [0, 2, 255])
def test_body_in_a_codec_of_another_version_is_not_decoded_as_ours(ports: Ports, runtime: Runtime, codec: int) -> None:
    claims = make_claims(function=_ref(runtime))
    data = make_envelope(replace(claims, body=replace(claims.body, codec=codec)))
    event = refused(ports, handle_dispatch(runtime, make_dispatch(data)))
    assert (event.reason, event.outcome) == (Reason.TYPE_UNSUPPORTED, "retry")


def _ref(runtime: Runtime) -> Any:
    return next(function for function in runtime.registry if function.name == "shop.note").ref


def test_stored_body_larger_than_the_cap_is_not_fetched(ports: Ports) -> None:
    runtime = ports.runtime(body_cap_bytes=1_000)
    claims = make_claims(function=_ref(runtime))
    body = replace(claims.body, size_bytes=1_001, storage=Storage.OVERFLOW)
    data = make_envelope(replace(claims, body=body), b"")
    assert refused(ports, handle_dispatch(runtime, make_dispatch(data))).reason is Reason.BODY_LIMITS


@pytest.mark.parametrize(
    "error",
    [
        ValueError("canary"),
        SystemExit(3),
        asyncio.CancelledError(),
        BaseExceptionGroup("canary", [asyncio.CancelledError()]),
        MemoryError(),
        StopIteration("canary"),
        RecursionError(),
        # A function may raise what looks like an answer of ours.
        StoreUnavailableError("canary"),
        LeaseLostError("canary"),
        TaskExistsError("canary"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_the_function_raises_is_a_failure_of_the_function(
    ports: Ports, runtime: Runtime, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    ERRORS["it"] = error
    data = ports.envelope(runtime, "shop.raises", "it")
    with caplog.at_level(logging.DEBUG):
        outcome = handle_dispatch(runtime, make_dispatch(data))
    assert outcome == Outcome(Verdict.FAILED, Reason.FUNCTION_FAILED)
    assert ports.audit.events[-1].detail == type(error).__name__
    (told,) = ports.failures.told
    assert isinstance(told, FunctionFailedError)
    assert told.__cause__ is error
    assert "canary" not in caplog.text + repr(ports.audit.events)
    # The lease was given back, so that the next dispatch need not wait.
    assert handle_dispatch(runtime, make_dispatch(data)).reason is Reason.FUNCTION_FAILED
    assert ran == ["it", "it"]


def test_interrupt_ends_the_process_and_is_no_outcome(ports: Ports, runtime: Runtime) -> None:
    ERRORS["it"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        handle_dispatch(runtime, make_dispatch(ports.envelope(runtime, "shop.raises", "it")))


def test_reporter_that_fails_changes_nothing(ports: Ports, runtime: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    ERRORS["it"] = ValueError("canary")
    ports.failures.error = RuntimeError("canary of the reporter")
    data = ports.envelope(runtime, "shop.raises", "it")
    assert handle_dispatch(runtime, make_dispatch(data)).reason is Reason.FUNCTION_FAILED
    assert "reporting a failed task failed: RuntimeError" in caplog.text
    assert "canary" not in caplog.text


def test_function_sees_which_task_it_is_and_nobody_else_does(ports: Ports, runtime: Runtime) -> None:
    seen: list[object] = []
    ports.rows.rows[1] = Row(1)

    class Looking:
        def call(self, function: Any, args: Any, kwargs: Any) -> None:
            seen.append(executing.get())

    looking = ports.runtime(invoker=Looking())
    handle_dispatch(looking, make_dispatch(ports.envelope(looking, "shop.note", "x")))
    assert seen[0] is not None
    assert executing.get() is None


@pytest.mark.parametrize(
    ("missing", "verdict", "severity"),
    [
        ("drop", Verdict.DROP, Severity.NOTICE),
        ("retry", Verdict.RETRY, Severity.NOTICE),
        ("fail", Verdict.DEAD, Severity.WARNING),
    ],
)
def test_row_that_is_gone_is_the_functions_own_policy(
    ports: Ports, runtime: Runtime, missing: Any, verdict: Verdict, severity: Severity
) -> None:
    function = next(function for function in runtime.registry if function.name == "shop.greet")
    function.missing = missing
    data = ports.envelope(runtime, "shop.greet", Row(7))
    outcome = handle_dispatch(runtime, make_dispatch(data))
    assert outcome == Outcome(verdict, Reason.REFERENCE_MISSING)
    event = refused(ports, outcome)
    assert (event.severity, event.detail) == (severity, missing)
    ports.rows.rows[7] = Row(7)
    again = handle_dispatch(runtime, make_dispatch(data))
    # What was dropped or given up stays so, whatever appears under that key later.
    ends = {"drop": Reason.ALREADY_EXECUTED, "fail": Reason.ALREADY_DEAD, "retry": Reason.EXECUTED}
    assert again.reason is ends[missing]
    assert ran == ([7] if missing == "retry" else [])


class NoRows(Rows):
    """Rows whose database fails."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def resolve(self, references: Any) -> dict[ModelReference, object]:
        """Fail."""
        raise self.error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UnavailableError("down"), Reason.REFERENCES_UNAVAILABLE),
        (ZeroDivisionError("canary"), Reason.INTERNAL_ERROR),
        (KeyError("canary"), Reason.INTERNAL_ERROR),
    ],
)
def test_rows_that_cannot_be_loaded_mean_later(
    ports: Ports, error: Exception, reason: Reason, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = ports.runtime(resolver=NoRows(error))
    data = ports.envelope(runtime, "shop.greet", Row(7))
    outcome = handle_dispatch(runtime, make_dispatch(data))
    assert outcome == Outcome(Verdict.UNAVAILABLE, reason)
    assert refused(ports, outcome).detail == type(error).__name__
    assert "canary" not in caplog.text
    # Nothing is held meanwhile.
    ports.rows.rows[7] = Row(7)
    assert handle_dispatch(ports.runtime(), make_dispatch(data)).reason is Reason.EXECUTED


def test_call_that_is_early_is_reissued_for_its_moment(ports: Ports, runtime: Runtime) -> None:
    data = ports.envelope(runtime, "shop.note", "x", not_before=NOW + 600, expires_at=NOW + 3_600)
    outcome = handle_dispatch(runtime, make_dispatch(data))
    assert outcome == Outcome(Verdict.REISSUE, Reason.NOT_YET_VALID)
    refused(ports, outcome)
    (task,) = ports.sender.sent
    assert (task.envelope, task.schedule_time, task.queue) == (data, NOW + 600, "default")
    assert task.deadline.total_seconds() == make_claims().deadline_seconds
    # A duplicate of the dispatch makes the same task and not a second one.
    handle_dispatch(runtime, make_dispatch(data, task_name="another"))
    assert ports.sender.sent[1].name == task.name
    # That task itself, should it come early, is not given up for one of its own name.
    ports.audit.events.clear()
    outcome = handle_dispatch(runtime, make_dispatch(data, task_name=task.name))
    assert outcome == Outcome(Verdict.RETRY, Reason.NOT_YET_VALID)
    assert len(ports.sender.sent) == 2
    ports.clock.now = NOW + 570
    assert handle_dispatch(runtime, make_dispatch(data, task_name=task.name)).reason is Reason.EXECUTED


@pytest.mark.parametrize(
    ("error", "reason"),
    [(QueueUnavailableError("down"), Reason.REISSUE_FAILED), (ValueError("canary"), Reason.INTERNAL_ERROR)],
)
def test_call_that_cannot_be_reissued_is_never_a_success(
    ports: Ports, runtime: Runtime, error: Exception, reason: Reason, caplog: pytest.LogCaptureFixture
) -> None:
    ports.sender.answers = [error]
    data = ports.envelope(runtime, "shop.note", "x", not_before=NOW + 600, expires_at=NOW + 3_600)
    outcome = handle_dispatch(runtime, make_dispatch(data))
    assert outcome == Outcome(Verdict.UNAVAILABLE, reason)
    assert refused(ports, outcome).severity in (Severity.WARNING, Severity.CRITICAL)
    assert "canary" not in caplog.text


def test_call_that_another_worker_executes_is_reissued_for_the_end_of_its_lease(ports: Ports, runtime: Runtime) -> None:
    data = ports.envelope(runtime, "shop.note", "x")
    claims = make_claims(task_id=TaskId(b"t" * 16))
    lease = runtime.ledger.claim(claims, runtime.ledger.look(claims))
    outcome = handle_dispatch(runtime, make_dispatch(data))
    assert outcome == Outcome(Verdict.REISSUE, Reason.LEASE_HELD)
    refused(ports, outcome)
    (task,) = ports.sender.sent
    assert task.schedule_time is not None
    entry: Any = lease
    assert task.schedule_time > entry.entry.lease_until > NOW + claims.deadline_seconds


def test_call_that_cannot_be_recorded_does_not_run(
    ports: Ports, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    ports.audit.fails_from = 0
    data = ports.envelope(runtime, "shop.note", "x")
    outcome = handle_dispatch(runtime, make_dispatch(data))
    assert outcome == Outcome(Verdict.UNAVAILABLE, Reason.INTERNAL_ERROR)
    assert ran == []
    assert "an audit event could not be recorded: ConnectionError" in caplog.text
    assert "canary" not in caplog.text
    ports.audit.fails_from = None
    assert handle_dispatch(runtime, make_dispatch(data)).reason is Reason.EXECUTED


@pytest.mark.parametrize("name", ["shop.note", "shop.raises"])
def test_end_of_a_call_that_ran_stands_without_its_record(ports: Ports, runtime: Runtime, name: str) -> None:
    ERRORS["x"] = ValueError()
    ports.audit.fails_from = 1
    outcome = handle_dispatch(runtime, make_dispatch(ports.envelope(runtime, name, "x")))
    assert outcome.reason is (Reason.EXECUTED if name == "shop.note" else Reason.FUNCTION_FAILED)


@pytest.mark.parametrize("data", [b"junk", b"x" * 200])
def test_refusal_without_a_record_is_an_outage(ports: Ports, runtime: Runtime, data: bytes) -> None:
    ports.audit.fails_from = 0
    outcome = handle_dispatch(runtime, make_dispatch(data))
    assert outcome == Outcome(Verdict.UNAVAILABLE, Reason.INTERNAL_ERROR)


def test_verifier_that_fails_in_an_unforeseen_way_verifies_nothing(ports: Ports) -> None:
    class Broken:
        def verify(self, authorization: str | None) -> Any:
            raise ZeroDivisionError

    runtime = ports.runtime(tokens=Broken())
    outcome = handle_dispatch(runtime, make_dispatch(ports.envelope(runtime, "shop.note", "x")))
    assert outcome == Outcome(Verdict.UNAVAILABLE, Reason.INTERNAL_ERROR)
    assert refused(ports, outcome).severity is Severity.CRITICAL


def test_dispatch_shows_nothing_of_itself_in_a_repr() -> None:
    assert "canary" not in repr(make_dispatch(b"", authorization="Bearer canary"))
