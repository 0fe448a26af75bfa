"""The gRPC surface: method names, raw protobuf messages, and errors as the service words them.

The Cloud Tasks package ships a client and no servicer, so the methods are registered by name.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import NoReturn, TypeVar

import grpc
from google.protobuf.message import Message

from safedefer.emulator.clock import Clock
from safedefer.emulator.cloud_tasks import messages
from safedefer.emulator.cloud_tasks.engine import Engine
from safedefer.emulator.cloud_tasks.errors import CallError, invalid_argument, not_supported
from safedefer.emulator.cloud_tasks.limits import MAX_CALL_DEADLINE
from safedefer.emulator.cloud_tasks.messages import Empty, Operation, Queue, Status, Task
from safedefer.emulator.cloud_tasks.names import (
    parse_location_name,
    parse_queue_name,
    parse_task_name,
)
from safedefer.emulator.cloud_tasks.operations import Operations

_TASKS_SERVICE = "/google.cloud.tasks.v2.CloudTasks/"
_OPERATIONS_SERVICE = "/google.longrunning.Operations/"
_NO_DEADLINE = timedelta(days=365)
"""gRPC reports a call without a deadline as one centuries ahead."""

Request = TypeVar("Request", bound=Message)


class Surface(grpc.GenericRpcHandler):
    """Answers every method of the service; those not offered here with UNIMPLEMENTED and their name."""

    def __init__(self, engine: Engine, operations: Operations, clock: Clock) -> None:
        """Register the methods."""
        self._engine = engine
        self._operations = operations
        self._clock = clock
        self._methods: dict[str, Callable[[bytes], Message]] = {}
        self._register_queue_methods()
        self._register_task_methods()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, Message]":
        """Find the handler of a method. gRPC calls this for every call that arrives."""
        path = handler_call_details.method
        answer = self._methods.get(path)

        def handle(request: bytes, context: grpc.ServicerContext) -> Message:
            try:
                if answer is None:
                    raise not_supported(path.rpartition("/")[2])
                if path.startswith(_TASKS_SERVICE):
                    # Not of operations: the official client asks for them with a deadline ten minutes ahead.
                    self._check_deadline(context)
                return answer(request)
            except CallError as error:
                _abort(context, error)

        return grpc.unary_unary_rpc_method_handler(handle, response_serializer=_serialize)

    def _check_deadline(self, context: grpc.ServicerContext) -> None:
        remaining = context.time_remaining()
        if remaining > _NO_DEADLINE.total_seconds():
            return
        if remaining > MAX_CALL_DEADLINE.total_seconds():
            deadline = self._clock.now() + timedelta(seconds=remaining)
            raise invalid_argument(
                f"The request deadline is {deadline.isoformat()}. The deadline cannot be more than 30s in the future."
            )

    def _register(self, path: str, kind: type[Request], answer: Callable[[Request], Message]) -> None:
        self._methods[path] = lambda body: answer(kind.FromString(body))

    def _register_queue_methods(self) -> None:
        engine = self._engine
        at = _TASKS_SERVICE
        self._register(f"{at}CreateQueue", messages.CreateQueueRequest, self._create_queue)
        self._register(f"{at}ListQueues", messages.ListQueuesRequest, self._list_queues)
        self._register(f"{at}UpdateQueue", messages.UpdateQueueRequest, engine.update_queue)
        self._register(f"{at}GetQueue", messages.GetQueueRequest, lambda r: engine.get_queue(parse_queue_name(r.name)))
        self._register(f"{at}DeleteQueue", messages.DeleteQueueRequest, self._delete_queue)
        self._register(
            f"{at}PurgeQueue", messages.PurgeQueueRequest, lambda r: engine.purge_queue(parse_queue_name(r.name))
        )
        self._register(
            f"{at}PauseQueue",
            messages.PauseQueueRequest,
            lambda r: engine.pause_queue(parse_queue_name(r.name), paused=True),
        )
        self._register(
            f"{at}ResumeQueue",
            messages.ResumeQueueRequest,
            lambda r: engine.pause_queue(parse_queue_name(r.name), paused=False),
        )

    def _register_task_methods(self) -> None:
        at = _TASKS_SERVICE
        self._register(f"{at}CreateTask", messages.CreateTaskRequest, self._create_task)
        self._register(f"{at}ListTasks", messages.ListTasksRequest, self._list_tasks)
        self._register(f"{at}GetTask", messages.GetTaskRequest, self._get_task)
        self._register(f"{at}DeleteTask", messages.DeleteTaskRequest, self._delete_task)
        self._register(f"{at}RunTask", messages.RunTaskRequest, self._run_task)
        self._register(f"{at}BatchCreateTasks", messages.BatchCreateTasksRequest, self._operations.create_tasks)
        self._register(f"{_OPERATIONS_SERVICE}GetOperation", messages.GetOperationRequest, self._get_operation)

    def _create_queue(self, request: messages.CreateQueueRequest) -> Queue:
        parent = parse_location_name(request.parent)
        name = parse_queue_name(request.queue.name)
        if not name.startswith(f"{parent}/queues/"):
            raise invalid_argument(f"{name} must begin with {parent}.")
        return self._engine.create_queue(request.queue)

    def _list_queues(self, request: messages.ListQueuesRequest) -> messages.ListQueuesResponse:
        if request.filter:
            raise not_supported("ListQueuesRequest.filter")
        queues, token = self._engine.list_queues(
            parse_location_name(request.parent), page_size=request.page_size, page_token=request.page_token
        )
        return messages.ListQueuesResponse(queues=queues, next_page_token=token)

    def _delete_queue(self, request: messages.DeleteQueueRequest) -> Empty:
        self._engine.delete_queue(parse_queue_name(request.name))
        return Empty()

    def _create_task(self, request: messages.CreateTaskRequest) -> Task:
        return self._engine.create_task(parse_queue_name(request.parent), request.task, request.response_view)

    def _list_tasks(self, request: messages.ListTasksRequest) -> messages.ListTasksResponse:
        tasks, token = self._engine.list_tasks(
            parse_queue_name(request.parent),
            page_size=request.page_size,
            page_token=request.page_token,
            view=request.response_view,
        )
        return messages.ListTasksResponse(tasks=tasks, next_page_token=token)

    def _get_task(self, request: messages.GetTaskRequest) -> Task:
        return self._engine.get_task(parse_task_name(request.name), request.response_view)

    def _delete_task(self, request: messages.DeleteTaskRequest) -> Empty:
        self._engine.delete_task(parse_task_name(request.name))
        return Empty()

    def _run_task(self, request: messages.RunTaskRequest) -> Task:
        return self._engine.run_task(parse_task_name(request.name), request.response_view)

    def _get_operation(self, request: messages.GetOperationRequest) -> Operation:
        return self._operations.get(request.name)


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _abort(context: grpc.ServicerContext, error: CallError) -> NoReturn:
    if error.details:
        status = Status(code=error.number, message=error.text)
        for detail in error.details:
            status.details.add().Pack(detail)
        # Where gRPC clients look for the details of a status, google.api_core among them.
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(error.code, error.text)
