"""A gateway before the local cloud: it writes down the calls, and refuses or loses those that it is told to."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import Any

import grpc

from tests.support.channels import open_channel

_TRACING = frozenset({"x-goog-request-params", "x-goog-api-client"})


class Gateway(grpc.GenericRpcHandler):
    """Passes calls on as bytes.

    Attributes:
        calls: The methods that were called, without their service.
        requests: What they were called with.
        refusals: Status of the methods that are not passed on.
        silent: Methods that are not answered before the test ends.
    """

    def __init__(self, behind: grpc.Channel) -> None:
        self._behind = behind
        self.ended = Event()
        self.calls: list[str] = []
        self.requests: list[bytes] = []
        self.refusals: dict[str, grpc.StatusCode] = {}
        self.silent: set[str] = set()
        self.address = ""

    def calls_without_repeats(self) -> list[str]:
        """The methods that were called, less those that a client on a busy machine called once more in the same way."""
        pairs = list(zip(self.calls, self.requests, strict=True))
        return [pair[0] for before, pair in zip([None, *pairs], pairs, strict=False) if pair != before]

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        path = handler_call_details.method
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self._answer(path, request, context))

    def _answer(self, path: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        method = path.rpartition("/")[2]
        self.calls.append(method)
        self.requests.append(request)
        if method in self.silent:
            self.ended.wait(30)
        if method in self.refusals:
            context.abort(self.refusals[method], "said the gateway")
        call: Any = self._behind.unary_unary(path)
        metadata = [pair for pair in context.invocation_metadata() if pair[0] in _TRACING]
        try:
            answer: bytes = call(request, timeout=20, metadata=metadata)
        except grpc.RpcError as error:
            context.abort(error.code(), error.details() or "")
        return answer


@contextmanager
def open_gateway(address: str) -> Iterator[Gateway]:
    """Stand before the local cloud at an address."""
    with open_channel(address) as channel:
        gateway = Gateway(channel)
        server = grpc.server(ThreadPoolExecutor(4), handlers=[gateway])
        gateway.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield gateway
        finally:
            gateway.ended.set()
            server.stop(None).wait(20)
