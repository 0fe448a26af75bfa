"""The one way to say "not now": the same sealed call as a new task, for later. Signs nothing."""

from hashlib import sha256
from typing import Final, final

from safedefer.core.claims import Claims
from safedefer.core.names import TaskName
from safedefer.core.pae import encode_pieces
from safedefer.errors import ConfigurationError, QueueUnavailableError, UsageError
from safedefer.flow.runtime import Runtime
from safedefer.flow.tasks import make_task

_NAME_DIGITS: Final = 40


@final
class ReissueError(Exception):
    """The new task could not be created, so that the present one must stay."""


@final
class TooEarlyError(Exception):
    """The present task is the one that would be created; its queue has to try it again."""


def reissue(runtime: Runtime, claims: Claims, envelope: bytes, *, at: float, mark: str, present: str | None) -> None:
    """Create a task that brings the same envelope again.

    Its name is hashed from the task id and `mark`, so that duplicates of one dispatch make one new task between them.

    Args:
        at: When it is to come, in seconds since 1970.
        mark: What it waits for: another moment has another mark.
        present: Name of the task that is being dispatched.
    Raises:
        ReissueError: It could not be created.
        TooEarlyError: The present task is that task, and has come before its time.
    """
    digest = sha256(encode_pieces(b"safedefer.reissue", claims.task_id, mark.encode())).hexdigest()
    name = TaskName(digest[:_NAME_DIGITS])
    if name == present:
        raise TooEarlyError
    task = runtime.sender.prepare(make_task(claims, envelope, schedule_time=at, name=name))
    try:
        # A task of that name exists if a duplicate of this dispatch was first. It comes at the same moment.
        runtime.sender.send(task)
    except (ConfigurationError, QueueUnavailableError, UsageError) as error:
        raise ReissueError from error
