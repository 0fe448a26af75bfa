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
from safedefer.api_iteration import (
    BoundQuerySet,
    DeferrableQuerySet,
    Iteration,
    IterationOptions,
    defer_iteration_with_finalize,
    deferrable_queryset,
)
from safedefer.core.control import Drop, Retry
from safedefer.core.retries import RetryOptions
from safedefer.errors import PartlyDeferredError, SafeDeferError
from safedefer.flow.current import CurrentTask, current_task, get_deferred_shard_index

__all__ = [
    "BoundQuerySet",
    "Call",
    "CurrentTask",
    "DeferOptions",
    "Deferrable",
    "DeferrableQuerySet",
    "DeferredTask",
    "Drop",
    "Iteration",
    "IterationOptions",
    "PartlyDeferredError",
    "Retry",
    "RetryOptions",
    "SafeDeferError",
    "Serializable",
    "adefer",
    "adefer_many",
    "current_task",
    "defer",
    "defer_iteration_with_finalize",
    "defer_many",
    "deferrable",
    "deferrable_queryset",
    "get_deferred_shard_index",
]
