"""Everything that deferring and executing need, in one frozen object."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, final

from safedefer.core.claims import Producer
from safedefer.core.iteration.ports import QuerySets
from safedefer.core.keys import KeyRing
from safedefer.core.limits import MAX_BODY_BYTES, MAX_INLINE_TASK_BYTES, MAX_REQUEST_BYTES
from safedefer.core.names import QueueName
from safedefer.core.options import TaskOptions
from safedefer.core.outbox import SweepMemory
from safedefer.core.policy import Policy
from safedefer.core.ports import (
    AuditSink,
    Clock,
    CommitHook,
    FailureSink,
    Invoker,
    Outbox,
    RecordStore,
    ReferenceResolver,
    SurroundingsSource,
    TaskSender,
    TokenVerifier,
)
from safedefer.core.registry import Registry
from safedefer.core.routing import Route
from safedefer.core.signing import Deployment
from safedefer.errors import ConfigurationError
from safedefer.flow.ledger import Ledger


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """The rules and the ports of one process.

    Attributes:
        registry: The functions that may run.
        queryset_functions: Those that give the querysets of iterations.
        ring: The keys that sign and verify.
        deployment: What every tag is bound to.
        policy: Who this handler is.
        default_queue: The queue of a call that names none.
        producer: What the claims say of this service.
        records_using: Database alias that the records are kept on; None where it is no database of Django's.
        default_route: Where tasks run that do not say: on App Engine, the running version.
        inline_limit_bytes: Largest serialized task that is sent.
        body_cap_bytes: Largest encoded body.
        request_cap_bytes: Largest request that the handler reads.
        slice_limit: After which the platform or the server ends a request; None where only the dispatch deadline does.
        sweeps: Which sweeps of the outbox this process has seen to.
    """

    registry: Registry
    queryset_functions: Registry
    ring: KeyRing
    deployment: Deployment
    policy: Policy
    default_queue: QueueName
    producer: Producer
    default_route: Route
    sender: TaskSender
    tokens: TokenVerifier
    resolver: ReferenceResolver
    commits: CommitHook
    outbox: Outbox
    querysets: QuerySets
    surroundings: SurroundingsSource
    invoker: Invoker
    audit: AuditSink
    failures: FailureSink
    records: RecordStore
    records_using: str | None
    ledger: Ledger
    clock: Clock
    inline_limit_bytes: int = MAX_INLINE_TASK_BYTES
    body_cap_bytes: int = MAX_BODY_BYTES
    request_cap_bytes: int = MAX_REQUEST_BYTES
    slice_limit: timedelta | None = None
    sweeps: SweepMemory = field(default_factory=SweepMemory)

    def route_of(self, options: TaskOptions) -> Route:
        """Where a task with these options runs: a version belongs to its service, an instance to its version."""
        asked, usual = options.route, self.default_route
        if asked.service is not None and asked.service != usual.service:
            return asked
        version = asked.version or usual.version
        return Route(service=asked.service or usual.service, version=version, instance=asked.instance)


@final
class _Installation:
    """How the runtime of this process is built, the one that was, or why there is none."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.build: Callable[[], Runtime] | None = None
        self.runtime: Runtime | None = None
        self.problem = 'safedefer is not set up: add "safedefer" to INSTALLED_APPS and call django.setup()'


_installation: Final = _Installation()


def install(build: Callable[[], Runtime]) -> None:
    """Say how the runtime is built; that happens on first use, since it may have to ask the platform."""
    with _installation.lock:
        _installation.build = build
        _installation.runtime = None


def install_problem(problem: str) -> None:
    """Say why there is no runtime: whatever asks for one is refused with this text."""
    with _installation.lock:
        _installation.build = None
        _installation.runtime = None
        _installation.problem = problem


@contextmanager
def installed(runtime: Runtime) -> Iterator[None]:
    """Use another runtime inside the block, in every thread, and afterwards again whatever there was."""
    with _installation.lock:
        before = (_installation.build, _installation.runtime)
        _installation.build, _installation.runtime = (lambda: runtime), runtime
    try:
        yield
    finally:
        with _installation.lock:
            _installation.build, _installation.runtime = before


def current_runtime() -> Runtime:
    """The runtime of this process.

    Raises:
        ConfigurationError: There is none, or it cannot be built; the message says what is missing.
    """
    runtime = _installation.runtime
    if runtime is not None:
        return runtime
    with _installation.lock:
        if _installation.runtime is None:
            if _installation.build is None:
                raise ConfigurationError(_installation.problem)
            _installation.runtime = _installation.build()
        return _installation.runtime
