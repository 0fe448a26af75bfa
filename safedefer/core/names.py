"""Names as types, and the one parser of each.

Every parser takes `object`, since a name may come from a setting, a call or verified claims.
"""

import re
from typing import Final, NewType

from safedefer.errors import InvalidNameError

FunctionName = NewType("FunctionName", str)
QueueName = NewType("QueueName", str)
ProjectName = NewType("ProjectName", str)
LocationName = NewType("LocationName", str)
EnvironmentName = NewType("EnvironmentName", str)
HandlerId = NewType("HandlerId", str)
TaskName = NewType("TaskName", str)
"""The last part of a Cloud Tasks task name."""
TaskId = NewType("TaskId", bytes)
"""16 random bytes; signed."""
KeyId = NewType("KeyId", bytes)
"""8 bytes derived from a key; public."""

TASK_ID_BYTES: Final = 16
KEY_ID_BYTES: Final = 8

_FUNCTION = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_QUEUE = re.compile(r"[A-Za-z0-9-]{1,100}")
_PROJECT = re.compile(r"[A-Za-z0-9:.-]{1,100}")
_LOCATION = re.compile(r"[a-z0-9-]{1,64}")
_ENVIRONMENT = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_HANDLER = re.compile(r"[!-~]{1,256}")
_TASK = re.compile(r"[A-Za-z0-9_-]{1,500}")


def parse_function_name(value: object) -> FunctionName:
    """Read a function name: 1 to 128 of letters, digits, `_ . : -`.

    Raises:
        InvalidNameError: The value is not such a string.
    """
    return FunctionName(_match(_FUNCTION, value, "function name", "1 to 128 letters, digits or _.:-"))


def parse_queue_name(value: object) -> QueueName:
    """Read a queue id, not a full queue path.

    Raises:
        InvalidNameError: The value is not 1 to 100 letters, digits or hyphens.
    """
    return QueueName(_match(_QUEUE, value, "queue", "1 to 100 letters, digits or hyphens, without the project's path"))


def parse_project_name(value: object) -> ProjectName:
    """Read a Google Cloud project id.

    Raises:
        InvalidNameError: The value is not such a string.
    """
    return ProjectName(_match(_PROJECT, value, "project", "1 to 100 letters, digits or :.-"))


def parse_location_name(value: object) -> LocationName:
    """Read a Cloud Tasks location such as `europe-west1`.

    Raises:
        InvalidNameError: The value is not such a string.
    """
    return LocationName(_match(_LOCATION, value, "location", "a region id such as europe-west1"))


def parse_environment_name(value: object) -> EnvironmentName:
    """Read the name of a deployment environment.

    Raises:
        InvalidNameError: The value is not 1 to 64 letters, digits or `_.-`.
    """
    return EnvironmentName(_match(_ENVIRONMENT, value, "environment", "1 to 64 letters, digits or _.-"))


def parse_handler_id(value: object) -> HandlerId:
    """Read a handler id: 1 to 256 printable ASCII characters without spaces.

    Raises:
        InvalidNameError: The value is not such a string.
    """
    return HandlerId(_match(_HANDLER, value, "handler id", "1 to 256 printable ASCII characters"))


def parse_task_name(value: object) -> TaskName:
    """Read the id part of a task name.

    Raises:
        InvalidNameError: The value is not 1 to 500 letters, digits, hyphens or underscores.
    """
    return TaskName(
        _match(_TASK, value, "task name", "1 to 500 letters, digits, hyphens or underscores, without the queue's path")
    )


def parse_task_id(value: object) -> TaskId:
    """Read a task id.

    Raises:
        InvalidNameError: The value is not 16 bytes.
    """
    if not isinstance(value, bytes) or len(value) != TASK_ID_BYTES:
        raise InvalidNameError("a task id is 16 bytes")
    return TaskId(value)


def _match(pattern: re.Pattern[str], value: object, kind: str, expected: str) -> str:
    if not isinstance(value, str):
        raise InvalidNameError(f"{kind}: expected a string of {expected}, got {type(value).__name__}")
    if pattern.fullmatch(value) is None:
        # The value itself stays out of the message: it may come from a request, and it may be long.
        raise InvalidNameError(f"{kind}: expected {expected}")
    return str.__str__(value)  # A plain str, of a member of a StrEnum as well: nothing else can be signed.
