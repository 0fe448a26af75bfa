"""Captures deferred calls in a test, to be looked at, and to be run through real signatures and real checks."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, final

from safedefer.api import Deferrable
from safedefer.core.claims import Claims, Storage, TaskType
from safedefer.core.codec import Arguments, DecodedArguments, decode_arguments
from safedefer.core.envelope import parse_envelope
from safedefer.core.iteration.plan import parse_plan
from safedefer.core.ports import OutgoingTask
from safedefer.core.signing import VerifiedBody, verify_body, verify_envelope
from safedefer.flow.calling import load_arguments
from safedefer.flow.overflow import read_overflow
from safedefer.flow.runtime import Runtime, installed
from safedefer.testing.fakes import ManualClock
from safedefer.testing.processing import process_tasks, read_claims
from safedefer.testing.runs import TaskFailedBehaviour, TaskRun
from safedefer.testing.setup import make_ports

_RAISE = TaskFailedBehaviour.RAISE_ERROR
_MAX_DISPATCHES = 1_000
_OF_ITERATIONS = frozenset({TaskType.SLICE, TaskType.FINALIZE})


@final
class CapturedCall:
    """A call that was deferred, as its verified envelope says. An iteration is one call, of its callback.

    Attributes:
        function: Function name.
        queue: Queue id.
        task_id: Identity of the call, in hex; that of the handle which `defer` returned.
        task_name: Name of its task.
        name: The name that the caller asked for; None where the task is named from its id.
        schedule_time: When it is to run; None means at once.
        claims: All that the signature speaks for.
    """

    __slots__ = ("_body", "_runtime", "claims", "function", "name", "queue", "schedule_time", "task_id", "task_name")

    def __init__(self, runtime: Runtime, body: VerifiedBody, task: OutgoingTask) -> None:
        claims = body.claims
        self._runtime = runtime
        self._body = body
        self.claims: Claims = claims
        self.function: str = claims.function.name
        self.queue: str = task.queue
        self.task_id: str = claims.task_id.hex()
        self.task_name: str = task.name
        self.name: str | None = claims.delivery.name
        self.schedule_time: datetime | None = (
            None if task.schedule_time is None else datetime.fromtimestamp(task.schedule_time, UTC)
        )

    @property
    def args(self) -> tuple[object, ...]:
        """The positional arguments, as the function gets them: decoded, model instances loaded anew.

        Those of an iteration are behind the row.

        Raises:
            ReferenceMissingError: A row is gone.
        """
        return self._arguments().args

    @property
    def kwargs(self) -> Mapping[str, object]:
        """The keyword arguments, likewise.

        Raises:
            ReferenceMissingError: A row is gone.
        """
        return self._arguments().kwargs

    def is_call_of(self, function: Deferrable[Any]) -> bool:
        """Whether this is a call of a deferrable, whatever its options and whichever of its names it was made under."""
        return (
            self.function in function.registered.names and self.claims.function.version == function.registered.version
        )

    def _arguments(self) -> Arguments:
        runtime, ref = self._runtime, self.claims.function
        function = runtime.registry.find(ref.name, ref.version)
        if self.claims.type is TaskType.PLAN:
            behind_the_row = function.parameters.without_first()
            decoded = DecodedArguments(behind_the_row, parse_plan(self._body.data).arguments, runtime.resolver)
        else:
            decoded = decode_arguments(function.parameters, self._body, runtime.resolver)
        return load_arguments(runtime, function, decoded)

    def __repr__(self) -> str:
        return f"<CapturedCall of {self.function} in queue {self.queue}>"


@final
class CapturedTasks:
    """The queues of a test, and everything that was deferred to them. `capture_tasks` makes it.

    Attributes:
        clock: The clock of the tasks. It stands still unless it is moved, or tasks are run that wait for a later time.
    """

    def __init__(self, clock: ManualClock | None = None) -> None:
        self.clock: ManualClock = ManualClock() if clock is None else clock
        self._ports = make_ports(self.clock)
        self._ports.sender.created = self._capture
        self._calls: dict[str, CapturedCall] = {}

    @property
    def runtime(self) -> Runtime:
        """The runtime that calls are deferred and run with, for `safedefer.flow.runtime.installed`."""
        return self._ports.runtime

    @property
    def calls(self) -> tuple[CapturedCall, ...]:
        """Every call that was deferred since the start or `clear`, whether it was run or not, in their order.

        What waits for the end of an atomic block is not among them, nor is what was rolled back.
        """
        self._ports.commits.settle()
        return tuple(self._calls.values())

    def calls_of(self, function: Deferrable[Any]) -> tuple[CapturedCall, ...]:
        """Those of one deferrable."""
        return tuple(call for call in self.calls if call.is_call_of(function))

    def count_tasks(self, queue: str | None = None) -> int:
        """How many tasks wait in a queue, or in all."""
        self._ports.commits.settle()
        return len(self._ports.sender.waiting(queue))

    def assert_num_tasks(self, number: int, queue: str | None = None) -> None:
        """Fail unless so many tasks wait in a queue, or in all.

        Raises:
            AssertionError: There are others; the message names them.
        """
        found = self.count_tasks(queue)
        if found != number:
            where = "all queues" if queue is None else f"queue {queue}"
            names = [self._function_of(task.task) for task in self._ports.sender.waiting(queue)]
            listed = f": {', '.join(names)}" if names else ""
            raise AssertionError(f"expected {number} tasks in {where}, found {found}{listed}")

    def process_task_queues(
        self,
        queue: str | None = None,
        failure_behaviour: TaskFailedBehaviour = _RAISE,
        *,
        only_due: bool = False,
        max_dispatches: int = _MAX_DISPATCHES,
    ) -> list[TaskRun]:
        """Run the tasks that wait, those that they defer, and so on, in the order in which they are due.

        Each goes through the handler's own checks. The clock moves on to the time of a task that is not due yet.

        Args:
            queue: Only this one; by default all.
            failure_behaviour: What is done about a task that fails.
            only_due: Leave the clock where it is, and what is not due yet in its queue.
            max_dispatches: More than this are taken for an endless loop.
        Returns:
            What became of each dispatch.
        Raises:
            TaskFailedError: A task failed, and `failure_behaviour` is RAISE_ERROR. What its function raised is
                `__cause__`.
            EndlessTasksError: There was no end.
        """
        with installed(self.runtime):
            return process_tasks(
                self._ports, queue, failure_behaviour, only_due=only_due, max_dispatches=max_dispatches
            )

    async def aprocess_task_queues(
        self,
        queue: str | None = None,
        failure_behaviour: TaskFailedBehaviour = _RAISE,
        *,
        only_due: bool = False,
        max_dispatches: int = _MAX_DISPATCHES,
    ) -> list[TaskRun]:
        """`process_task_queues` for a coroutine, in the thread that has its database connections.

        Raises:
            TaskFailedError: A task failed, and `failure_behaviour` is RAISE_ERROR.
            EndlessTasksError: There was no end.
        """
        return await self.runtime.invoker.in_thread(
            lambda: self.process_task_queues(queue, failure_behaviour, only_due=only_due, max_dispatches=max_dispatches)
        )

    def clear(self) -> None:
        """Forget all calls, tasks and task names. What waits for a block that is still open is not forgotten."""
        self._ports.commits.settle()
        self._ports.sender.clear()
        self._calls.clear()

    def _capture(self, task: OutgoingTask) -> None:
        runtime = self.runtime
        envelope = verify_envelope(parse_envelope(task.envelope), runtime.ring, runtime.deployment)
        claims = envelope.claims
        if claims.task_id.hex() in self._calls or claims.type in _OF_ITERATIONS:
            return  # The same call again, for later; or one that nobody has made.
        outside = claims.body.storage is Storage.OVERFLOW
        # Now, since it is removed from the store when the call has run.
        body = verify_body(envelope, read_overflow(runtime.records, claims) if outside else None)
        self._calls[claims.task_id.hex()] = CapturedCall(runtime, body, task)

    def _function_of(self, task: OutgoingTask) -> str:
        return read_claims(self.runtime, task).function.name


@contextmanager
def capture_tasks(clock: ManualClock | None = None) -> Iterator[CapturedTasks]:
    """Keep what is deferred inside the block in memory, to be looked at and run. Nothing is sent anywhere.

    It holds for the whole process, so that two of them must not overlap in threads of one process; inside of another
    one, the inner one gets the calls.

    Args:
        clock: The clock of the tasks; by default one that stands at the present.
    Raises:
        ConfigurationError: safedefer is not installed in the project, or its settings are wrong.
    """
    tasks = CapturedTasks(clock)
    with installed(tasks.runtime):
        yield tasks
