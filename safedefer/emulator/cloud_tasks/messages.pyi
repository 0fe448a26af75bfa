# The fields that the emulator uses. messages.py says why these classes are written out by hand.
from collections.abc import Iterable

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration as Duration
from google.protobuf.empty_pb2 import Empty as Empty
from google.protobuf.internal.containers import (
    MessageMap,
    RepeatedCompositeFieldContainer,
    RepeatedScalarFieldContainer,
    ScalarMap,
)
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp as Timestamp

RUNNING: int
PAUSED: int
BASIC_VIEW: int
FULL_VIEW: int
METHOD_NAMES: dict[int, str]
POST: int
BATCH_RUNNING: int
BATCH_SUCCEEDED: int
BATCH_FAILED: int
BATCH_PARTIALLY_SUCCEEDED: int

class FieldMask(Message):
    paths: RepeatedScalarFieldContainer[str]
    # The published stub names a class of descriptors that not every implementation of protobuf uses.
    def IsValidForDescriptor(self, message_descriptor: object) -> bool: ...  # noqa: N802 (protobuf's name)
    def MergeMessage(  # noqa: N802 (protobuf's name)
        self,
        source: Message,
        destination: Message,
        replace_message_field: bool = ...,
        replace_repeated_field: bool = ...,
    ) -> None: ...

class Status(Message):
    code: int
    message: str
    details: RepeatedCompositeFieldContainer[AnyMessage]
    def __init__(self, *, code: int = ..., message: str = ...) -> None: ...

class Help(Message):
    class Link(Message):
        description: str
        url: str
        def __init__(self, *, description: str = ..., url: str = ...) -> None: ...

    links: RepeatedCompositeFieldContainer[Link]
    def __init__(self, *, links: Iterable[Link] = ...) -> None: ...

class ErrorInfo(Message):
    reason: str
    domain: str
    metadata: ScalarMap[str, str]
    def __init__(self, *, reason: str = ..., domain: str = ..., metadata: dict[str, str] = ...) -> None: ...

class RateLimits(Message):
    max_dispatches_per_second: float
    max_burst_size: int
    max_concurrent_dispatches: int

class RetryConfig(Message):
    max_attempts: int
    max_retry_duration: Duration
    min_backoff: Duration
    max_backoff: Duration
    max_doublings: int

class StackdriverLoggingConfig(Message):
    sampling_ratio: float

class Queue(Message):
    name: str
    rate_limits: RateLimits
    retry_config: RetryConfig
    state: int
    purge_time: Timestamp
    http_target: Message
    stackdriver_logging_config: StackdriverLoggingConfig
    def __init__(self, *, name: str = ...) -> None: ...

class OidcToken(Message):
    service_account_email: str
    audience: str

class HttpRequest(Message):
    url: str
    http_method: int
    headers: ScalarMap[str, str]
    body: bytes
    oidc_token: OidcToken

class Attempt(Message):
    schedule_time: Timestamp
    dispatch_time: Timestamp
    response_time: Timestamp
    response_status: Status

class Task(Message):
    name: str
    http_request: HttpRequest
    schedule_time: Timestamp
    create_time: Timestamp
    dispatch_deadline: Duration
    dispatch_count: int
    response_count: int
    first_attempt: Attempt
    last_attempt: Attempt
    view: int
    retry_config: RetryConfig
    def __init__(self, *, name: str = ...) -> None: ...

class ListQueuesRequest(Message):
    parent: str
    filter: str
    page_size: int
    page_token: str

class ListQueuesResponse(Message):
    queues: RepeatedCompositeFieldContainer[Queue]
    next_page_token: str
    def __init__(self, *, queues: Iterable[Queue] = ..., next_page_token: str = ...) -> None: ...

class GetQueueRequest(Message):
    name: str

class CreateQueueRequest(Message):
    parent: str
    queue: Queue

class UpdateQueueRequest(Message):
    queue: Queue
    update_mask: FieldMask

class DeleteQueueRequest(Message):
    name: str

class PurgeQueueRequest(Message):
    name: str

class PauseQueueRequest(Message):
    name: str

class ResumeQueueRequest(Message):
    name: str

class ListTasksRequest(Message):
    parent: str
    response_view: int
    page_size: int
    page_token: str

class ListTasksResponse(Message):
    tasks: RepeatedCompositeFieldContainer[Task]
    next_page_token: str
    def __init__(self, *, tasks: Iterable[Task] = ..., next_page_token: str = ...) -> None: ...

class GetTaskRequest(Message):
    name: str
    response_view: int

class CreateTaskRequest(Message):
    parent: str
    task: Task
    response_view: int

class DeleteTaskRequest(Message):
    name: str

class RunTaskRequest(Message):
    name: str
    response_view: int

class BatchCreateTasksRequest(Message):
    parent: str
    requests: RepeatedCompositeFieldContainer[CreateTaskRequest]
    request_id: str

class BatchCreateTasksResponse(Message):
    tasks: RepeatedCompositeFieldContainer[Task]
    def __init__(self, *, tasks: Iterable[Task] = ...) -> None: ...

class BatchCreateTasksMetadata(Message):
    start_time: Timestamp
    end_time: Timestamp
    state: int
    failed_requests: MessageMap[int, Status]
    def __init__(self, *, state: int = ...) -> None: ...

class GetOperationRequest(Message):
    name: str

class Operation(Message):
    name: str
    metadata: AnyMessage
    done: bool
    error: Status
    response: AnyMessage
    def __init__(self, *, name: str = ..., done: bool = ...) -> None: ...
