"""How a call to the local Cloud Tasks service fails: a status code, the service's own text, and its details."""

import grpc
from google.protobuf.message import Message

ENTITY_NOT_FOUND = "Requested entity was not found."
QUEUE_NOT_FOUND = (
    "Queue does not exist. If you just created the queue, wait at least a minute for the queue to initialize."
)


class CallError(Exception):
    """The answer to a call that the service refuses."""

    def __init__(self, code: grpc.StatusCode, text: str, *details: Message) -> None:
        """Keep the status, the text that the caller sees, and messages for the status details."""
        super().__init__(text)
        self.code = code
        self.text = text
        self.details = details

    @property
    def number(self) -> int:
        """The code as google.rpc.Code numbers it."""
        number: int = self.code.value[0]
        return number


def invalid_argument(text: str, *details: Message) -> CallError:
    """Return the error for a request that can never succeed."""
    return CallError(grpc.StatusCode.INVALID_ARGUMENT, text, *details)


def not_found(text: str) -> CallError:
    """Return the error for a queue, task or operation that is not there."""
    return CallError(grpc.StatusCode.NOT_FOUND, text)


def already_exists(text: str) -> CallError:
    """Return the error for a name that is taken."""
    return CallError(grpc.StatusCode.ALREADY_EXISTS, text)


def not_supported(what: str, *, instead: str = "") -> CallError:
    """Return the error for something that the real service does and this one does not."""
    advice = f" {instead}" if instead else ""
    return CallError(grpc.StatusCode.UNIMPLEMENTED, f"The local Cloud Tasks service does not support {what}.{advice}")
