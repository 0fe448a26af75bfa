"""Projections, distinct results, masks, aggregations and metadata kinds, through the official client."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import datastore
from google.cloud.datastore.query import PropertyFilter
from google.cloud.datastore_v1.services.datastore import DatastoreClient
from google.cloud.datastore_v1.services.datastore.transports import DatastoreGrpcTransport

from safedefer.emulator.datastore import DatastoreServer
from tests.support.channels import open_channel

ROWS: dict[str, dict[str, object]] = {
    "a": {"n": 1, "tags": ["x", "y"], "owner": "Ada"},
    "b": {"n": 2, "tags": ["x"], "owner": "Ada"},
    "c": {"n": 3, "tags": [], "owner": "Bob"},
    "d": {"n": 4.5, "owner": "Bob"},
}


@pytest.fixture(scope="module")
def server() -> Iterator[DatastoreServer]:
    with DatastoreServer() as running:
        yield running


@pytest.fixture
def client(server: DatastoreServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    server.reset()
    monkeypatch.setenv("DATASTORE_EMULATOR_HOST", server.address)
    client: Any = datastore.Client(project="p")
    for name, properties in ROWS.items():
        put(client, name, **properties)
    yield client
    client._datastore_api.transport.close()


@pytest.fixture
def raw(server: DatastoreServer) -> Iterator[DatastoreClient]:
    with open_channel(server.address) as channel:
        yield DatastoreClient(transport=DatastoreGrpcTransport(channel=channel))


def put(client: Any, name: str, **properties: object) -> None:
    entity = datastore.Entity(client.key("Row", name))
    entity.update(properties)
    client.put(entity)


def test_projection_gives_one_result_for_each_combination_of_values(client: Any) -> None:
    found = [(e.key.name, dict(e)) for e in client.query(kind="Row", projection=["tags", "n"], order=["n"]).fetch()]
    assert found == [("a", {"tags": "x", "n": 1}), ("a", {"tags": "y", "n": 1}), ("b", {"tags": "x", "n": 2})]


def test_inequality_chooses_among_the_values_that_are_projected(client: Any) -> None:
    query = client.query(kind="Row", projection=["tags"])
    query.add_filter(filter=PropertyFilter("tags", ">", "x"))
    assert [(e.key.name, e["tags"]) for e in query.fetch()] == [("a", "y")]


def test_times_are_projected_as_microseconds(client: Any) -> None:
    put(client, "t", at=datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC))
    (found,) = client.query(kind="Row", projection=["at"]).fetch()
    assert found["at"] == 1_767_323_045_000_006


@pytest.mark.parametrize(
    ("projection", "equal"), [(["n", "n"], "owner"), (["n"], "n")], ids=["twice", "with an equality filter"]
)
def test_projection_that_the_service_refuses_is_refused(client: Any, projection: list[str], equal: str) -> None:
    query = client.query(kind="Row", projection=projection)
    query.add_filter(filter=PropertyFilter(equal, "=", 1))
    with pytest.raises(exceptions.InvalidArgument):
        list(query.fetch())


def test_distinct_keeps_the_first_of_each_combination(client: Any) -> None:
    query = client.query(kind="Row", projection=["owner"], distinct_on=["owner"], order=["-owner"])
    assert [e["owner"] for e in query.fetch()] == ["Bob", "Ada"]
    whole = client.query(kind="Row", distinct_on=["owner"], order=["owner", "-n"])
    assert [e.key.name for e in whole.fetch()] == ["b", "d"]
    with pytest.raises(exceptions.InvalidArgument):
        list(client.query(kind="Row", distinct_on=["owner"], order=["n", "owner"]).fetch())


def test_cursors_go_through_projected_and_distinct_results(client: Any) -> None:
    for options in ({"projection": ["tags"]}, {"projection": ["owner"], "distinct_on": ["owner"]}):
        query = client.query(kind="Row", **options)
        whole = [(e.key.name, dict(e)) for e in query.fetch()]
        seen, cursor = [], None
        for _ in whole:
            iterator = query.fetch(limit=1, start_cursor=cursor)
            seen += [(e.key.name, dict(e)) for e in next(iterator.pages)]
            cursor = iterator.next_page_token
        assert seen == whole


def test_properties_inside_entity_values_are_found(client: Any) -> None:
    inner = datastore.Entity()
    inner["city"] = "Graz"
    put(client, "in", address=inner)
    query = client.query(kind="Row")
    query.add_filter(filter=PropertyFilter("address.city", "=", "Graz"))
    assert [e.key.name for e in query.fetch()] == ["in"]


def test_sum_and_average_take_numbers_alone(client: Any) -> None:
    put(client, "text", n="five")
    query = client.query(kind="Row")
    aggregation = client.aggregation_query(query).sum("n", alias="sum").avg("n", alias="avg").count(alias="count")
    ((*results,),) = aggregation.fetch()
    assert {result.alias: result.value for result in results} == {"sum": 10.5, "avg": 2.625, "count": 5}
    nothing = client.aggregation_query(client.query(kind="None")).sum("n").fetch()
    ((total,),) = nothing
    assert total.value == 0


def test_metadata_kinds_tell_what_there_is(client: Any) -> None:
    other = datastore.Client(project="p", namespace="other")
    put(other, "z", n=1)
    assert [e.key.id_or_name for e in client.query(kind="__namespace__").fetch()] == [1, "other"]
    assert [e.key.name for e in client.query(kind="__kind__").fetch()] == ["Row"]
    query = client.query(kind="__property__", ancestor=client.key("__kind__", "Row"))
    found = {e.key.name: e["property_representation"] for e in query.fetch()}
    assert found == {"n": ["DOUBLE", "INT64"], "owner": ["STRING"], "tags": ["STRING"]}
    assert [e.key.parent.name for e in other.query(kind="__property__").fetch()] == ["Row"]


def test_mask_hides_properties_and_never_the_key(raw: DatastoreClient, client: Any) -> None:
    key = {"path": [{"kind": "Row", "name": "a"}]}
    request: Any = {"project_id": "p", "keys": [key], "property_mask": {"paths": ["n", "absent"]}}
    (found,) = raw.lookup(request=request).found
    assert list(found.entity.properties) == ["n"]
    assert found.entity.key.path[0].name == "a"
    query: Any = {"project_id": "p", "query": {"kind": [{"name": "Row"}]}, "property_mask": {"paths": ["owner"]}}
    results = raw.run_query(request=query).batch.entity_results
    assert [list(result.entity.properties) for result in results] == [["owner"]] * 4


def mutate(raw: DatastoreClient, **mutation: Any) -> Any:
    request: Any = {"project_id": "p", "mode": "NON_TRANSACTIONAL", "mutations": [mutation]}
    return raw.commit(request=request).mutation_results[0]


def entity_of(name: str, **properties: Any) -> dict[str, Any]:
    return {"key": {"path": [{"kind": "Row", "name": name}]}, "properties": properties}


def test_masked_mutation_changes_what_it_names_and_nothing_else(raw: DatastoreClient, client: Any) -> None:
    given = entity_of("a", n={"integer_value": 9}, owner={"string_value": "nobody"})
    mutate(raw, update=given, property_mask={"paths": ["n", "tags"]})
    assert dict(client.get(client.key("Row", "a"))) == {"n": 9, "owner": "Ada"}


def test_transforms_work_on_what_is_stored(raw: DatastoreClient, client: Any) -> None:
    texts = {"values": [{"string_value": "y"}, {"string_value": "z"}]}
    result = mutate(
        raw,
        update=entity_of("a"),
        property_mask={"paths": []},
        property_transforms=[
            {"property": "n", "increment": {"integer_value": 41}},
            {"property": "n", "maximum": {"integer_value": 7}},
            {"property": "new", "minimum": {"double_value": 0.5}},
            {"property": "tags", "append_missing_elements": texts},
            {"property": "tags", "remove_all_from_array": {"values": [{"string_value": "x"}]}},
            {"property": "inner.at", "set_to_server_value": "REQUEST_TIME"},
        ],
    )
    found = client.get(client.key("Row", "a"))
    assert found["n"] == 42
    assert found["new"] == 0.5
    assert found["tags"] == ["y", "z"]
    assert found["inner"]["at"].microsecond % 1_000 == 0
    assert [value._pb.WhichOneof("value_type") for value in result.transform_results] == [
        "integer_value",
        "integer_value",
        "double_value",
        "null_value",
        "null_value",
        "timestamp_value",
    ]


def test_integers_stop_at_their_limits(raw: DatastoreClient, client: Any) -> None:
    transform = {"property": "n", "increment": {"integer_value": (1 << 63) - 1}}
    result = mutate(raw, update=entity_of("a", n={"integer_value": 1}), property_transforms=[transform])
    assert result.transform_results[0].integer_value == (1 << 63) - 1


def test_update_time_detects_a_conflict(raw: DatastoreClient, client: Any) -> None:
    seen = mutate(raw, upsert=entity_of("new"))
    assert not mutate(raw, update=entity_of("new"), update_time=seen.update_time).conflict_detected
    assert mutate(raw, update=entity_of("new"), update_time={"seconds": 1}).conflict_detected


def read_and_be_overtaken(raw: DatastoreClient, client: Any, owner: str) -> None:
    """Read what belongs to Ada in a transaction while somebody else writes a row of an owner."""
    query = client.query(kind="Row")
    query.add_filter(filter=PropertyFilter("owner", "=", "Ada"))
    with client.transaction() as transaction:
        list(query.fetch())
        mutate(raw, upsert=entity_of("e", owner={"string_value": owner}))
        transaction.put(datastore.Entity(client.key("Other", 1)))


def test_query_in_a_transaction_conflicts_with_what_it_could_find_alone(raw: DatastoreClient, client: Any) -> None:
    read_and_be_overtaken(raw, client, "Bob")
    with pytest.raises(exceptions.Aborted):
        read_and_be_overtaken(raw, client, "Ada")


def test_end_cursor_says_that_there_may_be_more_behind_it(raw: DatastoreClient, client: Any) -> None:
    request: Any = {"project_id": "p", "query": {"kind": [{"name": "Row"}]}}
    cursors = [result.cursor for result in raw.run_query(request=request).batch.entity_results]
    request["query"]["end_cursor"] = cursors[1]
    batch = raw.run_query(request=request).batch
    assert [result.cursor for result in batch.entity_results] == cursors[:2]
    assert batch.more_results.name == "MORE_RESULTS_AFTER_CURSOR"


@pytest.mark.parametrize(
    "query",
    [
        {"filter": {"property_filter": {"property": {"name": "n"}, "op": "EQUAL", "value": {"integer_value": 1}}}},
        {"order": [{"property": {"name": "n"}, "direction": "ASCENDING"}]},
        {"kind": [{"name": "Row"}], "start_cursor": b"nonsense"},
    ],
    ids=["filter without a kind", "order without a kind", "foreign cursor"],
)
def test_query_that_the_service_refuses_is_refused(raw: DatastoreClient, query: dict[str, Any]) -> None:
    request: Any = {"project_id": "p", "query": query}
    with pytest.raises(exceptions.InvalidArgument):
        raw.run_query(request=request)
