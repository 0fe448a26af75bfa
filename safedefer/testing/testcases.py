"""For unittest and Django's TestCase, with the names that djangae's tests use."""

from unittest import TestCase

from safedefer.testing.capture import CapturedTasks, capture_tasks
from safedefer.testing.runs import TaskFailedBehaviour, TaskRun


class TaskTestMixin(TestCase):
    """Captures what each test defers: `class ShopTests(TaskTestMixin, django.test.TestCase)`.

    What `setUpTestData` defers is kept out of the tests, and goes nowhere.

    Attributes:
        deferred_tasks: The calls and queues of the running test.
    """

    deferred_tasks: CapturedTasks

    @classmethod
    def setUpClass(cls) -> None:
        """Keep what the class's own data defers from being sent."""
        cls.enterClassContext(capture_tasks())
        super().setUpClass()

    def setUp(self) -> None:
        """Begin with empty queues."""
        self.deferred_tasks = self.enterContext(capture_tasks())
        super().setUp()

    def process_task_queues(
        self,
        queue: str | None = None,
        failure_behaviour: TaskFailedBehaviour = TaskFailedBehaviour.RAISE_ERROR,
        *,
        only_due: bool = False,
    ) -> list[TaskRun]:
        """Run the tasks that wait, and those that they defer: see `CapturedTasks.process_task_queues`.

        Raises:
            TaskFailedError: A task failed, and `failure_behaviour` is RAISE_ERROR.
            EndlessTasksError: There was no end.
        """
        return self.deferred_tasks.process_task_queues(queue, failure_behaviour, only_due=only_due)

    def assertNumTasksEquals(self, number: int, queue: str | None = None) -> None:  # noqa: N802  # As in unittest.
        """Fail unless so many tasks wait in a queue, or in all."""
        self.deferred_tasks.assert_num_tasks(number, queue)

    def flush_task_queues(self) -> None:
        """Forget all tasks, and their names."""
        self.deferred_tasks.clear()
