"""The store of records over Datastore, where commits are aborted, refused, slow, or end without an answer."""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from google.cloud.datastore_v1.services.datastore import DatastoreClient
from google.cloud.datastore_v1.services.datastore.transports import DatastoreGrpcTransport
from google.cloud.datastore_v1.types import CommitRequest, Entity, Key, Mutation, PartitionId
from grpc import StatusCode

from safedefer.core.iteration.rows import MAX_POSITION_BYTES, put_run, put_shard
from safedefer.core.iteration.state import Run, RunState, Shard
from safedefer.core.ledger import LedgerEntry, LedgerState, dump_entry
from safedefer.core.limits import MAX_BODY_BYTES, MAX_SHARDS
from safedefer.core.names import TaskId
from safedefer.core.records import Change, Delete, Put, RecordKey, RecordKind
from safedefer.emulator import LocalCloud
from safedefer.errors import RecordConflictError, StoreUnavailableError
from safedefer.gcp.datastore import MOST_BYTES, DatastoreRecords, DatastoreTarget
from safedefer.gcp.local_channel import open_local_channel

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


def versions(store: DatastoreRecords, *names: str) -> dict[str, int]:
    return {found.id: record.version for found, record in store.get([key(name) for name in names]).items()}


CHANGES: dict[str, list[Change]] = {
    "insert": [put("new")],
    "two inserts": [put("new"), put("newer")],
    "update": [put("there", 1)],
    "delete": [Delete(key=key("there"), expected=1)],
    "all": [put("new"), put("there", 1), Delete(key=key("gone"), expected=1)],
}


@pytest.mark.parametrize("code", [StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.INTERNAL])
@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_commit_that_ended_without_an_answer_is_made_once(
    cloud: LocalCloud, store: DatastoreRecords, changes: list[Change], code: StatusCode
) -> None:
    store.commit([put("there"), put("gone")])
    cloud.datastore.faults.once("ambiguous-commit", code=code)
    store.commit(changes)
    assert cloud.datastore.faults.happened == {"ambiguous-commit": 1}
    expected = {"there": 1, "gone": 1}
    for change in changes:
        if isinstance(change, Put):
            expected[change.key.id] = change.version
        else:
            del expected[change.key.id]
    assert versions(store, "there", "gone", "new", "newer") == expected


@pytest.mark.parametrize("code", [StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.INTERNAL])
@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_commit_that_may_have_been_made_and_was_not_is_tried_again(
    cloud: LocalCloud, store: DatastoreRecords, changes: list[Change], code: StatusCode
) -> None:
    store.commit([put("there"), put("gone")])
    before = versions(store, "there", "gone", "new", "newer")
    cloud.datastore.faults.once("refuse", code=code)
    store.commit(changes)
    assert versions(store, "there", "gone", "new", "newer") != before


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_aborted_commit_is_run_again_as_a_whole(
    cloud: LocalCloud, store: DatastoreRecords, changes: list[Change]
) -> None:
    store.commit([put("there"), put("gone")])
    cloud.datastore.faults.next("abort", 5)
    store.commit(changes)
    assert cloud.datastore.faults.happened == {"abort": 5}
    assert all((change.key in store.get([change.key])) is isinstance(change, Put) for change in changes)


@pytest.mark.parametrize("changes", [CHANGES["insert"], CHANGES["all"]], ids=["insert", "all"])
def test_commit_that_is_always_aborted_is_given_up_and_changes_nothing(
    cloud: LocalCloud, store: DatastoreRecords, changes: list[Change]
) -> None:
    store.commit([put("there"), put("gone")])
    cloud.datastore.faults.set("abort", 1)
    with pytest.raises(StoreUnavailableError, match="did not take a commit"):
        store.commit(changes)
    assert 2 <= cloud.datastore.faults.happened["abort"] <= 10
    assert versions(store, "there", "gone", "new", "newer") == {"there": 1, "gone": 1}


@pytest.mark.parametrize(
    "code", [StatusCode.PERMISSION_DENIED, StatusCode.RESOURCE_EXHAUSTED, StatusCode.FAILED_PRECONDITION]
)
@pytest.mark.parametrize("change", [put("new"), put("there", 1)], ids=["insert", "update"])
def test_refused_commit_is_not_tried_again_and_changes_nothing(
    cloud: LocalCloud, store: DatastoreRecords, change: Change, code: StatusCode
) -> None:
    store.commit([put("there")])
    cloud.datastore.faults.set("refuse", 1, code=code)
    with pytest.raises(StoreUnavailableError):
        store.commit([change])
    assert cloud.datastore.faults.happened == {"refuse": 1}
    cloud.datastore.faults.reset()
    assert versions(store, "new", "there") == {"there": 1}


def test_record_of_another_writer_is_not_taken_for_ones_own(cloud: LocalCloud, store: DatastoreRecords) -> None:
    store.commit([put("there", data=b"theirs")])
    cloud.datastore.faults.once("refuse")
    with pytest.raises(StoreUnavailableError, match="may have been made"):
        store.commit([put("there", data=b"ours")])
    assert store.get([key("there")])[key("there")].data == b"theirs"


def test_commit_that_was_made_and_written_over_is_no_conflict(cloud: LocalCloud, store: DatastoreRecords) -> None:
    # A conflict says that nothing was changed, and its reader would do once more what was done.
    target = DatastoreTarget(project="local", emulator_host=cloud.datastore.address, try_seconds=1.0)
    faults = cloud.datastore.faults
    faults.once("slow")  # Made at once, and answered when nobody waits any more.
    with ThreadPoolExecutor(1) as pool:
        ours = pool.submit(DatastoreRecords(target).commit, [put("new", data=b"ours")])
        until = time.monotonic() + 10
        while not (faults.happened["slow"] and versions(store, "new")):
            assert time.monotonic() < until
        store.commit([put("new", 1, b"theirs")])
        with pytest.raises(StoreUnavailableError, match="may have been made"):
            ours.result(timeout=20)
    assert store.get([key("new")])[key("new")].data == b"theirs"


def test_counter_that_every_thread_raises_ends_exact_whatever_befalls_its_commits(
    cloud: LocalCloud, store: DatastoreRecords
) -> None:
    store.commit([put("counter", data=b"0")])
    cloud.datastore.faults.load("abort=0.3,ambiguous-commit=0.3,refuse=0.1")

    def raise_it(_: int) -> tuple[int, int]:
        """How often it was raised for certain, and how often perhaps."""
        done = unknown = 0
        while done < 5:
            try:
                record = store.get([key("counter")])[key("counter")]
                store.commit([put("counter", record.version, str(int(record.data) + 1).encode())])
            except RecordConflictError:
                continue
            except StoreUnavailableError:
                unknown += 1
            else:
                done += 1
        return done, unknown

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(raise_it, range(6)))
    happened = cloud.datastore.faults.happened
    cloud.datastore.faults.reset()
    certain, perhaps = (sum(column) for column in zip(*results, strict=True))
    assert all(happened[kind] for kind in ("abort", "ambiguous-commit", "refuse"))
    assert certain <= int(store.get([key("counter")])[key("counter")].data) <= certain + perhaps


@pytest.mark.parametrize("code", ["slow", "refuse"])
@pytest.mark.parametrize("operation", ["get", "scan", "insert", "update"])
def test_store_that_does_not_answer_is_unavailable_within_the_time_it_was_given(
    cloud: LocalCloud, store: DatastoreRecords, operation: str, code: str
) -> None:
    store.commit([put("there")])
    target = DatastoreTarget(project="local", emulator_host=cloud.datastore.address, try_seconds=0.2, all_seconds=0.5)
    impatient = DatastoreRecords(target)
    operations: dict[str, Callable[[], object]] = {
        "get": lambda: impatient.get([key("there")]),
        "scan": lambda: impatient.scan(LEDGER, limit=1),
        "insert": lambda: impatient.commit([put("new")]),
        "update": lambda: impatient.commit([put("there", 1)]),
    }
    cloud.datastore.faults.set(code, 1)
    begun = time.monotonic()
    with pytest.raises(StoreUnavailableError, match="Datastore did not"):
        operations[operation]()
    assert time.monotonic() - begun < 8
    assert cloud.datastore.faults.happened[code] >= 2
    # Made late or not at all, and whoever looks again finds out.
    cloud.datastore.faults.reset()
    assert versions(store, "there") in ({"there": 1}, {"there": 2})


def requests_of(caplog: pytest.LogCaptureFixture, method: str) -> int:
    """How many were sent since the log was cleared."""
    sent = [record.getMessage() for record in caplog.records if "Sending request" in record.getMessage()]
    return sum(method in message for message in sent)


@pytest.fixture
def sent(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """The log of the client, which names each request."""
    monkeypatch.setattr(logging.getLogger("google"), "propagate", True)
    caplog.set_level(logging.DEBUG, "google")
    return caplog


@pytest.mark.parametrize(
    ("kind", "size", "lookups", "queries"),
    [(RecordKind.SHARD, 34_000, 3, 3), (RecordKind.LEDGER, 60, 1, 2), (OVERFLOW, 60, 75, 76)],
    ids=["shards", "ledger", "overflow"],
)
def test_records_of_kinds_that_are_small_come_many_in_one_response(
    store: DatastoreRecords, sent: pytest.LogCaptureFixture, kind: RecordKind, size: int, lookups: int, queries: int
) -> None:
    keys = [RecordKey(kind, f"{number:04d}") for number in range(300)]
    data = b"x" * size
    for start in range(0, len(keys), 100):
        some = keys[start : start + 100]
        store.commit([Put(key=one, data=data, expires_at=EXPIRES, expected=None) for one in some])
    sent.clear()
    found = store.get(keys)
    assert set(found) == set(keys)
    # The local Datastore answers some 2 MiB at once, and defers the rest.
    assert lookups <= requests_of(sent, "Lookup") <= 2 * lookups
    sent.clear()
    after, scanned = "", 0
    while page := store.scan(kind, after=after, limit=1_000):
        after, scanned = page[-1].key.id, scanned + len(page)
    assert scanned == len(keys)
    assert requests_of(sent, "RunQuery") <= 2 * queries


def test_largest_run_shard_and_ledger_entry_are_as_small_as_their_kinds_are_said_to_be() -> None:
    most = (1 << 63) - 1
    run = Run(
        id=TaskId(bytes(16)),
        state=RunState.FINALIZING,
        plan_sha256=bytes(32),
        plan_bytes=MAX_BODY_BYTES,
        shards=MAX_SHARDS,
        open=frozenset(range(MAX_SHARDS)),
        created_at=most,
        changed_at=most,
        idle_seconds=most,
        estimated_total=most,
        processed=most,
        skipped=most,
        failed=most,
        version=1,
    )
    shard = Shard(
        run_id=run.id,
        index=MAX_SHARDS - 1,
        key_range=bytes(MAX_POSITION_BYTES),
        cursor=bytes(MAX_POSITION_BYTES),
        poison_key=bytes(32),
        batch_size=most,
        version=1,
        seq=most,
        wake=most,
        fence=most,
        lease_until=most,
        not_before=most,
        heartbeat=most,
        processed=most,
        skipped=most,
        failed=most,
        poison_tries=most,
        crashes=most,
        careful=most,
        slowest_ms=most,
    )
    entry = LedgerEntry(state=LedgerState.CLAIMED, fence=most, attempts=most, lease_until=most)
    entity_bytes = 300
    for kind, data in (
        (RecordKind.RUN, put_run(run, 0).data),
        (RecordKind.SHARD, put_shard(shard, 0).data),
        (LEDGER, dump_entry(entry)),
    ):
        assert len(data) + entity_bytes <= MOST_BYTES[kind]


def test_entities_that_are_none_of_ours_are_passed_over_or_hold_nothing(
    cloud: LocalCloud, store: DatastoreRecords
) -> None:
    store.commit([put("b")])
    client = DatastoreClient(transport=DatastoreGrpcTransport(channel=open_local_channel(cloud.datastore.address)))
    partition = PartitionId(project_id="local")
    mode = CommitRequest.Mode.NON_TRANSACTIONAL
    for element in [
        *(Key.PathElement(kind="SafedeferLedger", id=number) for number in (1, 7, (1 << 63) - 1)),
        Key.PathElement(kind="SafedeferLedger", name="a"),
    ]:
        entity = Entity(key=Key(partition_id=partition, path=[element]))
        client.commit(request={"project_id": "local", "mode": mode, "mutations": [Mutation(upsert=entity)]})
    below = [Key.PathElement(kind="SafedeferLedger", name="a"), Key.PathElement(kind="SafedeferLedger", name="0")]
    for number in range(5):
        path = [*below, Key.PathElement(kind="SafedeferLedger", id=number + 1)] if number else below
        entity = Entity(key=Key(partition_id=partition, path=path))
        client.commit(request={"project_id": "local", "mode": mode, "mutations": [Mutation(upsert=entity)]})
    assert [record.key for record in store.scan(LEDGER, after="a", limit=2)] == [key("b")]
    strange, ours = store.scan(LEDGER, limit=9)
    assert (strange.key, strange.version, strange.data, strange.expires_at) == (key("a"), 0, b"", 0)
    assert ours.key == key("b")
    assert store.scan(LEDGER, after="b", limit=9) == []
    with pytest.raises(RecordConflictError):
        store.commit([put("a", 1)])
