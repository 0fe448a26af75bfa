"""Tasks as messages: what a caller may create, and the form in which it is stored and measured."""

import urllib.parse
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from safedefer.emulator.cloud_tasks import limits
from safedefer.emulator.cloud_tasks.errors import invalid_argument, not_supported
from safedefer.emulator.cloud_tasks.headers import USER_AGENT
from safedefer.emulator.cloud_tasks.messages import METHOD_NAMES, POST, HttpRequest, Task
from safedefer.emulator.cloud_tasks.names import TaskName
from safedefer.emulator.cloud_tasks.queue_forms import retry_rules
from safedefer.emulator.cloud_tasks.times import duration, parse_duration, parse_time, timestamp

_METHODS_WITH_BODY = ("POST", "PUT", "PATCH")
_SAFE_IN_URL = "!#$%&'()*+,/:;=?@[]~"
"""What stays as it is when a url is encoded. The percent sign too: a url may arrive encoded already."""


def stored_task(requested: Task, name: TaskName, now: datetime) -> Task:
    """Return the task as it is kept, measured and read back: checked, with the service's defaults filled in.

    Args:
        requested: What the caller sent; its output-only fields are left behind.
        name: The full name, made by the service if the caller gave none.
        now: When the task is created.

    Raises:
        CallError: INVALID_ARGUMENT, or UNIMPLEMENTED for targets and tokens that are not offered here.
    """
    _check_target(requested)
    _check_request(requested.http_request)
    stored = Task(name=name)
    stored.http_request.CopyFrom(requested.http_request)
    _fill_request(stored.http_request)
    stored.create_time.CopyFrom(timestamp(now.replace(microsecond=0)))
    stored.schedule_time.CopyFrom(timestamp(_schedule_time(requested, now)))
    stored.dispatch_deadline.CopyFrom(duration(_dispatch_deadline(requested)))
    if requested.HasField("retry_config"):
        retry_rules(requested.retry_config)
        stored.retry_config.CopyFrom(requested.retry_config)
    if stored.ByteSize() > limits.MAX_TASK_BYTES:
        raise invalid_argument("Task size too large")
    return stored


def encoded_url(url: str) -> str:
    """Percent-encode what cannot travel in a url: spaces, control characters and all that is not ASCII."""
    return urllib.parse.quote(url, safe=_SAFE_IN_URL)


def _check_target(task: Task) -> None:
    target = task.WhichOneof("message_type")
    if target == "app_engine_http_request":
        raise not_supported("App Engine targets", instead="Use an HTTP target (Task.http_request).")
    if target is None:
        raise invalid_argument("Task.message_type is required: set http_request.")


def _check_request(request: HttpRequest) -> None:
    if not request.url:
        raise invalid_argument("HttpRequest.url is required.")
    if not request.url.lower().startswith(("http://", "https://")):
        raise invalid_argument("HttpTarget.url must start with 'http://' or 'https://'.")
    if len(encoded_url(request.url)) > limits.MAX_URL_CHARACTERS:
        raise invalid_argument(f"HttpRequest.url must be at most {limits.MAX_URL_CHARACTERS} characters.")
    method = METHOD_NAMES.get(request.http_method or POST)
    if method is None:
        raise invalid_argument("HttpRequest.httpMethod is not a known method.")
    if request.body and method not in _METHODS_WITH_BODY:
        raise invalid_argument(f"HttpRequest.body is not allowed with {method}, only with POST, PUT and PATCH.")
    sizes = (len(name.encode()) + len(value.encode()) for name, value in request.headers.items())
    if sum(sizes) >= limits.MAX_HEADER_BYTES:
        raise invalid_argument("HttpRequest.headers must be smaller than 80KB.")
    _check_authorization(request)


def _check_authorization(request: HttpRequest) -> None:
    kind = request.WhichOneof("authorization_header")
    if kind == "oauth_token":
        raise not_supported("HttpRequest.oauth_token", instead="Use oidc_token.")
    if kind == "oidc_token" and not request.oidc_token.service_account_email:
        raise invalid_argument("OidcToken.serviceAccountEmail is required.")


def _fill_request(request: HttpRequest) -> None:
    for name in [name for name in request.headers if name.lower() == "user-agent"]:
        del request.headers[name]
    request.headers["User-Agent"] = USER_AGENT
    request.http_method = request.http_method or POST


def _schedule_time(task: Task, now: datetime) -> datetime:
    if not task.HasField("schedule_time"):
        return now
    asked = parse_time(task.schedule_time, "Task.scheduleTime")
    if asked - now > limits.MAX_SCHEDULE_AHEAD:
        raise invalid_argument(
            f"The Task.scheduleTime, {_in_pacific_time(asked)}, is too far in the future. "
            "Schedule time must be no more than 720h in the future."
        )
    return max(asked, now)


def _dispatch_deadline(task: Task) -> timedelta:
    if not task.HasField("dispatch_deadline"):
        return limits.DEFAULT_DISPATCH_DEADLINE
    asked = parse_duration(task.dispatch_deadline, "Task.dispatchDeadline")
    if not limits.MIN_DISPATCH_DEADLINE <= asked <= limits.MAX_DISPATCH_DEADLINE:
        raise invalid_argument("Task.dispatchDeadline must be between [15s, 30m].")
    return asked - asked % timedelta(milliseconds=1)


def _in_pacific_time(moment: datetime) -> str:
    # The service writes this one time as its home office reads it.
    try:
        return moment.astimezone(ZoneInfo("America/Los_Angeles")).isoformat()
    except (ZoneInfoNotFoundError, OverflowError):
        return moment.isoformat()
