"""The audit log: one line for each event, that nobody can forge and nobody can flood."""

import json
import logging
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedefer.core.audit import Action, AuditEvent, Severity
from safedefer.django.audit import JsonFormatter, LoggingAudit, _plain
from safedefer.django.signals import audit_event_recorded
from safedefer.errors import Reason
from tests.support.builders import ManualClock

REFUSED = AuditEvent(
    action=Action.DISPATCH, accepted=False, reason=Reason.TOKEN_MISSING, severity=Severity.NOTICE, outcome="x"
)
RAN = replace(REFUSED, accepted=True, reason=Reason.EXECUTED, severity=Severity.INFO, actor="a@b")
HOSTILE = [
    "two words",
    "x\nsafedefer action=dispatch accepted=True",
    "x\r\n",
    "x\tx",
    "x\x00",
    "x\x1b[2J",
    "x\u2028y",
    "x\u202ey",
    "x accepted=True",
    'x"y',
    '"',
    "\\",
    "a=b",
    "x\u00a0y",
    "\u3000",
]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "safedefer.audit")
    return caplog


@pytest.fixture
def heard() -> Iterator[list[AuditEvent]]:
    """Events that the signal brought."""
    found: list[AuditEvent] = []

    def hear(event: AuditEvent, **_: Any) -> None:
        found.append(event)

    audit_event_recorded.connect(hear)
    yield found
    audit_event_recorded.disconnect(hear)


def fields_of(line: str) -> dict[str, str]:
    """Read a line as a careful reader would: a value is a JSON text, or has no space in it."""
    found: dict[str, str] = {}
    assert line.startswith("safedefer ")
    rest = line.removeprefix("safedefer ")
    while rest:
        name, _, rest = rest.partition("=")
        if rest.startswith('"'):
            value, end = json.JSONDecoder().raw_decode(rest)
            rest = rest[end:].removeprefix(" ")
        else:
            value, _, rest = rest.partition(" ")
        assert name not in found
        found[name] = value
    return found


def test_event_is_one_line_of_what_is_known(lines: pytest.LogCaptureFixture) -> None:
    LoggingAudit().emit(RAN)
    (record,) = lines.records
    assert record.getMessage() == (
        "safedefer action=dispatch accepted=True reason=executed severity=info actor=a@b outcome=x"
    )
    known: Any = record
    assert known.audit["actor"] == "a@b"
    assert "task_id" not in known.audit


@pytest.mark.parametrize(
    ("severity", "level"),
    [
        (Severity.INFO, logging.INFO),
        (Severity.NOTICE, logging.INFO),
        (Severity.WARNING, logging.WARNING),
        (Severity.CRITICAL, logging.CRITICAL),
    ],
)
def test_severity_is_the_level(lines: pytest.LogCaptureFixture, severity: Severity, level: int) -> None:
    LoggingAudit().emit(replace(RAN, severity=severity))
    assert [record.levelno for record in lines.records] == [level]


TEXTS = ["detail", "actor", "function", "task_id", "queue", "key", "outcome"]


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_no_value_forges_a_line_or_a_field(lines: pytest.LogCaptureFixture, name: str, text: str) -> None:
    changes: Any = {name: text}
    LoggingAudit().emit(replace(RAN, **changes))
    line = lines.records[0].getMessage()
    assert line.isprintable()
    found = fields_of(line)
    assert found[name] == text
    assert found.keys() == {"action", "accepted", "reason", "severity", "actor", "outcome", name}
    assert found["accepted"] == "True"


def test_every_text_of_an_event_is_among_those() -> None:
    texts = {field.name for field in fields(AuditEvent) if field.type in (str, str | None, "str", "str | None")}
    assert texts == set(TEXTS)


@given(st.text())
def test_any_text_is_read_back_and_stays_on_its_line(text: str) -> None:
    shown = _plain(text)
    assert shown.isprintable()
    if shown != text:
        assert json.loads(shown) == text
    else:
        assert not set(text) & set(' "=\\')


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_json_formatter_writes_one_object_a_line(lines: pytest.LogCaptureFixture, text: str) -> None:
    LoggingAudit().emit(replace(RAN, detail=text, duration_ms=1.5))
    line = JsonFormatter().format(lines.records[0])
    assert "\n" not in line
    assert line.isascii()
    entry = json.loads(line)
    assert entry.keys() == {"severity", "message", "time", "audit"}
    assert entry["severity"] == "INFO"
    assert entry["audit"]["detail"] == text
    assert entry["audit"]["duration_ms"] == 1.5
    assert entry["time"].endswith("Z")


def test_json_formatter_takes_records_of_others_too() -> None:
    record = logging.LogRecord("other", logging.WARNING, "", 1, "a %s\nb", ("word",), None)
    entry = json.loads(JsonFormatter().format(record))
    assert (entry["message"], entry["severity"], entry["audit"]) == ("a word\nb", "WARNING", None)


def test_strangers_fill_no_more_than_sixty_lines_a_minute(
    lines: pytest.LogCaptureFixture, heard: list[AuditEvent]
) -> None:
    clock = ManualClock()
    audit = LoggingAudit(clock.time)
    for _ in range(1_000):
        audit.emit(REFUSED)
    assert len(lines.records) == len(heard) == 60
    clock.now += 59
    audit.emit(REFUSED)
    assert len(lines.records) == 60
    clock.now += 1
    audit.emit(REFUSED)
    assert len(lines.records) == 61
    assert "left_out_before=941" in lines.records[-1].getMessage()
    audit.emit(REFUSED)
    assert "left_out_before" not in lines.records[-1].getMessage()


@pytest.mark.parametrize(
    "event",
    [
        RAN,
        replace(REFUSED, actor="tasks@acme.iam.gserviceaccount.com", severity=Severity.CRITICAL),
        replace(RAN, actor=None, action=Action.DEFER, reason=Reason.DEFERRED),
    ],
)
def test_flood_of_strangers_hides_nothing_of_our_own(lines: pytest.LogCaptureFixture, event: AuditEvent) -> None:
    audit = LoggingAudit(ManualClock().time)
    for _ in range(200):
        audit.emit(REFUSED)
    before = len(lines.records)
    for _ in range(200):
        audit.emit(event)
    assert len(lines.records) - before == 200
    assert "left_out_before" not in lines.records[-1].getMessage()


def test_receiver_that_fails_keeps_nobody_else_from_hearing(
    lines: pytest.LogCaptureFixture, heard: list[AuditEvent]
) -> None:
    def fail(**_: Any) -> None:
        raise RuntimeError

    audit_event_recorded.connect(fail)
    try:
        LoggingAudit().emit(RAN)
    finally:
        audit_event_recorded.disconnect(fail)
    assert heard == [RAN]


def test_flood_of_strangers_hides_no_outage(lines: pytest.LogCaptureFixture) -> None:
    audit = LoggingAudit(ManualClock().time)
    for _ in range(200):
        audit.emit(REFUSED)
    audit.emit(replace(REFUSED, reason=Reason.TOKEN_KEYS_UNAVAILABLE, severity=Severity.WARNING))
    assert "reason=token_keys_unavailable" in lines.records[-1].getMessage()
