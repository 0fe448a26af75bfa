"""Django signals for what an application may want to react to."""

from django.dispatch import Signal

audit_event_recorded = Signal()
"""Sent for every audit event, with `event`, a `safedefer.core.audit.AuditEvent`. Receivers' errors are logged."""

task_failed = Signal()
"""Sent when a deferred function raised, with `function`, `task_id` and `error`, whose `__cause__` is the original.

The place to hand exceptions to an error reporter: safedefer itself logs where an error came from, and neither its
message nor any value.
"""
