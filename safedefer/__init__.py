"""Deferred function calls for Django on Google Cloud Tasks: registered, signed, verified and audited."""

from safedefer.api import DeferOptions, Deferrable, DeferredTask, Serializable, adefer, defer, deferrable
from safedefer.core.control import Drop, Retry
from safedefer.core.retries import RetryOptions
from safedefer.errors import SafeDeferError
from safedefer.flow.current import CurrentTask, current_task

__all__ = [
    "CurrentTask",
    "DeferOptions",
    "Deferrable",
    "DeferredTask",
    "Drop",
    "Retry",
    "RetryOptions",
    "SafeDeferError",
    "Serializable",
    "adefer",
    "current_task",
    "defer",
    "deferrable",
]
