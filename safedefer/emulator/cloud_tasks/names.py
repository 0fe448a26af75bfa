"""Names of locations, queues and tasks, and the service's words for names it refuses."""

import re
from typing import NewType

import grpc

from safedefer.emulator.cloud_tasks.errors import CallError, invalid_argument
from safedefer.emulator.cloud_tasks.messages import ErrorInfo, Help

LocationName = NewType("LocationName", str)
QueueName = NewType("QueueName", str)
TaskName = NewType("TaskName", str)

# A project id may carry the domain it belongs to: example.com:project.
_LOCATION = r"projects/[A-Za-z0-9:.-]+/locations/[A-Za-z0-9-]+"
_QUEUE = _LOCATION + r"/queues/[A-Za-z0-9-]{1,100}"
_TASK_ID = r"[A-Za-z0-9_-]{1,500}"
_REST_REFERENCE = "https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues"


def parse_location_name(text: str) -> LocationName:
    """Read `projects/P/locations/L`.

    Raises:
        CallError: PERMISSION_DENIED, as the service answers for a project it does not know.
    """
    if re.fullmatch(_LOCATION, text):
        return LocationName(text)
    consumer = ErrorInfo(
        reason="CONSUMER_INVALID",
        domain="googleapis.com",
        metadata={"consumer": text, "service": "cloudtasks.googleapis.com"},
    )
    raise CallError(grpc.StatusCode.PERMISSION_DENIED, f"Permission denied on resource project {text}.", consumer)


def parse_queue_name(text: str) -> QueueName:
    """Read `projects/P/locations/L/queues/Q`.

    Raises:
        CallError: INVALID_ARGUMENT.
    """
    if re.fullmatch(_QUEUE, text):
        return QueueName(text)
    raise invalid_argument(
        'Queue name must be formatted: "projects/<PROJECT_ID>/locations/<LOCATION_ID>/queues/<QUEUE_ID>".',
        _help("Definition of queue name", f"{_REST_REFERENCE}#Queue.FIELDS.name"),
    )


def parse_task_name(text: str) -> TaskName:
    """Read `projects/P/locations/L/queues/Q/tasks/T`.

    Raises:
        CallError: INVALID_ARGUMENT.
    """
    queue, separator, task_id = text.partition("/tasks/")
    if not separator or not re.fullmatch(_QUEUE, queue):
        raise invalid_argument(
            "Task name must be formatted: "
            '"projects/<PROJECT_ID>/locations/<LOCATION_ID>/queues/<QUEUE_ID>/tasks/<TASK_ID>".',
            _help("Definition of task ID", f"{_REST_REFERENCE}.tasks#Task.FIELDS.name"),
        )
    if not re.fullmatch(_TASK_ID, task_id):
        raise invalid_argument(
            f'Task ID "{task_id}" can contain only letters ([A-Za-z]), numbers ([0-9]), hyphens (-), or '
            "underscores (_). Task ID must between 1 and 500 characters.",
            _help("Definition of task ID", f"{_REST_REFERENCE}.tasks#Task.FIELDS.name"),
        )
    return TaskName(text)


def parse_task_name_in(queue: QueueName, text: str) -> TaskName:
    """Read the name of a task that is to be created in `queue`.

    Raises:
        CallError: INVALID_ARGUMENT, also for the name of a task in another queue.
    """
    named, _, _ = text.partition("/tasks/")
    if named != queue and re.fullmatch(_QUEUE, named):
        raise invalid_argument(
            f"The queue name from request ('{queue}') must be the same as the queue name in the named task ('{named}')."
        )
    return parse_task_name(text)


def task_name(queue: QueueName, task_id: str) -> TaskName:
    """Put a task id that the service made itself under its queue."""
    return TaskName(f"{queue}/tasks/{task_id}")


def location_of(queue: QueueName) -> LocationName:
    """Return the location that holds `queue`."""
    return LocationName(queue.partition("/queues/")[0])


def queue_of(task: TaskName) -> QueueName:
    """Return the queue that holds `task`."""
    return QueueName(task.partition("/tasks/")[0])


def short_id(name: QueueName | TaskName) -> str:
    """Return the last part of a name, as the headers of a dispatch carry it."""
    return name.rpartition("/")[2]


def _help(description: str, url: str) -> Help:
    return Help(links=[Help.Link(description=description, url=url)])
