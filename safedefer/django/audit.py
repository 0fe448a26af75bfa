"""Audit events -> the `safedefer.audit` logger and a Django signal."""

import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from typing import Final, final

from safedefer.core.audit import AuditEvent, Severity
from safedefer.django.signals import audit_event_recorded
from safedefer.errors import Reason

logger: Final = logging.getLogger("safedefer.audit")

_LEVELS: Final = {
    Severity.INFO: logging.INFO,
    Severity.NOTICE: logging.INFO,
    Severity.WARNING: logging.WARNING,
    Severity.CRITICAL: logging.CRITICAL,
}
_FIELDS: Final = tuple(field.name for field in fields(AuditEvent))
_ANONYMOUS_PER_MINUTE: Final = 60
_MINUTE: Final = 60.0
_SPECIAL: Final = frozenset(' "=\\')


@final
class LoggingAudit:
    """AuditSink over the standard logging.

    The record's message is one line of `name=value`; its attribute `audit` is a dict, for formatters that write
    structured logs. Refusals of callers without a valid token are limited to 60 a minute and reason, so that nobody
    on the internet can fill the log, or hide an outage in it; the next one that is logged says how many were left out.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._minute_ends = float("-inf")
        self._anonymous: Counter[Reason] = Counter()
        self._left_out = 0

    def emit(self, event: AuditEvent) -> None:
        """Record one event."""
        if event.actor is None and not event.accepted and self._is_flood(event.reason):
            return
        level = _LEVELS[event.severity]
        if logger.isEnabledFor(level):
            self._log(event, level)
        audit_event_recorded.send_robust(sender=AuditEvent, event=event)

    def _log(self, event: AuditEvent, level: int) -> None:
        known = {name: getattr(event, name) for name in _FIELDS if getattr(event, name) not in (None, "")}
        if self._left_out and event.actor is None and not event.accepted:
            known["left_out_before"] = self._left_out
            self._left_out = 0
        line = " ".join(f"{name}={_plain(value)}" for name, value in known.items())
        logger.log(level, "safedefer %s", line, extra={"audit": known})

    def _is_flood(self, reason: Reason) -> bool:
        now = self._now()
        if now >= self._minute_ends:
            self._minute_ends = now + _MINUTE
            self._anonymous.clear()
        self._anonymous[reason] += 1
        if self._anonymous[reason] > _ANONYMOUS_PER_MINUTE:
            self._left_out += 1
            return True
        return False


@final
class JsonFormatter(logging.Formatter):
    """Writes audit records as one JSON object a line, in the form that Google Cloud Logging reads."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON with `severity`, `message`, `time` and `audit`."""
        audit: object = getattr(record, "audit", None)
        entry = {
            "severity": record.levelname,
            "message": record.getMessage(),
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "audit": audit,
        }
        return json.dumps(entry, default=str)


def _plain(value: object) -> str:
    """A value without control characters, spaces or quotes, so that it cannot forge a line or a field."""
    text = str(value)
    return text if text.isprintable() and not _SPECIAL & set(text) else json.dumps(text)
