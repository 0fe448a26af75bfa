"""Audit events: one record per security decision, made of names, ids and reasons; no argument, body, token or key."""

from dataclasses import dataclass
from enum import StrEnum
from typing import final

from safedefer.errors import Reason


@final
class Action(StrEnum):
    """What was decided on."""

    DEFER = "defer"
    DISPATCH = "dispatch"
    REDRIVE = "redrive"


@final
class Severity(StrEnum):
    """How soon somebody should look."""

    INFO = "info"
    NOTICE = "notice"
    WARNING = "warning"
    CRITICAL = "critical"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One decision. A field is None where it was not known, or not verified, when the decision was taken.

    Attributes:
        action: What was decided on.
        accepted: Whether it was allowed.
        reason: Why.
        severity: How soon somebody should look.
        detail: A bounded text of ours, never of the input.
        actor: The e-mail address of the verified identity token.
        function: Function name of the verified claims.
        function_version: Its version.
        task_id: Task id of the verified claims, in hex.
        queue: Queue of the verified claims.
        key: The operator's name of the key that vouched.
        body_size_bytes: Size that the claims give the body.
        attempt: Which dispatch of the task this is, from 1.
        outcome: What becomes of the task.
        duration_ms: Time from the start of the dispatch.
    """

    action: Action
    accepted: bool
    reason: Reason
    severity: Severity
    detail: str = ""
    actor: str | None = None
    function: str | None = None
    function_version: int | None = None
    task_id: str | None = None
    queue: str | None = None
    key: str | None = None
    body_size_bytes: int | None = None
    attempt: int | None = None
    outcome: str | None = None
    duration_ms: float | None = None
