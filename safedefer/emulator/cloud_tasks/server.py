"""The local Cloud Tasks service as one object that starts and stops."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import grpc

from safedefer.emulator.addresses import PortUnavailableError, check_port_is_free, format_address
from safedefer.emulator.clock import Clock
from safedefer.emulator.cloud_tasks.attempts import Attempt
from safedefer.emulator.cloud_tasks.delivery import Delivery, TokenMinter
from safedefer.emulator.cloud_tasks.dispatcher import Dispatcher
from safedefer.emulator.cloud_tasks.engine import Engine
from safedefer.emulator.cloud_tasks.limits import MAX_REQUEST_BYTES
from safedefer.emulator.cloud_tasks.messages import Queue
from safedefer.emulator.cloud_tasks.names import parse_queue_name
from safedefer.emulator.cloud_tasks.operations import Operations
from safedefer.emulator.cloud_tasks.surface import Surface
from safedefer.emulator.faults import Faults

_NAME = "Cloud Tasks"
_API_THREADS = 8
_MAX_ATTEMPTS_IN_FLIGHT = 1_000
"""Over all queues: the default concurrency of one queue, and about what one machine should be asked to bear."""
_GRACE_SECONDS = 1.0
_STOP_SECONDS = 5.0


class CloudTasksServer:
    """Cloud Tasks on one port of this machine. It starts once and stops once."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        queues: Sequence[str],
        clock: Clock,
        minter: TokenMinter,
        task_name_memory: timedelta,
        queue_name_memory: timedelta,
        seed: int = 0,
    ) -> None:
        """Prepare the service; no port is taken before `start`.

        Args:
            host: Where to listen.
            port: Which port; 0 lets the system choose.
            queues: Full names of the queues that exist from the start, with default settings.
            clock: Time for everything but the waits of tests.
            minter: Where the tokens of tasks come from.
            task_name_memory: How long the name of a task that is gone stays taken.
            queue_name_memory: How long the name of a deleted queue stays taken.
            seed: Of the draws of its faults.

        Raises:
            CallError: A queue's name is malformed or given twice.
        """
        self._host = host
        self._port = port
        self._engine = Engine(clock, task_name_memory=task_name_memory, queue_name_memory=queue_name_memory, seed=seed)
        for name in queues:
            self._engine.create_queue(Queue(name=parse_queue_name(name)))
        self._dispatcher = Dispatcher(self._engine, Delivery(clock, minter), max_threads=_MAX_ATTEMPTS_IN_FLIGHT)
        self._surface = Surface(self._engine, Operations(self._engine, clock), clock)
        self._executor: ThreadPoolExecutor | None = None
        self._server: grpc.Server | None = None

    @property
    def port(self) -> int:
        """The port that is listened on; before `start`, the one that was asked for."""
        return self._port

    @property
    def address(self) -> str:
        """Host and port, as CLOUD_TASKS_EMULATOR_HOST carries them."""
        return format_address(self._host, self._port)

    @property
    def faults(self) -> Faults:
        """What goes wrong here, by rate or at the next operation; nothing, unless asked for."""
        return self._engine.faults

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The finished attempts, oldest first; the last ten thousand are kept."""
        return self._engine.attempts

    def environment(self) -> dict[str, str]:
        """Return the variables by which an application finds this server."""
        return {"CLOUD_TASKS_EMULATOR_HOST": self.address}

    def start(self) -> None:
        """Listen, and dispatch.

        Raises:
            PortUnavailableError: The port is taken.
        """
        check_port_is_free(_NAME, self._host, self._port)
        self._executor = ThreadPoolExecutor(max_workers=_API_THREADS, thread_name_prefix="cloud-tasks-api")
        # Without the second option two services could share a port on Linux, each getting half of the calls.
        options = [("grpc.max_receive_message_length", MAX_REQUEST_BYTES), ("grpc.so_reuseport", 0)]
        self._server = grpc.server(self._executor, handlers=[self._surface], options=options)
        try:
            self._port = self._server.add_insecure_port(self.address)
        except RuntimeError as error:
            self._executor.shutdown()
            raise PortUnavailableError(_NAME, self._host, self._port) from error
        self._server.start()
        self._dispatcher.start()

    def stop(self) -> None:
        """Stop listening, cut off the attempts in flight, and wait for the threads, for a few seconds at most."""
        if self._server is None or self._executor is None:
            return
        stopped = self._server.stop(_GRACE_SECONDS)
        self._dispatcher.stop(_STOP_SECONDS)
        stopped.wait(_STOP_SECONDS)
        self._executor.shutdown()
        self._server = None

    def wait_idle(self, timeout: float) -> bool:
        """Wait until nothing is in flight and no task is due in a queue that is not paused.

        A due task that its queue's rate holds back counts as due.

        Returns:
            Whether that came true within `timeout` seconds of real time.
        """
        return self._engine.wait_idle(timeout)

    def wait_settled(self, timeout: float) -> bool:
        """Wait until nothing is in flight and nothing may be dispatched at the clock's present time.

        A due task that its queue's rate holds back does not count: more time has to pass first.

        Returns:
            Whether that came true within `timeout` seconds of real time.
        """
        return self._engine.wait_settled(timeout)

    def wait_attempts(self, count: int, timeout: float) -> bool:
        """Wait until `count` attempts have finished since the start, kept in `attempts` or not.

        Returns:
            Whether that came true within `timeout` seconds of real time.
        """
        return self._engine.wait_attempts(count, timeout)

    def wait_in_flight(self, count: int, timeout: float) -> bool:
        """Wait until at least `count` attempts are in flight at once.

        Returns:
            Whether that came true within `timeout` seconds of real time.
        """
        return self._engine.wait_in_flight(count, timeout)
