"""Large bodies and the ledger, through the running handler."""

from dataclasses import replace

import pytest

from safedefer import defer
from safedefer.core.ports import RecordStore
from safedefer.core.records import Put, RecordKind
from safedefer.errors import Reason
from safedefer.flow.ledger import Ledger
from safedefer.flow.runtime import current_runtime, install
from safedefer.gcp.datastore import DatastoreRecords, DatastoreTarget
from tests.site.shop import tasks
from tests.support.builders import ManualClock
from tests.support.site import Site


@pytest.fixture(params=["orm", "datastore"])
def store(request: pytest.FixtureRequest, site: Site) -> RecordStore:
    """The site's records in a table, or in the local Datastore."""
    if request.param == "datastore":
        site.cloud.datastore.reset()
        target = DatastoreTarget(project="local", emulator_host=site.cloud.datastore.address)
        records = DatastoreRecords(target)
        runtime = replace(site.runtime, records=records, ledger=Ledger(records, site.runtime.clock))
        install(lambda: runtime)
        return records
    return site.runtime.records


@pytest.mark.parametrize("size", [1_000, 999_000, 1_000_000, 2_500_000, 8_300_000])
def test_body_of_any_size_up_to_the_cap_arrives_intact(site: Site, store: RecordStore, size: int) -> None:
    text = "".join(chr(97 + index % 26) for index in range(size))
    defer(tasks.note, text)
    site.run_tasks()
    assert site.traces() == [f"note {text}"]
    assert list(store.scan(RecordKind.OVERFLOW, limit=10)) == []
    assert len(store.scan(RecordKind.LEDGER, limit=10)) == 1


def test_stored_body_that_was_changed_in_the_store_is_refused(site: Site, store: RecordStore) -> None:
    defer(tasks.note, "x" * 1_500_000, _countdown=600)
    first = store.scan(RecordKind.OVERFLOW, limit=1)[0]
    other = Put(key=first.key, data=first.data[:-1] + b"y", expires_at=first.expires_at, expected=first.version)
    store.commit([other])
    (task,) = site.tasks()
    runtime = current_runtime()
    clock = ManualClock(site.runtime.clock.time() + 600)
    install(lambda: replace(runtime, clock=clock, ledger=Ledger(store, clock)))
    assert site.post(task.http_request.body).status == 204
    assert site.dispatches()[-1].reason is Reason.BODY_DIGEST


def test_duplicate_of_a_finished_task_succeeds_without_running(site: Site) -> None:
    wire = site.seal(tasks.note, "once")
    assert site.post(wire).status == 204
    assert site.post(wire).status == 204
    assert site.traces() == ["note once"]
    assert [event.reason for event in site.dispatches()] == [Reason.EXECUTED, Reason.ALREADY_EXECUTED]


def test_failed_task_may_be_claimed_again_at_once(site: Site) -> None:
    wire = site.seal(tasks.fail, "x")
    assert site.post(wire).status == 500
    assert site.post(wire).status == 500
    assert [event.attempt for event in site.dispatches()] == [1, 2]


def test_function_without_ledger_runs_again(site: Site) -> None:
    wire = site.seal(tasks.forgetful, "twice")
    assert site.post(wire).status == 204
    assert site.post(wire).status == 204
    assert site.traces() == ["forgetful twice", "forgetful twice"]
