"""Questions about the task that is being executed, under the names of `djangae.environment`.

They rest on the verified task and not on request headers; `safedefer.current_task` tells more.
"""

from safedefer.flow.current import current_task

__all__ = ["is_in_task", "task_execution_count", "task_name", "task_queue_name", "task_retry_count"]


def is_in_task() -> bool:
    """Whether a deferred function is being executed here."""
    return current_task() is not None


def task_name() -> str | None:
    """Name of the Cloud Tasks task; None outside of one."""
    task = current_task()
    return None if task is None else task.name


def task_queue_name() -> str | None:
    """Id of its queue; None outside of one."""
    task = current_task()
    return None if task is None else task.queue


def task_retry_count() -> int | None:
    """How often the task was dispatched and failed before; None outside of one."""
    task = current_task()
    return None if task is None else task.retry_count


def task_execution_count() -> int | None:
    """How often a handler has answered the task before, 5xx aside; None outside of one."""
    task = current_task()
    return None if task is None else task.execution_count
