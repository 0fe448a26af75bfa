"""The local Datastore through the official client."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from urllib.request import Request, urlopen

import pytest
from google.api_core import exceptions
from google.cloud import datastore
from google.cloud.datastore.helpers import GeoPoint
from google.cloud.datastore.query import And, Or, PropertyFilter
from google.cloud.datastore_v1.services.datastore import DatastoreClient
from google.cloud.datastore_v1.services.datastore.transports import DatastoreGrpcTransport

from safedefer.emulator import ManualClock
from safedefer.emulator.datastore import DatastoreServer
from tests.support.channels import open_channel


@pytest.fixture(scope="module")
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture(scope="module")
def server(clock: ManualClock) -> Iterator[DatastoreServer]:
    with DatastoreServer(clock=clock) as running:
        yield running


@pytest.fixture
def client(server: DatastoreServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    server.reset()
    monkeypatch.setenv("DATASTORE_EMULATOR_HOST", server.address)
    client: Any = datastore.Client(project="p")
    yield client
    connected: Any = client
    connected._datastore_api.transport.close()  # Its connection is shared by address: a later server may get this port.


def make(client: Any, kind: str, name: str | int, **properties: object) -> Any:
    entity = datastore.Entity(client.key(kind, name))
    entity.update(properties)
    client.put(entity)
    return entity


def names(query: Any, **options: Any) -> list[Any]:
    return [entity.key.id_or_name for entity in query.fetch(**options)]


def where(client: Any, *filters: Any, kind: str = "Row", order: tuple[str, ...] = ()) -> Any:
    query = client.query(kind=kind)
    for part in filters:
        query.add_filter(filter=part)
    query.order = order
    return query


def test_every_type_of_value_comes_back(client: Any) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    inner = datastore.Entity()
    inner["x"] = 1
    values = {
        "null": None,
        "bool": True,
        "int": -(1 << 63),
        "double": 1.5,
        "time": moment,
        "key": client.key("Other", 5),
        "text": "h\u00e9",
        "blob": b"\x00\xff",
        "point": GeoPoint(1.5, 2.5),
        "inner": inner,
        "list": [1, "a", None],
        "empty": [],
    }
    make(client, "Row", "a", **values)
    assert dict(client.get(client.key("Row", "a"))) == values


def test_missing_entity_is_none_and_ids_are_allocated(client: Any) -> None:
    assert client.get(client.key("Row", "nobody")) is None
    entities: list[Any] = [datastore.Entity(client.key("Row")) for _ in range(20)]
    client.put_multi(entities)
    assert len({entity.key.id for entity in entities}) == 20
    assert len({key.id for key in client.allocate_ids(client.key("Row"), 30)}) == 30


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ([PropertyFilter("n", "=", 2)], ["b"]),
        ([PropertyFilter("n", "<", 3)], ["a", "b"]),
        ([PropertyFilter("n", "<=", 3)], ["a", "b", "c"]),
        ([PropertyFilter("n", ">", 3)], ["d"]),
        ([PropertyFilter("n", ">=", 3)], ["c", "d"]),
        ([PropertyFilter("n", "!=", 2)], ["a", "c", "d"]),
        ([PropertyFilter("n", "IN", [4, 1, 9])], ["a", "d"]),
        ([PropertyFilter("n", "NOT_IN", [4, 1])], ["b", "c"]),
        ([PropertyFilter("tags", "=", "x")], ["a", "b"]),
        ([PropertyFilter("n", ">", 1), PropertyFilter("tags", "=", "x")], ["b"]),
        ([Or([PropertyFilter("n", "=", 1), PropertyFilter("n", "=", 4)])], ["a", "d"]),
        ([And([PropertyFilter("n", ">", 1), PropertyFilter("n", "<", 4)])], ["b", "c"]),
        ([PropertyFilter("hidden", "=", 1)], []),
        ([PropertyFilter("absent", "=", None)], []),
        ([PropertyFilter("n", "=", "2")], []),
        ([PropertyFilter("n", ">", "a")], []),
        ([PropertyFilter("n", ">", None)], ["a", "b", "c", "d"]),
        ([PropertyFilter("n", "<", "a")], ["a", "b", "c", "d"]),
        ([PropertyFilter("tags", ">", "w"), PropertyFilter("tags", "<", "y")], ["a", "b"]),
        ([PropertyFilter("tags", ">", "x"), PropertyFilter("tags", "<", "y")], []),
    ],
)
def test_filter_finds_what_it_says(client: Any, filters: list[Any], found: list[str]) -> None:
    for number, name in enumerate("abcd", 1):
        entity = datastore.Entity(client.key("Row", name), exclude_from_indexes=("hidden",))
        entity.update({"n": number, "hidden": 1, "tags": ["x", "y"] if number < 3 else ["y"]})
        client.put(entity)
    assert sorted(names(where(client, *filters))) == found


def test_key_filters_and_ancestors(client: Any) -> None:
    for name in "abcd":
        make(client, "Row", name)
    parent = client.key("Parent", 1)
    child = datastore.Entity(client.key("Row", "z", parent=parent))
    client.put(child)
    query = where(client, PropertyFilter("__key__", ">", client.key("Row", "b")), order=("__key__",))
    assert names(query) == ["c", "d"]
    assert [entity.key for entity in client.query(kind="Row", ancestor=parent).fetch()] == [child.key]
    assert [entity.key for entity in client.query(ancestor=parent).fetch()] == [child.key]


def test_order_goes_by_type_then_value_and_leaves_out_what_has_none(client: Any) -> None:
    values: dict[str, object] = {"f": "b", "e": "a", "c": 2, "d": 2.5, "b": True, "a": None, "g": b"a"}
    for name, value in values.items():
        make(client, "Row", name, v=value)
    make(client, "Row", "nothing", w=1)
    assert names(where(client, order=("v",))) == list("abcdefg")
    assert names(where(client, order=("-v",))) == list("gfedcba")


def test_pages_cursors_offsets_and_limits_give_the_rows_of_one_page(client: Any) -> None:
    entities = []
    for number in range(1, 851):
        entity = datastore.Entity(client.key("Row", number))
        entity.update({"n": number % 7, "w": number})
        entities.append(entity)
    client.put_multi(entities)
    query = where(client, order=("n", "-w"))
    whole = names(query)
    assert len(whole) == 850
    assert whole == [e.key.id for e in sorted(entities, key=lambda e: (e["n"], -e["w"]))]
    seen: list[object] = []
    cursor = None
    while True:
        iterator = query.fetch(limit=97, start_cursor=cursor)
        page = list(next(iterator.pages))
        seen += [entity.key.id for entity in page]
        cursor = iterator.next_page_token
        if cursor is None:
            break
    assert seen == whole
    assert names(query, offset=500, limit=5) == whole[500:505]
    assert names(query, limit=0) == [] or len(names(query, limit=0)) == 850  # The client takes 0 for none.
    assert len(client.get_multi([entity.key for entity in entities])) == 850
    ((counted,),) = client.aggregation_query(query).count(alias="n").fetch()
    assert counted.value == 850


def test_large_entities_come_in_pages_below_what_a_client_receives(client: Any) -> None:
    keys = [client.key("Large", number) for number in range(1, 12)]
    for key in keys:
        entity = datastore.Entity(key, exclude_from_indexes=("data",))
        entity["data"] = b"x" * 900_000
        client.put(entity)
    assert len(client.get_multi(keys)) == 11
    assert len(list(client.query(kind="Large").fetch())) == 11


def test_namespaces_databases_and_projects_are_kept_apart(client: Any) -> None:
    make(client, "Row", "a", n=1)
    others = [
        datastore.Client(project="p", namespace="other"),
        datastore.Client(project="p", database="other"),
        datastore.Client(project="q"),
    ]
    for other in others:
        assert other.get(other.key("Row", "a")) is None
        assert names(other.query(kind="Row")) == []


def test_transaction_reads_as_of_its_beginning_and_sees_none_of_its_own_writes(client: Any) -> None:
    make(client, "Row", "a", n=1)
    with client.transaction(read_only=True):
        assert client.get(client.key("Row", "a"))["n"] == 1
        with ThreadPoolExecutor(1) as pool:
            pool.submit(make, client, "Row", "a", n=2).result()
        assert client.get(client.key("Row", "a"))["n"] == 1
    assert client.get(client.key("Row", "a"))["n"] == 2


def write_elsewhere(client: Any, name: str, **properties: object) -> None:
    """A write that is none of the transaction that is open in this thread."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(make, client, "Row", name, **properties).result()


def read_and_be_overtaken(client: Any, read: Callable[[], object], overtaken_by: str) -> None:
    with client.transaction() as transaction:
        read()
        write_elsewhere(client, overtaken_by, n=2)
        transaction.put(datastore.Entity(client.key("Other", "x")))


def test_first_committer_wins_and_the_other_is_aborted(client: Any) -> None:
    make(client, "Row", "a", n=1)
    with pytest.raises(exceptions.Aborted):
        read_and_be_overtaken(client, lambda: client.get(client.key("Row", "a")), "a")
    with pytest.raises(exceptions.Aborted):
        read_and_be_overtaken(client, lambda: client.get(client.key("Row", "b")), "b")
    with pytest.raises(exceptions.Aborted):
        read_and_be_overtaken(client, lambda: list(client.query(kind="Row").fetch()), "c")
    assert client.get(client.key("Other", "x")) is None
    read_and_be_overtaken(client, lambda: client.get(client.key("Row", "a")), "d")
    assert client.get(client.key("Other", "x")) is not None


def test_counter_raised_in_retried_transactions_ends_exact(client: Any) -> None:
    make(client, "Counter", "c", n=0)

    def raise_it(_: int) -> None:
        mine = datastore.Client(project="p")
        done = 0
        while done < 5:
            try:
                with mine.transaction():
                    entity: Any = mine.get(mine.key("Counter", "c"))
                    entity["n"] += 1
                    mine.put(entity)
            except exceptions.Aborted:
                continue
            done += 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(raise_it, range(4)))
    assert client.get(client.key("Counter", "c"))["n"] == 20


def test_transaction_expires(client: Any, clock: ManualClock) -> None:
    make(client, "Row", "a", n=1)
    transaction = client.transaction()
    transaction.begin()
    client.get(client.key("Row", "a"), transaction=transaction)
    clock.advance(61)
    with pytest.raises(exceptions.InvalidArgument, match="expired or is no longer valid"):
        client.get(client.key("Row", "a"), transaction=transaction)


def put_and_fail(client: Any) -> None:
    with client.transaction() as transaction:
        transaction.put(datastore.Entity(client.key("Row", "a")))
        raise ZeroDivisionError


def test_rolled_back_transaction_writes_nothing(client: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        put_and_fail(client)
    assert client.get(client.key("Row", "a")) is None


@pytest.fixture
def raw(server: DatastoreServer) -> Iterator[DatastoreClient]:
    server.reset()
    with open_channel(server.address) as channel:
        yield DatastoreClient(transport=DatastoreGrpcTransport(channel=channel))


def entity_of(name: str, **properties: object) -> dict[str, Any]:
    return {"key": {"path": [{"kind": "Row", "name": name}]}, "properties": properties}


def commit(raw: DatastoreClient, *mutations: dict[str, Any]) -> Any:
    request: Any = {"project_id": "p", "mode": "NON_TRANSACTIONAL", "mutations": mutations}
    return raw.commit(request=request)


def test_insert_update_and_their_refusals(raw: DatastoreClient) -> None:
    commit(raw, {"insert": entity_of("a")})
    with pytest.raises(exceptions.AlreadyExists):
        commit(raw, {"insert": entity_of("a")})
    with pytest.raises(exceptions.NotFound):
        commit(raw, {"update": entity_of("b")})
    commit(raw, {"update": entity_of("a")}, {"upsert": entity_of("b")}, {"delete": entity_of("c")["key"]})


def test_refused_commit_changes_nothing(raw: DatastoreClient) -> None:
    commit(raw, {"insert": entity_of("a")})
    with pytest.raises(exceptions.AlreadyExists):
        commit(raw, {"insert": entity_of("b")}, {"insert": entity_of("a")})
    request: Any = {"project_id": "p", "keys": [entity_of("b")["key"]]}
    assert len(raw.lookup(request=request).missing) == 1


def test_base_version_detects_a_conflict(raw: DatastoreClient) -> None:
    version = commit(raw, {"insert": entity_of("a")}).mutation_results[0].version
    commit(raw, {"update": entity_of("a")})
    kept = commit(raw, {"update": entity_of("a"), "base_version": version})
    assert kept.mutation_results[0].conflict_detected
    failing = {"update": entity_of("a"), "base_version": version, "conflict_resolution_strategy": "FAIL"}
    with pytest.raises(exceptions.Aborted):
        commit(raw, failing)


@pytest.mark.parametrize(
    "entity",
    [
        {"key": {"path": []}},
        {"key": {"path": [{"kind": "", "name": "a"}]}},
        {"key": {"path": [{"kind": "__Row__", "name": "a"}]}},
        {"key": {"path": [{"kind": "Row", "name": "x" * 1_501}]}},
        {"key": {"partition_id": {"project_id": "q"}, "path": [{"kind": "Row", "name": "a"}]}},
        entity_of("a", long={"string_value": "x" * 1_501}),
        entity_of("a", large={"blob_value": b"x" * 1_100_000, "exclude_from_indexes": True}),
        entity_of("a", __hidden__={"integer_value": 1}),
        entity_of("a", nested={"array_value": {"values": [{"array_value": {"values": []}}]}}),
    ],
)
def test_entity_that_the_service_refuses_is_refused(raw: DatastoreClient, entity: dict[str, Any]) -> None:
    with pytest.raises(exceptions.InvalidArgument):
        commit(raw, {"upsert": entity})


@pytest.mark.parametrize(
    ("request_of", "named"),
    [
        ({"gql_query": {"query_string": "SELECT * FROM Row"}}, "GQL"),
        ({"query": {"kind": [{"name": "__Stat_Total__"}]}}, "__Stat_Total__"),
        ({"query": {"kind": [{"name": "Row"}]}, "read_options": {"read_time": {"seconds": 1}}}, "read_time"),
        ({"query": {"kind": [{"name": "Row"}]}, "explain_options": {"analyze": True}}, "explain_options"),
    ],
)
def test_what_is_not_done_says_so(raw: DatastoreClient, request_of: dict[str, Any], named: str) -> None:
    request: Any = {"project_id": "p", **request_of}
    with pytest.raises(exceptions.MethodNotImplemented, match=f"does not support .*{named}"):
        raw.run_query(request=request)


def test_scatter_marks_a_part_of_the_keys_always_the_same(client: Any) -> None:
    client.put_multi([datastore.Entity(client.key("Row", number)) for number in range(1, 301)])
    query = client.query(kind="Row", order=("__scatter__",))
    query.keys_only()
    found = names(query)
    assert 90 < len(found) < 210
    assert found == names(query)
    assert found != sorted(found)


def test_health_and_reset_over_http(client: Any, server: DatastoreServer) -> None:
    make(client, "Row", "a")
    base = f"http://127.0.0.1:{server.admin_port}"
    with urlopen(f"{base}/") as answer:
        assert answer.status == 200
    with urlopen(Request(f"{base}/reset", method="POST")) as answer:
        assert answer.status == 200
    assert client.get(client.key("Row", "a")) is None
