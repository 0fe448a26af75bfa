"""What follows an attempt: how long until the next one, when there is none, and what is counted. No clock, no state."""

import email.utils
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Literal, assert_never

from safedefer.emulator.cloud_tasks.limits import TASK_RETENTION

_THROTTLING = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_MOST_DOUBLINGS = 62
"""More would change nothing: the longest duration that protobuf can carry is below 2**62 microseconds."""
_OK, _UNKNOWN, _DEADLINE_EXCEEDED, _UNAVAILABLE = 0, 2, 4, 14
_RPC_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 429: 8, 499: 1, 500: 13, 501: 12, 503: 14, 504: 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRules:
    """When a failed task is tried again. `max_attempts` None: no limit; `max_duration` None: no time to wait for."""

    max_attempts: int | None
    max_duration: timedelta | None
    min_backoff: timedelta
    max_backoff: timedelta
    max_doublings: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """The target answered. Only 200 to 299 is a success."""

    status: int
    retry_after: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NoResponse:
    """No answer in full: the target could not be reached or broke off, the deadline passed, or a fault lost it."""

    reason: Literal["unreachable", "deadline", "lost"]


Answer = Response | NoResponse


def is_success(answer: Answer) -> bool:
    """Tell whether the task is done. A redirect is not followed, so it is a failure like any other."""
    return isinstance(answer, Response) and HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES


def counts_as_execution(answer: Answer) -> bool:
    """Tell whether X-CloudTasks-TaskExecutionCount grows: for every answer that is no server error."""
    return isinstance(answer, Response) and answer.status < HTTPStatus.INTERNAL_SERVER_ERROR


def previous_response(answer: Answer) -> int:
    """Return the status that the next attempt reports. Without a response it is the one nearest in meaning."""
    match answer:
        case Response(status=status):
            return status
        case NoResponse(reason=reason):
            return HTTPStatus.GATEWAY_TIMEOUT if reason == "deadline" else HTTPStatus.SERVICE_UNAVAILABLE
        case _:
            assert_never(answer)


def response_status(answer: Answer) -> tuple[int, str]:
    """Return code and text of the attempt's google.rpc.Status."""
    match answer:
        case Response(status=status):
            code = _OK if is_success(answer) else _RPC_CODES.get(status, _UNKNOWN)
            return code, f"HTTP status code {status}"
        case NoResponse(reason=reason):
            if reason == "deadline":
                return _DEADLINE_EXCEEDED, "The dispatch deadline passed without a response"
            return _UNAVAILABLE, "No response"
        case _:
            assert_never(answer)


def backoff(rules: RetryRules, retry: int) -> timedelta:
    """Return the configured delay before retry number `retry`, counted from 1.

    It doubles `max_doublings` times, then grows by the last step, and stops growing at `max_backoff`.
    """
    doublings = min(retry - 1, rules.max_doublings)
    steps = retry - doublings
    grown = _microseconds(rules.min_backoff) * 2 ** min(doublings, _MOST_DOUBLINGS) * steps
    return timedelta(microseconds=min(_microseconds(rules.max_backoff), grown))


def retry_delay(rules: RetryRules, retry: int, answer: Answer) -> timedelta:
    """Return the delay before retry number `retry`, given how the attempt before it ended.

    After 429 and 503 the target asks for relief: the configured backoff is doubled, also past `max_backoff`, and a
    longer Retry-After replaces it. The real service says that it does both, not in which proportion.
    """
    configured = backoff(rules, retry)
    if isinstance(answer, NoResponse) or answer.status not in _THROTTLING:
        return configured
    return max(configured * 2, answer.retry_after or timedelta(0))


def has_given_up(rules: RetryRules, *, attempts: int, first_attempt: datetime, now: datetime) -> bool:
    """Tell whether no further attempt is made.

    Both limits must be spent, so a duration can only lengthen the run. Without a duration the attempts decide,
    without a limit of attempts the duration does, without both only the retention of tasks ends it.
    """
    if rules.max_duration is None:
        return rules.max_attempts is not None and attempts >= rules.max_attempts
    attempts_are_spent = rules.max_attempts is None or attempts >= rules.max_attempts
    return attempts_are_spent and now - first_attempt >= rules.max_duration


def parse_retry_after(text: str, now: datetime) -> timedelta | None:
    """Read a Retry-After header: seconds, or an HTTP date. Anything else is ignored.

    Trust: the value comes from the target; it is bounded by the retention of tasks.
    """
    if re.fullmatch(r"\d{1,9}", text, re.ASCII):
        asked = timedelta(seconds=int(text))
    else:
        try:
            moment = email.utils.parsedate_to_datetime(text)
        except ValueError:
            return None
        asked = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now
    return min(max(asked, timedelta(0)), TASK_RETENTION)


def _microseconds(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1)
