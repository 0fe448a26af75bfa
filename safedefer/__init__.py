"""Deferred function calls for Django on Google Cloud Tasks: registered, signed, verified and audited."""

from safedefer.api import (
    Call,
    DeferOptions,
    Deferrable,
    DeferredTask,
    Serializable,
    adefer,
    adefer_many,
    defer,
    defer_many,
    deferrable,
)
from safedefer.core.control import Drop, Retry
from safedefer.core.retries import RetryOptions
from safedefer.errors import PartlyDeferredError, SafeDeferError
from safedefer.flow.current import CurrentTask, current_task

__all__ = [
    "Call",
    "CurrentTask",
    "DeferOptions",
    "Deferrable",
    "DeferredTask",
    "Drop",
    "PartlyDeferredError",
    "Retry",
    "RetryOptions",
    "SafeDeferError",
    "Serializable",
    "adefer",
    "adefer_many",
    "current_task",
    "defer",
    "defer_many",
    "deferrable",
]
