"""The task handler: request in, response out. The one table from outcome to HTTP status.

2xx ends a task, everything else has the queue try again; 503 also slows the queue down and is kept for outages.
Refusals after the token all look the same from outside: the reason is in the audit event.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from asgiref.sync import sync_to_async
from django.contrib.auth.decorators import login_not_required
from django.db import close_old_connections, connections, transaction
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.debug import sensitive_variables

from safedefer.core.audit import Action, AuditEvent
from safedefer.django.audit import LoggingAudit
from safedefer.errors import Reason, SafeDeferError
from safedefer.flow.dispatch import Dispatch
from safedefer.flow.execute import handle_dispatch
from safedefer.flow.outcome import Outcome, Verdict, judge
from safedefer.flow.runtime import current_runtime
from safedefer.gcp.per_process import PerProcess

_View = TypeVar("_View", bound=Callable[..., object])

STATUS: Final[Mapping[Verdict, int]] = {
    Verdict.DONE: 204,
    Verdict.DROP: 204,
    Verdict.DEAD: 204,
    Verdict.REISSUE: 204,
    Verdict.BAD_REQUEST: 400,
    Verdict.UNAUTHENTICATED: 401,
    Verdict.METHOD_NOT_ALLOWED: 405,
    Verdict.RETRY: 409,
    Verdict.LENGTH_REQUIRED: 411,
    Verdict.TOO_LARGE: 413,
    Verdict.UNSUPPORTED_TYPE: 415,
    Verdict.REFUSED: 422,
    Verdict.FAILED: 500,
    Verdict.UNAVAILABLE: 503,
}
_EXTRA_HEADERS: Final[Mapping[Verdict, Mapping[str, str]]] = {
    Verdict.METHOD_NOT_ALLOWED: {"Allow": "POST"},
    Verdict.UNAUTHENTICATED: {"WWW-Authenticate": "Bearer"},
    Verdict.UNAVAILABLE: {"Retry-After": "10"},
}
_MAX_DETAIL: Final = 500
# Not the event loop's own threads: a dispatch holds one while its coroutine runs, and that may wait for one of those.
_threads: Final = PerProcess(lambda: ThreadPoolExecutor(_MOST_AT_ONCE, thread_name_prefix="safedefer"))
_MOST_AT_ONCE: Final = 64
_without_runtime: Final = LoggingAudit()


def _without_transaction(view: _View) -> _View:
    """Whatever ATOMIC_REQUESTS says, of any database: records that are written would be seen, and kept, too late."""
    for alias in connections:
        view = transaction.non_atomic_requests(alias)(view)
    return view


@login_not_required  # LoginRequiredMiddleware would redirect a dispatch, token and all, to the login page.
@csrf_exempt
@never_cache
@_without_transaction
@sensitive_variables()
def task_handler(request: HttpRequest) -> HttpResponse:
    """Answer one dispatch. Uses no session, no user, no cookie and no part of the URL."""
    return _answer_dispatch(request)


@login_not_required
@csrf_exempt
@never_cache
@_without_transaction
@sensitive_variables()
async def async_task_handler(request: HttpRequest) -> HttpResponse:
    """The same for a site under ASGI: coroutine functions run on the server's own event loop.

    Everything else is done in a thread that belongs to this dispatch alone. It goes on to its end when the caller hangs
    up, so that the ledger says what has happened.
    """
    answering = sync_to_async(_answer_in_own_thread, thread_sensitive=False, executor=_threads.get())
    return await asyncio.shield(answering(request))


def _answer_in_own_thread(request: HttpRequest) -> HttpResponse:
    # Django looks after the connections of its own threads; this is none of them.
    close_old_connections()
    try:
        return _answer_dispatch(request)
    finally:
        close_old_connections()


def _answer_dispatch(request: HttpRequest) -> HttpResponse:
    try:
        runtime = current_runtime()
    except Exception as error:  # noqa: BLE001  # Whatever keeps it from being built, nothing is to be executed.
        return answer(_refuse_all(error))
    return answer(handle_dispatch(runtime, _dispatch(request)))


def _refuse_all(error: Exception) -> Outcome:
    """There is no runtime, and so no audit of its own: the refusal is recorded where it would have been."""
    outcome = Outcome(judge(Reason.NOT_CONFIGURED)[0], Reason.NOT_CONFIGURED)
    event = AuditEvent(
        action=Action.DISPATCH,
        accepted=False,
        reason=outcome.reason,
        severity=judge(outcome.reason)[1],
        detail=str(error)[:_MAX_DETAIL] if isinstance(error, SafeDeferError) else type(error).__name__,
        outcome=outcome.verdict.value,
    )
    _without_runtime.emit(event)
    return outcome


def answer(outcome: Outcome) -> HttpResponse:
    """The response to an outcome; its body is empty whatever the reason."""
    headers = _EXTRA_HEADERS.get(outcome.verdict, {})
    return HttpResponse(status=STATUS[outcome.verdict], headers=headers, content_type="text/plain")


def _dispatch(request: HttpRequest) -> Dispatch:
    meta = request.META
    return Dispatch(
        method=request.method or "",
        content_type=meta.get("CONTENT_TYPE"),
        content_length=meta.get("CONTENT_LENGTH"),
        authorization=meta.get("HTTP_AUTHORIZATION"),
        queue=meta.get("HTTP_X_CLOUDTASKS_QUEUENAME"),
        task_name=meta.get("HTTP_X_CLOUDTASKS_TASKNAME"),
        retry_count=meta.get("HTTP_X_CLOUDTASKS_TASKRETRYCOUNT"),
        execution_count=meta.get("HTTP_X_CLOUDTASKS_TASKEXECUTIONCOUNT"),
        read=request.read,
    )
