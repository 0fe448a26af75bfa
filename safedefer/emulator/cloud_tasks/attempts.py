"""Finished attempts, as tests and logs see them."""

from dataclasses import dataclass
from datetime import datetime

from safedefer.emulator.cloud_tasks.headers import REDACTED, redacted, with_authorization
from safedefer.emulator.cloud_tasks.names import QueueName, TaskName
from safedefer.emulator.cloud_tasks.retries import Answer, Response
from safedefer.emulator.cloud_tasks.state import Dispatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A finished attempt. Body and credentials are not part of it.

    `status` is the HTTP status of the target's answer, or None if there was none; `outcome` says why.
    """

    queue: QueueName
    task: TaskName
    attempt: int
    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    scheduled_at: datetime
    dispatched_at: datetime
    finished_at: datetime
    status: int | None
    outcome: str


def record(dispatch: Dispatch, answer: Answer, now: datetime) -> Attempt:
    """Return what may be kept of an attempt that ended at `now`."""
    headers = with_authorization(dispatch.headers, REDACTED) if dispatch.identity else dispatch.headers
    return Attempt(
        queue=dispatch.queue,
        task=dispatch.task,
        attempt=dispatch.attempt,
        method=dispatch.method,
        url=dispatch.url,
        headers=redacted(headers),
        scheduled_at=dispatch.scheduled_at,
        dispatched_at=dispatch.dispatched_at,
        finished_at=now,
        status=answer.status if isinstance(answer, Response) else None,
        outcome="response" if isinstance(answer, Response) else answer.reason,
    )
