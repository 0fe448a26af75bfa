"""How a call fails: a status code and a text."""

from typing import Final, final

import grpc

MAX_ENTITY_BYTES: Final = 1_048_572
MAX_INDEXED_BYTES: Final = 1_500
MAX_REQUEST_BYTES: Final = 10 * 1024 * 1024
MAX_LOOKUP_KEYS: Final = 1_000
MAX_NAME_BYTES: Final = 1_500
MAX_PATH: Final = 100
MAX_DEPTH: Final = 20


@final
class CallError(Exception):
    """The answer to a call that is refused."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def invalid(text: str) -> CallError:
    """A request that can never succeed."""
    return CallError(grpc.StatusCode.INVALID_ARGUMENT, text)


def aborted() -> CallError:
    """A transaction that another commit was faster than."""
    return CallError(grpc.StatusCode.ABORTED, "too much contention on these datastore entities. please try again.")


def unsupported(what: str) -> CallError:
    """Something that the service does and this does not."""
    return CallError(grpc.StatusCode.UNIMPLEMENTED, f"The local Datastore does not support {what}.")
