"""For the tests of applications that use safedefer: deferred calls are captured, looked at, and run.

Importable before Django is set up. With pytest the fixtures of `safedefer.testing.pytest_plugin` are there by
themselves.
"""

from safedefer.testing.capture import CapturedCall, CapturedTasks, capture_tasks
from safedefer.testing.fakes import ManualClock
from safedefer.testing.runs import EndlessTasksError, TaskFailedBehaviour, TaskFailedError, TaskRun
from safedefer.testing.testcases import TaskTestMixin

__all__ = [
    "CapturedCall",
    "CapturedTasks",
    "EndlessTasksError",
    "ManualClock",
    "TaskFailedBehaviour",
    "TaskFailedError",
    "TaskRun",
    "TaskTestMixin",
    "capture_tasks",
]
