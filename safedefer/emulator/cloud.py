"""The local cloud: its servers put together, started in order and stopped in reverse."""

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from safedefer.emulator.addresses import check_host
from safedefer.emulator.clock import Clock, SystemClock
from safedefer.emulator.cloud_tasks.limits import DEFAULT_QUEUE_NAME_MEMORY, DEFAULT_TASK_NAME_MEMORY
from safedefer.emulator.cloud_tasks.server import CloudTasksServer
from safedefer.emulator.issuer import IssuerServer

if TYPE_CHECKING:
    from safedefer.emulator.datastore.server import DatastoreServer


class Server(Protocol):
    """One server of the local cloud.

    `port` is the port that is listened on, once started. `start` begins to listen, or raises PortUnavailableError and
    leaves nothing behind. `stop` ends in bounded time, with no thread left, and does nothing if the server is not
    running. `environment` returns the variables by which an application finds the server.
    """

    @property
    def port(self) -> int: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def environment(self) -> dict[str, str]: ...


class LocalCloud:
    """Cloud Tasks, Datastore and a token issuer on this machine, for development and for tests.

    Datastore is there if google-cloud-datastore is installed, whose messages it speaks.

    Nothing is checked as to who calls: whoever reaches the ports may do everything. State is in memory only.
    """

    def __init__(
        self,
        *,
        tasks_port: int = 0,
        issuer_port: int = 0,
        datastore_port: int = 0,
        host: str = "127.0.0.1",
        queues: Sequence[str] = (),
        clock: Clock | None = None,
        task_name_memory: timedelta = DEFAULT_TASK_NAME_MEMORY,
        queue_name_memory: timedelta = DEFAULT_QUEUE_NAME_MEMORY,
        unsafe_allow_any_host: bool = False,
        tasks_faults: str = "",
        datastore_faults: str = "",
        seed: int = 0,
    ) -> None:
        """Put the servers together; no port is taken before `start`.

        Args:
            tasks_port: The port of Cloud Tasks; 0 lets the system choose.
            issuer_port: The port of the token issuer; 0 lets the system choose.
            datastore_port: The port of Datastore; 0 lets the system choose.
            host: Where to listen.
            queues: Full names of the queues that exist from the start, with default settings.
            clock: Time for everything; by default the system's.
            task_name_memory: How long the name of a task that is gone stays taken.
            queue_name_memory: How long the name of a deleted queue stays taken.
            unsafe_allow_any_host: Accept a host that other machines can reach.
            tasks_faults: What goes wrong in Cloud Tasks, such as `duplicate=0.1,drop-response=0.05`.
            datastore_faults: What goes wrong in Datastore, such as `abort=0.2`.
            seed: Of the draws of the faults: the same seed draws the same.

        Raises:
            HostNotLoopbackError: Other machines could reach `host`, and that was not asked for.
            FaultError: The faults cannot be read.
        """
        if not unsafe_allow_any_host:
            check_host(host)
        clock = clock or SystemClock()
        self.issuer: IssuerServer = IssuerServer(host=host, port=issuer_port, clock=clock)
        self.tasks: CloudTasksServer = CloudTasksServer(
            host=host,
            port=tasks_port,
            queues=queues,
            clock=clock,
            minter=self.issuer,
            task_name_memory=task_name_memory,
            queue_name_memory=queue_name_memory,
            seed=seed,
        )
        self._datastore = _datastore_server(host, datastore_port, clock, seed)
        self.tasks.faults.load(tasks_faults)
        if datastore_faults:
            self.datastore.faults.load(datastore_faults)
        # In the order of starting: Cloud Tasks needs the issuer from its first dispatch on.
        self._servers: tuple[Server, ...] = tuple(filter(None, (self.issuer, self._datastore, self.tasks)))
        self._running = ExitStack()
        self._was_started = False

    @property
    def datastore(self) -> "DatastoreServer":
        """The local Datastore.

        Raises:
            RuntimeError: google-cloud-datastore is not installed.
        """
        if self._datastore is None:
            raise RuntimeError('The local Datastore needs google-cloud-datastore: pip install "safedefer[datastore]"')
        return self._datastore

    def start(self) -> Self:
        """Start every server. If one cannot start, those before it are stopped again.

        Raises:
            PortUnavailableError: A port is taken.
            RuntimeError: It was started before. A local cloud starts once; make a new one.
        """
        if self._was_started:
            raise RuntimeError("A local cloud starts only once. Make a new one.")
        self._was_started = True
        with ExitStack() as started:
            for server in self._servers:
                server.start()
                started.callback(server.stop)
            self._running = started.pop_all()
        return self

    def stop(self) -> None:
        """Stop every server. Stopping twice does nothing more."""
        self._running.close()

    def environment(self) -> dict[str, str]:
        """Return the variables by which an application finds the local cloud."""
        return {name: value for server in self._servers for name, value in sorted(server.environment().items())}

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()


def _datastore_server(host: str, port: int, clock: Clock, seed: int) -> "DatastoreServer | None":
    try:
        # Installed only with the extra: whoever keeps no records in Datastore does not need it.
        from safedefer.emulator.datastore.server import DatastoreServer  # noqa: PLC0415
    except ImportError:
        return None
    return DatastoreServer(host=host, port=port, clock=clock, seed=seed)
