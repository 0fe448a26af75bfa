"""From sealed claims to the task that carries them. Everything about it comes from the claims."""

from datetime import timedelta

from safedefer.core.claims import Claims
from safedefer.core.names import TaskName
from safedefer.core.ports import OutgoingTask


def make_task(
    claims: Claims, envelope: bytes, *, schedule_time: float | None, name: TaskName | None = None
) -> OutgoingTask:
    """The task of an envelope.

    Args:
        claims: What the envelope was signed with.
        schedule_time: Seconds since 1970; None means now.
        name: Its name; None means the one in the claims.
    """
    return OutgoingTask(
        queue=claims.audience.queue,
        name=claims.task_name if name is None else name,
        envelope=envelope,
        schedule_time=schedule_time,
        deadline=timedelta(seconds=claims.deadline_seconds),
        route=claims.delivery.route,
        retry=claims.retry,
    )
