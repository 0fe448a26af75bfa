"""The command `safedefer-emulator`: the local cloud, until it is told to stop."""

import argparse
import logging
import queue
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from safedefer.emulator.addresses import HostNotLoopbackError, PortUnavailableError
from safedefer.emulator.clock import FileClock
from safedefer.emulator.cloud import LocalCloud
from safedefer.emulator.cloud_tasks.errors import CallError
from safedefer.emulator.faults import CLOUD_TASKS_FAULTS, DATASTORE_FAULTS, FaultError, FaultKind

_DEFAULT_QUEUE = "projects/local/locations/local1/queues/default"
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the local cloud until SIGINT or SIGTERM.

    Returns:
        The exit status: 0 after a signal, 1 if a server cannot start.
    """
    options = _parser().parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=options.log_level, format="%(asctime)s %(levelname)s %(message)s")
    # SimpleQueue.put may be called where a signal interrupted anything, which threading.Event.set may not.
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    previous = {number: signal.signal(number, lambda received, _: signals.put(received)) for number in _STOP_SIGNALS}
    try:
        with LocalCloud(
            tasks_port=options.tasks_port,
            issuer_port=options.issuer_port,
            datastore_port=options.datastore_port,
            host=options.host,
            queues=tuple(options.queue or (_DEFAULT_QUEUE,)),
            clock=None if options.clock_file is None else FileClock(options.clock_file),
            unsafe_allow_any_host=options.unsafe_allow_any_host,
            tasks_faults=options.tasks_faults,
            datastore_faults=options.datastore_faults,
            seed=options.seed,
        ) as cloud:
            _announce(cloud)
            signals.get()
    except (PortUnavailableError, HostNotLoopbackError, CallError, FaultError) as error:
        sys.stderr.write(f"safedefer-emulator: {error}\n")
        return 1
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="safedefer-emulator",
        description="Run Cloud Tasks, Datastore and a token issuer on this machine. State is in memory only.",
    )
    parser.add_argument("--tasks-port", type=_port, default=9022, help="port of Cloud Tasks (default 9022; 0: any)")
    parser.add_argument("--datastore-port", type=_port, default=9023, help="port of Datastore (default 9023; 0: any)")
    parser.add_argument("--issuer-port", type=_port, default=9024, help="port of the issuer (default 9024; 0: any)")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (default 127.0.0.1)")
    parser.add_argument(
        "--unsafe-allow-any-host",
        action="store_true",
        help="accept a --host that other machines can reach; they may then do everything",
    )
    parser.add_argument(
        "--queue", action="append", metavar="NAME", help=f"full name of a queue; repeatable (default {_DEFAULT_QUEUE})"
    )
    for name, kinds in (("tasks", CLOUD_TASKS_FAULTS), ("datastore", DATASTORE_FAULTS)):
        parser.add_argument(f"--{name}-faults", default="", metavar="KIND=RATE[:DETAIL],...", help=_fault_help(kinds))
    parser.add_argument("--seed", type=int, default=0, help="of the draws of the faults (default 0)")
    parser.add_argument(
        "--clock-file", type=Path, metavar="FILE", help="the clock is ahead by the seconds that are written into it"
    )
    parser.add_argument(
        "--log-level", default="INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR"), help="default INFO"
    )
    return parser


def _fault_help(kinds: Sequence[FaultKind]) -> str:
    return "what goes wrong, and how often: " + ", ".join(kind.usual.kind for kind in kinds)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:  # noqa: PLR2004 (every port there is)
        raise ValueError(text)
    return port


def _announce(cloud: LocalCloud) -> None:
    for name, value in cloud.environment().items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")
    sys.stdout.write("The local cloud is ready. Stop it with Ctrl-C.\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
