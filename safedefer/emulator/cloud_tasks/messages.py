"""The protobuf classes of google.cloud.tasks.v2, and what the type checker may know of them (messages.pyi).

The Cloud Tasks package wraps its messages in proto-plus classes, which is comfortable for a caller. A server needs the
plain classes below them: they tell a field that is unset from one that is zero, and they parse and serialize without a
second object per message. This is the only module of the emulator that reaches for them. google.rpc and
google.longrunning ship no types, so they pass through here as well.
"""

from google.cloud import tasks_v2
from google.longrunning.operations_pb2 import GetOperationRequest, Operation
from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import ErrorInfo, Help
from google.rpc.status_pb2 import Status

Queue = tasks_v2.Queue.pb()
RateLimits = tasks_v2.RateLimits.pb()
RetryConfig = tasks_v2.RetryConfig.pb()
Task = tasks_v2.Task.pb()
Attempt = tasks_v2.Attempt.pb()
HttpRequest = tasks_v2.HttpRequest.pb()
OidcToken = tasks_v2.OidcToken.pb()

ListQueuesRequest = tasks_v2.ListQueuesRequest.pb()
ListQueuesResponse = tasks_v2.ListQueuesResponse.pb()
GetQueueRequest = tasks_v2.GetQueueRequest.pb()
CreateQueueRequest = tasks_v2.CreateQueueRequest.pb()
UpdateQueueRequest = tasks_v2.UpdateQueueRequest.pb()
DeleteQueueRequest = tasks_v2.DeleteQueueRequest.pb()
PurgeQueueRequest = tasks_v2.PurgeQueueRequest.pb()
PauseQueueRequest = tasks_v2.PauseQueueRequest.pb()
ResumeQueueRequest = tasks_v2.ResumeQueueRequest.pb()
ListTasksRequest = tasks_v2.ListTasksRequest.pb()
ListTasksResponse = tasks_v2.ListTasksResponse.pb()
GetTaskRequest = tasks_v2.GetTaskRequest.pb()
CreateTaskRequest = tasks_v2.CreateTaskRequest.pb()
DeleteTaskRequest = tasks_v2.DeleteTaskRequest.pb()
RunTaskRequest = tasks_v2.RunTaskRequest.pb()
BatchCreateTasksRequest = tasks_v2.BatchCreateTasksRequest.pb()
BatchCreateTasksResponse = tasks_v2.BatchCreateTasksResponse.pb()
BatchCreateTasksMetadata = tasks_v2.BatchCreateTasksMetadata.pb()

RUNNING = int(tasks_v2.Queue.State.RUNNING)
PAUSED = int(tasks_v2.Queue.State.PAUSED)
FULL_VIEW = int(tasks_v2.Task.View.FULL)
BASIC_VIEW = int(tasks_v2.Task.View.BASIC)
METHOD_NAMES = {int(method): method.name for method in tasks_v2.HttpMethod if method}
POST = int(tasks_v2.HttpMethod.POST)
BATCH_RUNNING = int(tasks_v2.BatchCreateTasksMetadata.State.RUNNING)
BATCH_SUCCEEDED = int(tasks_v2.BatchCreateTasksMetadata.State.SUCCEEDED)
BATCH_FAILED = int(tasks_v2.BatchCreateTasksMetadata.State.FAILED)
BATCH_PARTIALLY_SUCCEEDED = int(tasks_v2.BatchCreateTasksMetadata.State.PARTIALLY_SUCCEEDED)

__all__ = [
    "BASIC_VIEW",
    "BATCH_FAILED",
    "BATCH_PARTIALLY_SUCCEEDED",
    "BATCH_RUNNING",
    "BATCH_SUCCEEDED",
    "FULL_VIEW",
    "METHOD_NAMES",
    "PAUSED",
    "POST",
    "RUNNING",
    "Attempt",
    "BatchCreateTasksMetadata",
    "BatchCreateTasksRequest",
    "BatchCreateTasksResponse",
    "CreateQueueRequest",
    "CreateTaskRequest",
    "DeleteQueueRequest",
    "DeleteTaskRequest",
    "Duration",
    "Empty",
    "ErrorInfo",
    "GetOperationRequest",
    "GetQueueRequest",
    "GetTaskRequest",
    "Help",
    "HttpRequest",
    "ListQueuesRequest",
    "ListQueuesResponse",
    "ListTasksRequest",
    "ListTasksResponse",
    "OidcToken",
    "Operation",
    "PauseQueueRequest",
    "PurgeQueueRequest",
    "Queue",
    "RateLimits",
    "ResumeQueueRequest",
    "RetryConfig",
    "RunTaskRequest",
    "Status",
    "Task",
    "Timestamp",
    "UpdateQueueRequest",
]
