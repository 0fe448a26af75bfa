"""Deferred function calls for Django on Google Cloud Tasks: registered, signed, verified and audited."""

from safedefer.api import DeferOptions, Deferrable, DeferredTask, Serializable, adefer, defer, deferrable
from safedefer.errors import SafeDeferError

__all__ = [
    "DeferOptions",
    "Deferrable",
    "DeferredTask",
    "SafeDeferError",
    "Serializable",
    "adefer",
    "defer",
    "deferrable",
]
