"""QueueAdmin over google-cloud-tasks."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final, final

from google.api_core import exceptions
from google.api_core.retry import Retry, if_exception_type
from google.api_core.timeout import ConstantTimeout
from google.cloud import tasks_v2
from google.protobuf.field_mask_pb2 import FieldMask

from safedefer.core.names import QueueName
from safedefer.core.queues import PresentQueue, QueueField, QueueSpec, QueueValue
from safedefer.gcp.cloud_tasks import TaskTarget
from safedefer.gcp.faults import QueueExists, QueueMissing, managing_queue

_PATHS: Final[Mapping[QueueField, str]] = MappingProxyType(
    {
        QueueField.RATE_PER_SECOND: "rate_limits.max_dispatches_per_second",
        QueueField.RATE_MAX_CONCURRENT: "rate_limits.max_concurrent_dispatches",
        QueueField.RETRY_MAX_ATTEMPTS: "retry_config.max_attempts",
        QueueField.RETRY_MAX_DURATION: "retry_config.max_retry_duration",
        QueueField.RETRY_MIN_BACKOFF: "retry_config.min_backoff",
        QueueField.RETRY_MAX_BACKOFF: "retry_config.max_backoff",
        QueueField.RETRY_MAX_DOUBLINGS: "retry_config.max_doublings",
        QueueField.LOGGING_SAMPLING_RATIO: "stackdriver_logging_config.sampling_ratio",
    }
)
# A local cloud that does not answer is not running; nobody wants to wait to be told.
_LOCAL_TRIES_SECONDS: Final = 1.0
_TRANSIENT: Final = if_exception_type(exceptions.ServiceUnavailable, exceptions.DeadlineExceeded, exceptions.Aborted)


@final
class CloudTasksQueues:
    """Reads, creates and updates queues through the official client."""

    def __init__(self, connect: Callable[[], tasks_v2.CloudTasksClient], target: TaskTarget) -> None:
        """Take where the client comes from; it is asked for anew before every call."""
        self._connect = connect
        self._location = f"projects/{target.project}/locations/{target.location}"
        self._is_local = target.emulator_host is not None

    def get(self, name: QueueName, *, within: timedelta) -> PresentQueue | None:
        """Read a queue, or None where there is none of that name."""
        path = self._path(name)
        try:
            with managing_queue(path):
                return _present(self._connect().get_queue(name=path, **self._call(within)))
        except QueueMissing:
            return None

    def create(self, spec: QueueSpec, *, within: timedelta) -> bool:
        """Create a queue; False where there is one of that name."""
        queue = _message(self._path(spec.name), spec.values)
        try:
            with managing_queue(queue.name):
                self._connect().create_queue(parent=self._location, queue=queue, **self._call(within))
        except QueueExists:
            return False
        return True

    def update(self, spec: QueueSpec, fields: Collection[QueueField], *, within: timedelta) -> None:
        """Change the named settings and no other."""
        queue = _message(self._path(spec.name), {field: spec.values[field] for field in fields})
        mask = FieldMask(paths=[_PATHS[field] for field in fields])
        with managing_queue(queue.name):
            self._connect().update_queue(queue=queue, update_mask=mask, **self._call(within))

    def all(self, *, within: timedelta) -> Sequence[PresentQueue]:
        """Read every queue of the location, by name."""
        with managing_queue(self._location):
            listed = self._connect().list_queues(parent=self._location, **self._call(within))
            return [_present(queue) for queue in listed]

    def _path(self, name: QueueName) -> str:
        return f"{self._location}/queues/{name}"

    def _call(self, within: timedelta) -> dict[str, Any]:
        """How a call is repeated. Every call here can be.

        One half of the time is for beginning tries, the other for the last one to end. A plain number as timeout would
        not do: the client starts it anew when less than a second is left.
        """
        half = within.total_seconds() / 2
        begin = min(half, _LOCAL_TRIES_SECONDS) if self._is_local else half
        retry = Retry(predicate=_TRANSIENT, initial=0.1, multiplier=2.0, maximum=1.0, timeout=begin)
        timeout = ConstantTimeout(half)  # type: ignore[no-untyped-call]  # The class predates annotations.
        return {"retry": retry, "timeout": timeout}


def _message(path: str, values: Mapping[QueueField, QueueValue]) -> tasks_v2.Queue:
    message = tasks_v2.Queue.pb()(name=path)
    for field, value in values.items():
        parent, _, name = _PATHS[field].partition(".")
        if isinstance(value, timedelta):
            getattr(getattr(message, parent), name).FromTimedelta(value)
        else:
            setattr(getattr(message, parent), name, value)
    queue: tasks_v2.Queue = tasks_v2.Queue.wrap(message)
    return queue


def _present(queue: tasks_v2.Queue) -> PresentQueue:
    message = tasks_v2.Queue.pb(queue)
    return PresentQueue(
        name=queue.name.rpartition("/")[2],
        state=tasks_v2.Queue.State(queue.state).name.lower(),
        values=MappingProxyType({field: _value(message, path) for field, path in _PATHS.items()}),
    )


def _value(message: Any, path: str) -> QueueValue:
    parent, _, name = path.partition(".")
    value: Any = getattr(getattr(message, parent), name)
    found: QueueValue = value if isinstance(value, int | float) else value.ToTimedelta()
    return found
