"""The store of records over Datastore, where commits are aborted, refused, slow, or end without an answer."""

import logging
from collections.abc import Iterator

import pytest

from safedefer.core.records import Put, RecordKey, RecordKind
from safedefer.emulator import LocalCloud
from safedefer.gcp.datastore import DatastoreRecords, DatastoreTarget

EXPIRES = 2_000_000_000
CANARY = b"canary-in-the-record"
LEDGER, OVERFLOW = RecordKind.LEDGER, RecordKind.OVERFLOW


def key(name: str) -> RecordKey:
    return RecordKey(LEDGER, name)


def put(name: str, expected: int | None = None, data: bytes = CANARY) -> Put:
    return Put(key=key(name), data=data, expires_at=EXPIRES, expected=expected)


@pytest.fixture
def cloud(local_cloud: LocalCloud) -> Iterator[LocalCloud]:
    local_cloud.datastore.reset()
    yield local_cloud
    local_cloud.datastore.faults.reset()


@pytest.fixture
def store(cloud: LocalCloud) -> DatastoreRecords:
    return DatastoreRecords(DatastoreTarget(project="local", emulator_host=cloud.datastore.address))


def test_nothing_that_is_stored_shows_in_the_log_of_the_client(
    store: DatastoreRecords, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a site has it that wants to see everything of Google's: by default these records go nowhere.
    monkeypatch.setattr(logging.getLogger("google"), "propagate", True)
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "google")
    store.commit([put("a")])
    assert store.get([key("a")])[key("a")].data == CANARY
    store.scan(LEDGER, limit=1)
    messages = [record.getMessage() for record in caplog.records]
    for method in ("Commit", "Lookup", "RunQuery"):
        assert any("Sending request" in message and method in message for message in messages)
        assert any("Received response" in message and method in message for message in messages)
    for record in caplog.records:
        shown = record.getMessage() + repr(vars(record))
        assert "canary" not in shown
        assert "Y2FuYXJ5LWlu" not in shown  # The same in base64.
