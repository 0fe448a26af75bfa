"""What every RecordStore keeps to, in memory and in real databases."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
from django.db import connections

from safedefer.core.ports import RecordStore
from safedefer.core.records import MAX_RECORD_BYTES, Change, Delete, Put, RecordKey, RecordKind
from safedefer.django.records import OrmRecords
from safedefer.emulator import LocalCloud
from safedefer.errors import RecordConflictError
from safedefer.gcp.datastore import DatastoreRecords, DatastoreTarget
from safedefer.testing.fakes import MemoryRecords

T = TypeVar("T")
EXPIRES = 2_000_000_000
STORES = ["memory", "sqlite", "postgres", "datastore"]


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Iterator[RecordStore]:
    if request.param == "memory":
        yield MemoryRecords()
        return
    if request.param == "datastore":
        cloud: LocalCloud = request.getfixturevalue("local_cloud")
        cloud.datastore.reset()
        yield DatastoreRecords(DatastoreTarget(project="local", emulator_host=cloud.datastore.address))
        return
    request.getfixturevalue("transactional_db")
    yield OrmRecords("default" if request.param == "sqlite" else "postgres")


pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgres"])


def key(name: str, kind: RecordKind = RecordKind.LEDGER) -> RecordKey:
    return RecordKey(kind, name)


def insert(name: str, data: bytes = b"data", kind: RecordKind = RecordKind.LEDGER) -> Put:
    return Put(key=key(name, kind), data=data, expires_at=EXPIRES, expected=None)


def update(name: str, expected: int, data: bytes = b"new") -> Put:
    return Put(key=key(name), data=data, expires_at=EXPIRES + 1, expected=expected)


def versions(store: RecordStore, *names: str) -> dict[str, int]:
    return {found.id: record.version for found, record in store.get([key(name) for name in names]).items()}


def in_threads(count: int, action: Callable[[int], T]) -> list[T]:
    """Run an action in threads that all start at one moment, each with database connections of its own."""
    gate = threading.Barrier(count)

    def run(number: int) -> T:
        gate.wait()
        try:
            return action(number)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def test_every_kind_has_a_place_of_its_own(store: RecordStore) -> None:
    store.commit([insert("same", kind.value.encode(), kind) for kind in RecordKind])
    found = store.get([key("same", kind) for kind in RecordKind])
    assert {found_key.kind: record.data for found_key, record in found.items()} == {
        kind: kind.value.encode() for kind in RecordKind
    }


def test_inserted_record_is_read_as_it_was_written(store: RecordStore) -> None:
    data = bytes(range(256)) * 3
    store.commit([insert("a", data)])
    (record,) = store.get([key("a"), key("missing")]).values()
    assert (record.key, record.version, record.data, record.expires_at) == (key("a"), 1, data, EXPIRES)


def test_record_of_the_largest_size_is_kept(store: RecordStore) -> None:
    store.commit([insert(f"large-{number}", b"x" * MAX_RECORD_BYTES) for number in range(9)])
    found = store.get([key(f"large-{number}") for number in range(9)])
    assert [len(record.data) for record in found.values()] == [MAX_RECORD_BYTES] * 9


def test_kinds_do_not_share_ids(store: RecordStore) -> None:
    store.commit([insert("a", b"1"), insert("a", b"2", RecordKind.OVERFLOW)])
    assert store.get([key("a")])[key("a")].data == b"1"


def test_each_update_raises_the_version_by_one(store: RecordStore) -> None:
    store.commit([insert("a")])
    store.commit([update("a", 1)])
    store.commit([update("a", 2, b"newest")])
    record = store.get([key("a")])[key("a")]
    assert (record.version, record.data, record.expires_at) == (3, b"newest", EXPIRES + 1)


@pytest.mark.parametrize(
    "change",
    [
        insert("there"),
        update("there", 2),
        update("missing", 1),
        Delete(key=key("there"), expected=2),
        Delete(key=key("missing"), expected=1),
    ],
    ids=["insert of what exists", "stale update", "update of nothing", "stale delete", "delete of nothing"],
)
def test_commit_with_one_wrong_version_changes_nothing(store: RecordStore, change: Change) -> None:
    store.commit([insert("there"), insert("other")])
    with pytest.raises(RecordConflictError):
        store.commit([insert("a-new"), update("other", 1), change, insert("z-new")])
    assert versions(store, "there", "other", "a-new", "z-new") == {"there": 1, "other": 1}


def test_delete_removes_and_the_id_is_free_again(store: RecordStore) -> None:
    store.commit([insert("a"), insert("b")])
    store.commit([Delete(key=key("a"), expected=1), update("b", 1)])
    assert versions(store, "a", "b") == {"b": 2}
    store.commit([insert("a")])
    assert versions(store, "a") == {"a": 1}


def test_scan_gives_one_kind_in_the_order_of_ids(store: RecordStore) -> None:
    names = [f"{number:03d}" for number in range(23)]
    store.commit([insert(name) for name in reversed(names)])
    store.commit([insert("in between", kind=RecordKind.OVERFLOW)])
    seen: list[str] = []
    after = ""
    while page := store.scan(RecordKind.LEDGER, after=after, limit=5):
        assert len(page) <= 5
        seen += [record.key.id for record in page]
        after = page[-1].key.id
    assert seen == names


def test_ids_with_signs_are_ordered_by_code_point(store: RecordStore) -> None:
    names = ["A", "B-00001", "a-00000", "a-00001", "b"]
    store.commit([insert(name) for name in names])
    assert [record.key.id for record in store.scan(RecordKind.LEDGER, limit=3)] == names[:3]


def test_of_many_inserts_of_one_record_exactly_one_wins(store: RecordStore) -> None:
    def attempt(number: int) -> bool:
        try:
            store.commit([insert("contested", str(number).encode())])
        except RecordConflictError:
            return False
        return True

    won = in_threads(12, attempt)
    assert sum(won) == 1
    assert store.get([key("contested")])[key("contested")].data == str(won.index(True)).encode()


def test_of_many_updates_of_one_version_exactly_one_wins(store: RecordStore) -> None:
    store.commit([insert("contested"), insert("beside")])

    def attempt(number: int) -> bool:
        try:
            # The two records in an order of their own: writers must not wait for each other in a circle.
            changes = [update("contested", 1, str(number).encode()), update("beside", 1)]
            store.commit(changes if number % 2 else changes[::-1])
        except RecordConflictError:
            return False
        return True

    assert sum(in_threads(12, attempt)) == 1
    assert versions(store, "contested", "beside") == {"contested": 2, "beside": 2}


def test_counter_that_every_thread_raises_ends_exact(store: RecordStore) -> None:
    store.commit([insert("counter", b"0")])

    def raise_it(_: int) -> None:
        done = 0
        while done < 5:
            record = store.get([key("counter")])[key("counter")]
            try:
                store.commit([update("counter", record.version, str(int(record.data) + 1).encode())])
            except RecordConflictError:
                continue
            done += 1

    in_threads(6, raise_it)
    assert store.get([key("counter")])[key("counter")].data == b"30"


def test_commit_may_change_as_much_as_one_may_insert(store: RecordStore) -> None:
    names = [f"large-{number}" for number in range(9)]
    store.commit([insert(name, b"x" * MAX_RECORD_BYTES) for name in names])
    store.commit([update(name, 1, b"y" * MAX_RECORD_BYTES) for name in names])
    assert versions(store, *names) == dict.fromkeys(names, 2)
    store.commit([Delete(key=key(name), expected=2) for name in names])
    assert versions(store, *names) == {}
