"""Which headers a dispatch carries: the caller's, less those it may not set, and the service's own."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

USER_AGENT = "Google-Cloud-Tasks"
REDACTED = "[redacted]"

_COMPUTED = frozenset({"host", "content-length", "user-agent"})
# They frame the message on the wire. Beside a Content-Length of ours they would let a task smuggle a second request.
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "expect"}
)
_RESERVED_PREFIXES = ("x-google-", "x-appengine-", "x-cloudtasks-")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFacts:
    """What the service tells the target about an attempt."""

    queue_id: str
    task_id: str
    retry_count: int
    execution_count: int
    scheduled_at: datetime
    previous_response: int | None


def is_reserved(name: str) -> bool:
    """Tell whether a header belongs to the service, so that the caller's value never reaches the target."""
    folded = name.lower()
    return folded in _COMPUTED or folded in _HOP_BY_HOP or folded.startswith(_RESERVED_PREFIXES)


def dispatch_headers(requested: Mapping[str, str], facts: AttemptFacts) -> tuple[tuple[str, str], ...]:
    """Return the headers of one attempt, without Host, Content-Length and the token, which delivery adds.

    The last two of the service's own are there on retries only; an HTTP target sees no reason, only an empty one.
    """
    own = [
        ("User-Agent", USER_AGENT),
        ("X-CloudTasks-QueueName", facts.queue_id),
        ("X-CloudTasks-TaskName", facts.task_id),
        ("X-CloudTasks-TaskRetryCount", str(facts.retry_count)),
        ("X-CloudTasks-TaskExecutionCount", str(facts.execution_count)),
        ("X-CloudTasks-TaskETA", f"{facts.scheduled_at.timestamp():.6f}"),
    ]
    if facts.previous_response is not None:
        own.append(("X-CloudTasks-TaskPreviousResponse", str(facts.previous_response)))
        own.append(("X-CloudTasks-TaskRetryReason", ""))
    kept = [(name, value) for name, value in sorted(requested.items()) if not is_reserved(name)]
    return tuple(own + kept)


def with_authorization(headers: Iterable[tuple[str, str]], token: str) -> tuple[tuple[str, str], ...]:
    """Put the identity token in the place of whatever Authorization the caller set."""
    kept = tuple((name, value) for name, value in headers if name.lower() != "authorization")
    return (*kept, ("Authorization", f"Bearer {token}"))


def redacted(headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return headers fit to be kept and shown: those that carry credentials lose their value."""
    return tuple((name, REDACTED if _is_credential(name) else value) for name, value in headers)


def _is_credential(name: str) -> bool:
    return name.lower() in {"authorization", "proxy-authorization", "cookie"}
