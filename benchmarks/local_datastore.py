"""Calls of the official client to the local Datastore, against the same calls to a server that gives a canned answer.

Both run in processes of their own. The canned answer is what the local Datastore answered before, so that the floor is
what the client, the connection and the messages cost.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import grpc
from google.cloud.datastore_v1.services.datastore import DatastoreClient
from google.cloud.datastore_v1.services.datastore.transports import DatastoreGrpcTransport

from benchmarks.timing import measure_pairs, print_ratios

PAIRS: Final = 300
FLOOR: Final = "floor: a canned answer"
LOCAL: Final = "the local Datastore"


def main() -> None:
    """Lookups, commits and queries over a small and a large kind."""
    for rows in (1_000, 20_000):
        with ExitStack() as running:
            datastore = running.enter_context(client_of(running.enter_context(server("local"))))
            fill(datastore, rows)
            for title, (method, request) in calls(rows).items():
                answer = getattr(datastore, method)(request=request)
                canned = type(answer).serialize(answer).hex()
                with server("canned", canned) as address, client_of(address) as plain:
                    compare(f"{title}, {rows:,} rows", getattr(plain, method), getattr(datastore, method), request)


def calls(rows: int) -> Mapping[str, tuple[str, Any]]:
    """One request of each kind, by its title."""
    middle = rows // 2
    behind = {"property_filter": {"property": {"name": "__key__"}, "op": "GREATER_THAN", "value": key_value(middle)}}
    by_key = [{"property": {"name": "__key__"}}]
    equal = {"property_filter": {"property": {"name": "n"}, "op": "EQUAL", "value": {"integer_value": 7}}}
    return {
        "Lookup of 1 entity": ("lookup", {"project_id": "p", "keys": [key(middle)]}),
        "Lookup of 100 entities": ("lookup", {"project_id": "p", "keys": [key(number) for number in range(1, 101)]}),
        "Commit of 1 entity": ("commit", commit_of([middle])),
        "Commit of 100 entities": ("commit", commit_of(range(1, 101))),
        "Query of a page of 100 keys": ("run_query", query_of(filter=behind, order=by_key, limit=100)),
        "Query by a value in no order": ("run_query", query_of(filter=equal, limit=10)),
        "Query in the order of a value": ("run_query", query_of(order=[{"property": {"name": "n"}}], limit=100)),
    }


def compare(title: str, floor: Callable[..., object], local: Callable[..., object], request: Any) -> None:
    """Take turns between the two servers."""
    slow = "order of a value" in title
    first, second = measure_pairs(
        lambda: floor(request=request), lambda: local(request=request), pairs=PAIRS // 30 if slow else PAIRS
    )
    print_ratios(f"{title}: {1 / second:,.0f} a second", {FLOOR: first, LOCAL: second}, FLOOR)


def key(number: int) -> dict[str, Any]:
    """A key by its id."""
    return {"path": [{"kind": "Row", "id": number}]}


def key_value(number: int) -> dict[str, Any]:
    """A value that is a key."""
    return {"key_value": key(number)}


def commit_of(numbers: Any) -> dict[str, Any]:
    """A commit that writes rows."""
    entities = [
        {"key": key(number), "properties": {"n": {"integer_value": number % 100}, "text": {"string_value": "x" * 200}}}
        for number in numbers
    ]
    mutations = [{"upsert": entity} for entity in entities]
    return {"project_id": "p", "mode": "NON_TRANSACTIONAL", "mutations": mutations}


def query_of(**query: Any) -> dict[str, Any]:
    """A query of the rows."""
    return {"project_id": "p", "query": {"kind": [{"name": "Row"}], **query}}


def fill(client: DatastoreClient, rows: int) -> None:
    """Write the rows."""
    for start in range(1, rows + 1, 500):
        client.commit(request=commit_of(range(start, start + 500)))


@contextmanager
def client_of(address: str) -> Iterator[DatastoreClient]:
    """The official client on a connection of its own."""
    with grpc.insecure_channel(address) as channel:
        yield DatastoreClient(transport=DatastoreGrpcTransport(channel=channel))


@contextmanager
def server(*arguments: str) -> Iterator[str]:
    """This script as a server in another process; its address."""
    process = subprocess.Popen(
        [sys.executable, __file__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(10)


def serve_local() -> None:
    """The local Datastore, until the standard input ends."""
    from safedefer.emulator.datastore import DatastoreServer

    with DatastoreServer() as running:
        print(running.address, flush=True)
        sys.stdin.read()


def serve_canned(answer: bytes) -> None:
    """The same bytes to every call, until the standard input ends."""

    class Canned(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
            return grpc.unary_unary_rpc_method_handler(lambda request, context: answer)

    running = grpc.server(ThreadPoolExecutor(4), handlers=[Canned()])
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    print(f"127.0.0.1:{port}", flush=True)
    sys.stdin.read()
    running.stop(0).wait()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["local"]:
            serve_local()
        case ["canned", answer]:
            serve_canned(bytes.fromhex(answer))
        case _:
            main()
