"""T22: something that the handler depends on is down: it runs nothing, and answers so that it comes again."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection
from django.db.models import Model

from safedefer.core.audit import AuditEvent, Severity
from safedefer.core.records import Put, RecordKey, RecordKind
from safedefer.core.signing import verify_envelope
from safedefer.core.wire import pack
from safedefer.django.audit import LoggingAudit
from safedefer.django.conf import LOCAL_SERVICE_ACCOUNT
from safedefer.django.models import StoredRecord
from safedefer.errors import ConfigurationError, Reason
from safedefer.flow.overflow import write_overflow
from safedefer.flow.runtime import install, install_problem
from safedefer.gcp.cloud_tasks import CloudTasksSender, TaskTarget
from safedefer.gcp.jwks import KeySetCache, fetch_key_set
from safedefer.gcp.oidc import OidcVerifier, TokenPolicy
from tests.site.shop import tasks
from tests.site.shop.models import Customer
from tests.support.site import PATH, Site


@contextmanager
def without_table(model: type[Model]) -> Iterator[None]:
    """The database refuses whatever is asked of a model: its table is elsewhere for a while."""
    name = model._meta.db_table
    with connection.schema_editor() as editor:
        editor.execute(f"ALTER TABLE {name} RENAME TO {name}_away")
    try:
        yield
    finally:
        with connection.schema_editor() as editor:
            editor.execute(f"ALTER TABLE {name}_away RENAME TO {name}")


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port where nobody listens, and nobody else can begin to."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


class FailingAudit:
    """An audit sink that fails from the event of a given number on."""

    def __init__(self, first: int) -> None:
        self._sink = LoggingAudit()
        self._left = first

    def emit(self, event: AuditEvent) -> None:
        """Record the event, or fail."""
        if self._left == 0:
            raise ConnectionError("the audit store is down")
        self._left -= 1
        self._sink.emit(event)


def test_T22_without_the_ledger_nothing_runs(site: Site) -> None:
    wire = site.seal(tasks.note, "x")
    with without_table(StoredRecord):
        reply = site.post(wire)
    assert reply.status == 503
    assert reply.headers["Retry-After"].isdigit()
    assert site.refusal(reply).reason is Reason.STORE_UNAVAILABLE


def test_T22_function_without_ledger_does_not_need_it(site: Site) -> None:
    with without_table(StoredRecord):
        assert site.post(site.seal(tasks.forgetful, "x")).status == 204
    assert site.traces() == ["forgetful x"]


def test_T22_without_the_database_of_a_row_nothing_runs(site: Site) -> None:
    wire = site.seal(tasks.greet, Customer.objects.create(name="Ann"))
    with without_table(Customer):
        reply = site.post(wire)
    assert reply.status == 503
    event = site.refusal(reply)
    assert (event.reason, event.detail) == (Reason.REFERENCES_UNAVAILABLE, "RowsUnavailableError")


def test_T22_task_of_an_outage_runs_once_it_is_over(site: Site) -> None:
    wire = site.seal(tasks.greet, Customer.objects.create(name="Ann"))
    with without_table(StoredRecord):
        assert site.post(wire).status == 503
    with without_table(Customer):
        assert site.post(wire).status == 503
    assert site.post(wire).status == 204
    assert site.traces() == ["greet Hello Ann"]


def test_T22_without_the_issuers_keys_no_token_is_believed(site: Site, closed_port: int) -> None:
    policy = TokenPolicy(issuer=site.cloud.issuer.url, audience=site.url, emails=frozenset({LOCAL_SERVICE_ACCOUNT}))
    keys = KeySetCache(lambda: fetch_key_set(f"http://127.0.0.1:{closed_port}/certs"))
    site.use(tokens=OidcVerifier(policy, keys.find, time.time))
    reply = site.post(site.seal(tasks.note, "x"))
    assert reply.status == 503
    assert site.refusal(reply).reason is Reason.TOKEN_KEYS_UNAVAILABLE


def test_T22_call_that_cannot_be_recorded_is_not_executed(site: Site) -> None:
    wire = site.seal(tasks.note, "x")
    site.use(audit=FailingAudit(0))
    reply = site.post(wire)
    assert (reply.status, reply.body) == (503, b"")
    assert site.traces() == []
    # Nor is its lease kept: the next dispatch finds the way free.
    site.use(audit=LoggingAudit())
    assert site.post(wire).status == 204
    assert site.traces() == ["note x"]


def test_T22_refusal_that_cannot_be_recorded_is_no_success(site: Site) -> None:
    wire = site.seal(tasks.greet, Customer.objects.create(name="Ann"))
    Customer.objects.all().delete()
    site.use(audit=FailingAudit(0))
    assert site.post(wire).status == 503
    assert site.post(b"junk").status == 503


def test_T22_call_that_has_run_is_not_run_again_for_want_of_a_record(site: Site) -> None:
    wire = site.seal(tasks.note, "x")
    site.use(audit=FailingAudit(1))
    assert site.post(wire).status == 204
    assert site.traces() == ["note x"]


def test_T22_call_that_cannot_be_reissued_stays_where_it_is(site: Site, closed_port: int) -> None:
    wire = site.forge(site.seal(tasks.note, "x"), claims={"not_before": int(time.time()) + 3_000})
    target = TaskTarget(
        project=site.runtime.policy.project,
        location=site.runtime.policy.location,
        handler_url=site.url,
        audience=site.url,
        service_account=LOCAL_SERVICE_ACCOUNT,
        emulator_host=f"127.0.0.1:{closed_port}",
    )
    site.use(sender=CloudTasksSender(target))
    reply = site.post(wire)
    assert reply.status == 503
    assert site.refusal(reply).reason is Reason.REISSUE_FAILED


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"junk",
        pack(["claimed"]),
        pack(["unheard of", 1, 1, 1]),
        pack(["claimed", "1", 1, 1]),
        # No task can be scheduled for this moment, and no timestamp can hold it.
        pack(["claimed", 1, 1, (1 << 64) - 1]),
        pack(["claimed", 1, 1, 1 << 62]),
    ],
    ids=["empty", "junk", "short", "state", "text", "beyond time", "far away"],
)
def test_T22_row_of_the_ledger_that_makes_no_sense_stops_its_task_and_is_recorded(site: Site, data: bytes) -> None:
    wire = site.seal(tasks.note, "x")
    task_id = claims_of(site, wire).task_id.hex()
    change = Put(key=RecordKey(RecordKind.LEDGER, task_id), data=data, expires_at=1 << 40, expected=None)
    site.runtime.records.commit([change])
    reply = site.post(wire)
    assert reply.status == 503
    event = site.refusal(reply)
    assert event.reason in (Reason.STORE_UNAVAILABLE, Reason.REISSUE_FAILED, Reason.INTERNAL_ERROR)
    assert event.task_id == task_id


def test_T22_overflowed_body_waits_for_its_store(site: Site) -> None:
    from safedefer.flow.defer import seal_call

    function = tasks.note.registered
    call = seal_call(site.runtime, function, function.options, ("x" * 1_500_000,), {})
    assert call.overflow is not None
    write_overflow(site.runtime.records, call.claims, call.overflow)
    task: Any = call.task
    wire = bytes(task.task.http_request.body)
    with without_table(StoredRecord):
        reply = site.post(wire)
    assert reply.status == 503
    assert site.refusal(reply).reason is Reason.STORE_UNAVAILABLE
    assert StoredRecord.objects.filter(kind=RecordKind.OVERFLOW).count() == 2
    assert site.post(wire).status == 204


def test_T22_handler_without_settings_refuses_everything_and_says_so(site: Site) -> None:
    wire = site.seal(tasks.note, "x")
    install_problem("safedefer is not configured: KEYS is missing")
    for body, token in ((wire, None), (b"junk", "")):
        reply = site.post(body, token=token)
        assert (reply.status, reply.body) == (503, b"")
    assert site.traces() == []
    (first, _) = site.dispatches()
    assert (first.reason, first.severity) == (Reason.NOT_CONFIGURED, Severity.CRITICAL)
    assert "KEYS is missing" in first.detail


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (ConfigurationError("the metadata server could not be asked"), "the metadata server could not be asked"),
        (RuntimeError("of nobody's concern"), "RuntimeError"),
    ],
)
def test_T22_runtime_that_cannot_be_built_refuses_everything(site: Site, error: Exception, detail: str) -> None:
    wire = site.seal(tasks.note, "x")

    def build() -> Any:
        raise error

    install(build)
    reply = site.post(wire, path=PATH)
    assert reply.status == 503
    event = site.refusal(reply)
    assert (event.reason, event.detail, event.actor) == (Reason.NOT_CONFIGURED, detail, None)


def claims_of(site: Site, wire: bytes) -> Any:
    """The claims of a genuine envelope."""
    from safedefer.core.envelope import parse_envelope

    return verify_envelope(parse_envelope(wire), site.runtime.ring, site.runtime.deployment).claims
