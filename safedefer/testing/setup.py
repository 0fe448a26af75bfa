"""The project's settings -> a Runtime whose ports are in memory: real keys, real checks, no server.

What settings for tests usually lack is filled in, a signing key of the tests' own first of all. What is there and wrong
is refused, as it would be at start-up.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from secrets import token_bytes
from typing import TYPE_CHECKING, Any, Final, final

from django.apps import apps
from django.conf import settings as django_settings

from safedefer.core.audit import Action, AuditEvent
from safedefer.core.ports import AuditSink, FailureSink
from safedefer.errors import ConfigurationError
from safedefer.flow.ledger import Ledger
from safedefer.flow.runtime import Runtime
from safedefer.testing.commits import CommitsInTests
from safedefer.testing.fakes import ManualClock, MemoryRecords, MemorySender, MintedTokens

if TYPE_CHECKING:
    from safedefer.django.conf import Settings

_KEY: Final = {"id": "tests", "secret": token_bytes(32)}
_FILLED_IN: Final[Mapping[str, object]] = {
    "KEYS": [_KEY],
    "PROJECT": "tests",
    "LOCATION": "tests",
    "SERVICE_ACCOUNT": "safedefer@tests.iam.gserviceaccount.com",
}
_IN_MEMORY: Final[Mapping[str, object]] = {"STORE": "orm", "OUTBOX": False, "SYNC_QUEUES": False}


@final
class _DjangoSettings:
    """Django's settings with another SAFEDEFER. Test runners turn DEBUG off, with which keys would be required."""

    DEBUG = True

    def __init__(self, safedefer: object) -> None:
        self.SAFEDEFER = safedefer

    def __getattr__(self, name: str) -> Any:  # Whatever the settings have.
        return getattr(django_settings, name)


@final
@dataclass(slots=True)
class Failures:
    """FailureSink that also keeps what a function raised, for the test that wants to know."""

    behind: FailureSink
    last: BaseException | None = None

    def failed(self, function: str, task_id: str, error: BaseException) -> None:
        """Keep the function's own exception, and report as ever."""
        self.last = error.__cause__ or error
        self.behind.failed(function, task_id, error)


@final
@dataclass(slots=True)
class Audit:
    """AuditSink that also keeps the final event of the last dispatch."""

    behind: AuditSink
    last: AuditEvent | None = None

    def emit(self, event: AuditEvent) -> None:
        """Keep it, and record as ever."""
        if event.action is Action.DISPATCH and event.outcome is not None:
            self.last = event
        self.behind.emit(event)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The runtime of a test, and those of its ports that a test looks into."""

    runtime: Runtime
    clock: ManualClock
    sender: MemorySender
    tokens: MintedTokens
    commits: CommitsInTests
    audit: Audit
    failures: Failures


def make_ports(clock: ManualClock) -> Ports:
    """Put the runtime of one test together.

    Raises:
        ConfigurationError: safedefer is not installed in the project, or its settings are wrong.
    """
    if not apps.ready or not apps.is_installed("safedefer"):
        raise ConfigurationError('safedefer is not set up: add "safedefer" to INSTALLED_APPS and call django.setup()')
    # Django's start-up order: it needs the app registry, and this package is imported before there is one.
    from safedefer.django.outbox import NoOutbox  # noqa: PLC0415
    from safedefer.django.setup import build_runtime  # noqa: PLC0415

    settings = read_test_settings(_IN_MEMORY)
    usual = build_runtime(settings)
    records = MemoryRecords()
    sender = MemorySender(clock, settings.handler_url)
    ports = Ports(
        runtime=usual,
        clock=clock,
        sender=sender,
        tokens=MintedTokens(settings.service_account),
        commits=CommitsInTests(),
        audit=Audit(usual.audit),
        failures=Failures(usual.failures),
    )
    runtime = replace(
        usual,
        sender=sender,
        tokens=ports.tokens,
        commits=ports.commits,
        outbox=NoOutbox(),
        audit=ports.audit,
        failures=ports.failures,
        records=records,
        ledger=Ledger(records, clock),
        clock=clock,
    )
    return replace(ports, runtime=runtime)


def read_test_settings(changes: Mapping[str, object], environ: Mapping[str, str] | None = None) -> "Settings":
    """Read the project's settings with DEBUG on, and with what tests need and nobody has configured.

    Args:
        changes: Keys of SAFEDEFER that are to be others.
        environ: The environment variables; by default none.
    Raises:
        ConfigurationError: The project's own SAFEDEFER is wrong; the message says where.
    """
    from safedefer.django.conf import read_settings  # noqa: PLC0415  # As above.

    given = getattr(django_settings, "SAFEDEFER", {})
    if isinstance(given, dict):
        named = {key: value for key, value in given.items() if value is not None}
        given = {**_FILLED_IN, **named, **changes}
    settings, problems = read_settings(_DjangoSettings(given), environ or {})
    if settings is None:
        raise ConfigurationError(" ".join(str(problem) for problem in problems if problem.is_error))
    return settings
