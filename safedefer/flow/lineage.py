"""Which task is being executed here, so that what it defers can say where it comes from."""

from contextvars import ContextVar
from typing import Final

from safedefer.core.claims import Claims, Lineage
from safedefer.core.names import TaskId

executing: Final[ContextVar[Claims | None]] = ContextVar("safedefer_executing", default=None)
"""The claims of the task that this thread or coroutine executes; None outside of one."""


def lineage_of(task_id: TaskId) -> Lineage:
    """The lineage of a new task: its own root, or a child of the task that defers it."""
    parent = executing.get()
    if parent is None:
        return Lineage(root=task_id, parent=None, generation=0)
    return Lineage(root=parent.lineage.root, parent=parent.task_id, generation=parent.lineage.generation + 1)
