"""TaskSender over google-cloud-tasks: HTTP target, identity token, named creates, one client per process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeAlias, final

from google.api_core import exceptions
from google.api_core.retry import Retry, if_exception_type
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from safedefer.core.envelope import CONTENT_TYPE
from safedefer.core.limits import MAX_INLINE_TASK_BYTES
from safedefer.core.names import LocationName, ProjectName
from safedefer.core.ports import OutgoingTask, SendableTask
from safedefer.core.retries import RetryOptions
from safedefer.core.routing import routed_url
from safedefer.errors import SafeDeferError
from safedefer.gcp.batches import create_batch
from safedefer.gcp.client_logs import hide_payloads
from safedefer.gcp.faults import TaskAlreadyExists, creating_task
from safedefer.gcp.local_channel import open_local_channel
from safedefer.gcp.per_process import PerProcess

TasksClient: TypeAlias = tasks_v2.CloudTasksClient

# Cloud Tasks refuses a call whose deadline is more than 30 s ahead by its own clock. One try is far below that, and
# so are all tries of one create together.
_TRY_SECONDS: Final = 8.0
_ALL_TRIES_SECONDS: Final = 24.0
# Safe to repeat: every task is named, so that a second create of it is refused by the service.
_RETRY: Final = Retry(
    predicate=if_exception_type(
        exceptions.ServiceUnavailable,
        exceptions.DeadlineExceeded,
        exceptions.InternalServerError,
        exceptions.Aborted,
        exceptions.ResourceExhausted,
    ),
    initial=0.1,
    multiplier=2.0,
    maximum=4.0,
    timeout=_ALL_TRIES_SECONDS,
)
# A local cloud that does not answer is not running; nobody wants to wait to be told.
_LOCAL_RETRY: Final = _RETRY.with_timeout(1.0)
_NANOSECONDS: Final = 1_000_000_000
_SECOND: Final = timedelta(seconds=1)
_MICROSECOND: Final = timedelta(microseconds=1)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTarget:
    """Where tasks are created and whom they call.

    Attributes:
        handler_url: What the task requests.
        audience: Of its identity token; always explicit, since the default is the URL of the request.
        service_account: In whose name the token speaks.
        emulator_host: host:port of a local Cloud Tasks; None means Google's.
    """

    project: ProjectName
    location: LocationName
    handler_url: str
    audience: str
    service_account: str
    emulator_host: str | None = None


@final
@dataclass(frozen=True, slots=True, repr=False)
class _PreparedTask:
    parent: str
    task: tasks_v2.Task
    size_bytes: int
    envelope: bytes


@final
class CloudTasksSender:
    """Creates tasks through the official client.

    The client is made on first use in each process: a channel that was used before a fork fails in the child.
    """

    def __init__(self, target: TaskTarget, before_first_send: Callable[[TasksClient], None] | None = None) -> None:
        """Take where tasks go.

        Args:
            before_first_send: Called once in each process, with its client; it must not raise.
        """
        self._target = target
        host = target.emulator_host
        self._retry = _RETRY if host is None else _LOCAL_RETRY
        self._advice = "" if host is None else f"; no local cloud answers at {host}: start one with safedefer-emulator"
        self._client = PerProcess(lambda: make_client(target), before_first_send)

    def prepare(self, task: OutgoingTask) -> SendableTask:
        """Build the message for the service. Its size is that of its serialized form."""
        target = self._target
        parent = f"projects/{target.project}/locations/{target.location}/queues/{task.queue}"
        message = tasks_v2.Task.pb()(
            name=f"{parent}/tasks/{task.name}",
            http_request={
                "url": routed_url(target.handler_url, task.route),
                "http_method": tasks_v2.HttpMethod.POST,
                "headers": {"Content-Type": CONTENT_TYPE},
                "body": task.envelope,
                "oidc_token": {"service_account_email": target.service_account, "audience": target.audience},
            },
            dispatch_deadline=Duration(seconds=int(task.deadline.total_seconds())),
            schedule_time=None if task.schedule_time is None else _timestamp(task.schedule_time),
            retry_config=None if task.retry is None else _retry_config(task.retry),
        )
        return _PreparedTask(parent, tasks_v2.Task.wrap(message), message.ByteSize(), task.envelope)

    def send(self, task: SendableTask) -> bool:
        """Create the task, repeating what may be repeated for up to 24 seconds.

        Returns:
            False where a task of that name exists or existed too recently. A task of ours whose first create was
            answered too late also reads as existing when it was given a name; one without is known to be ours.
        """
        if not isinstance(task, _PreparedTask):
            raise TypeError("CloudTasksSender sends what it has prepared")
        try:
            with creating_task(task.parent, task.size_bytes, MAX_INLINE_TASK_BYTES, advice=self._advice):
                client = self._client.get()
                client.create_task(parent=task.parent, task=task.task, retry=self._retry, timeout=_TRY_SECONDS)
        except TaskAlreadyExists:
            return False
        return True

    def send_many(self, tasks: Sequence[SendableTask]) -> Sequence[bool | SafeDeferError]:
        """Create tasks of one queue in one call, repeating what may be repeated."""
        prepared = [task for task in tasks if isinstance(task, _PreparedTask)]
        if len(prepared) < len(tasks) or len({task.parent for task in prepared}) > 1:
            raise TypeError("CloudTasksSender sends what it has prepared, one queue at a time")
        if not prepared:
            return []
        messages = [task.task for task in prepared]
        return create_batch(self._client.get, prepared[0].parent, messages, self._retry, self._advice)


def make_client(target: TaskTarget) -> TasksClient:
    """Make a client for Google's Cloud Tasks or for the local one. Its log records hold no arguments."""
    hide_payloads(CloudTasksGrpcTransport)
    host = target.emulator_host
    if host is None:
        return tasks_v2.CloudTasksClient()
    return tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=open_local_channel(host)))


def _retry_config(retry: RetryOptions) -> dict[str, object]:
    # Every field, so that none is filled in from elsewhere. The handler gives up, and keeps what it gives up on.
    return {
        "max_attempts": -1,
        "min_backoff": _duration(retry.shortest),
        "max_backoff": _duration(retry.longest),
        "max_doublings": retry.doublings,
    }


def _duration(time: timedelta) -> Duration:
    return Duration(seconds=time // _SECOND, nanos=(time % _SECOND) // _MICROSECOND * 1_000)


def _timestamp(moment: float) -> Timestamp:
    nanoseconds = round(moment * 1_000_000) * 1_000
    return Timestamp(seconds=nanoseconds // _NANOSECONDS, nanos=nanoseconds % _NANOSECONDS)
