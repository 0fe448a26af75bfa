"""Django signals for what an application may want to react to."""

from typing import Final

from django.dispatch import Signal

audit_event_recorded: Final[Signal] = Signal()
"""Sent for every audit event, with `event`, a `safedefer.core.audit.AuditEvent`. Receivers' errors are logged."""

task_failed: Final[Signal] = Signal()
"""Sent when a deferred function raised, with `function`, `task_id` and `error`, whose `__cause__` is the original.

The place to hand exceptions to an error reporter: safedefer itself logs where an error came from, and neither its
message nor any value.
"""
