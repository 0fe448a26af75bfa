"""A local cloud for development and tests: Cloud Tasks, and the issuer of the tokens that its tasks carry.

It carries bytes that it does not understand and shares no code with the sending or the handling side.
"""

from safedefer.emulator.addresses import HostNotLoopbackError, PortUnavailableError
from safedefer.emulator.clock import Clock, FileClock, ManualClock, SystemClock
from safedefer.emulator.cloud import LocalCloud, Server
from safedefer.emulator.cloud_tasks.attempts import Attempt
from safedefer.emulator.faults import Fault, FaultError, Faults

__all__ = [
    "Attempt",
    "Clock",
    "Fault",
    "FaultError",
    "Faults",
    "FileClock",
    "HostNotLoopbackError",
    "LocalCloud",
    "ManualClock",
    "PortUnavailableError",
    "Server",
    "SystemClock",
]
