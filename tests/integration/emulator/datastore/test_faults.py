"""Faults of the local Datastore, as the official client sees them."""

import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.api_core import exceptions
from google.cloud.datastore_v1.services.datastore import DatastoreClient
from google.cloud.datastore_v1.services.datastore.transports import DatastoreGrpcTransport
from google.cloud.datastore_v1.types import (
    BeginTransactionRequest,
    CommitRequest,
    CommitResponse,
    Entity,
    Key,
    Mutation,
    TransactionOptions,
)

from safedefer.emulator.datastore import DatastoreServer
from tests.support.channels import open_channel

SHORT = 0.2
"""Seconds that a client waits for a server that is slow."""


@pytest.fixture
def server() -> Iterator[DatastoreServer]:
    with DatastoreServer() as running:
        yield running


@pytest.fixture
def client(server: DatastoreServer) -> Iterator[DatastoreClient]:
    with open_channel(server.address) as channel:
        yield DatastoreClient(transport=DatastoreGrpcTransport(channel=channel))


def key(name: str) -> Key:
    return Key(path=[Key.PathElement(kind="Row", name=name)])


def begin(client: DatastoreClient) -> bytes:
    options = TransactionOptions(read_write={})
    return client.begin_transaction(BeginTransactionRequest(project_id="p", transaction_options=options)).transaction


def commit(
    client: DatastoreClient, name: str, *, transaction: bytes | None = None, timeout: float = 10.0
) -> CommitResponse:
    request = CommitRequest(
        project_id="p",
        mode=CommitRequest.Mode.TRANSACTIONAL,
        mutations=[Mutation(insert=Entity(key=key(name)))],
    )
    if transaction is None:
        request.single_use_transaction = TransactionOptions(read_write={})
    else:
        request.transaction = transaction
    return client.commit(request=request, timeout=timeout)


def is_there(client: DatastoreClient, name: str) -> bool:
    return bool(client.lookup(project_id="p", keys=[key(name)], retry=None, timeout=10).found)


def test_aborted_commit_changes_nothing_and_ends_its_transaction(
    server: DatastoreServer, client: DatastoreClient
) -> None:
    transaction = begin(client)
    server.faults.once("abort")
    with pytest.raises(exceptions.Aborted):
        commit(client, "a", transaction=transaction)
    with pytest.raises(exceptions.InvalidArgument, match="no longer valid"):
        commit(client, "a", transaction=transaction)
    assert not is_there(client, "a")
    commit(client, "a", transaction=begin(client))
    assert is_there(client, "a")


def test_commit_outside_a_transaction_is_aborted_too(server: DatastoreServer, client: DatastoreClient) -> None:
    server.faults.once("abort")
    with pytest.raises(exceptions.Aborted):
        commit(client, "a")
    assert not is_there(client, "a")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.UNAVAILABLE, exceptions.ServiceUnavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, exceptions.DeadlineExceeded),
    ],
)
def test_ambiguous_commit_is_made_and_says_otherwise(
    server: DatastoreServer,
    client: DatastoreClient,
    code: grpc.StatusCode,
    error: type[exceptions.GoogleAPICallError],
) -> None:
    server.faults.once("ambiguous-commit", code=code)
    with pytest.raises(error):
        commit(client, "a")
    assert is_there(client, "a")


def test_faults_of_commits_leave_other_calls_alone(server: DatastoreServer, client: DatastoreClient) -> None:
    server.faults.set("abort", 1)
    server.faults.set("ambiguous-commit", 1)
    assert not is_there(client, "a")
    begin(client)
    assert server.faults.happened == {}


def test_refused_call_does_nothing(server: DatastoreServer, client: DatastoreClient) -> None:
    server.faults.next("refuse", 2, code=grpc.StatusCode.PERMISSION_DENIED)
    with pytest.raises(exceptions.PermissionDenied, match="injected fault: refuse"):
        commit(client, "a")
    with pytest.raises(exceptions.PermissionDenied):
        is_there(client, "a")
    assert not is_there(client, "a")


def test_slow_answer_comes_behind_the_deadline_of_the_client_and_the_commit_is_made(
    server: DatastoreServer, client: DatastoreClient
) -> None:
    server.faults.once("slow")
    with pytest.raises(exceptions.DeadlineExceeded):
        commit(client, "a", timeout=SHORT)
    assert is_there(client, "a")


def test_slow_answer_comes_at_last_to_who_waits_longer(server: DatastoreServer, client: DatastoreClient) -> None:
    server.faults.once("slow", seconds=SHORT)
    commit(client, "a")
    assert is_there(client, "a")


def test_slow_calls_do_not_hold_up_others_or_the_end_of_the_server() -> None:
    with DatastoreServer() as server, open_channel(server.address) as channel:
        client = DatastoreClient(transport=DatastoreGrpcTransport(channel=channel))
        server.faults.once("slow")
        waiting: Any = channel.unary_unary("/google.datastore.v1.Datastore/Commit").future(
            CommitRequest.serialize(
                CommitRequest(
                    project_id="p",
                    mode=CommitRequest.Mode.NON_TRANSACTIONAL,
                    mutations=[Mutation(insert=Entity(key=key("a")))],
                )
            )
        )
        until = time.monotonic() + 10
        while not server.faults.happened["slow"]:
            assert time.monotonic() < until
        commit(client, "b")
        assert not waiting.done()
        server.stop()
        assert waiting.exception(timeout=10) is not None
