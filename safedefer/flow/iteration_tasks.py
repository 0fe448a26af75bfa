"""The tasks of an iteration: which one follows from its rows, sealed and sent under a name of its own."""

from hashlib import sha256
from typing import Final

from safedefer.core.claims import Claims, Delivery, FunctionRef, Lineage, Storage, TaskType
from safedefer.core.iteration.decisions import CreateFinalize, CreateSlice
from safedefer.core.iteration.ids import finalize_task_id, slice_task_id
from safedefer.core.iteration.plan import FinalizeCall, SliceCall, dump_finalize, dump_slice
from safedefer.core.iteration.state import Run
from safedefer.core.names import TaskId, TaskName
from safedefer.core.pae import encode_pieces
from safedefer.core.signing import claim_body, sign_envelope
from safedefer.errors import ConfigurationError, QueueUnavailableError, UsageError
from safedefer.flow.runtime import Runtime
from safedefer.flow.tasks import make_task

_NAME_DIGITS: Final = 40


def create_iteration_task(
    runtime: Runtime, plan: Claims, run: Run, command: CreateSlice | CreateFinalize, function: FunctionRef
) -> None:
    """Create the task that a rule asks for; one of its name that exists is no matter.

    Args:
        plan: The verified claims of the plan: queue, deadline, route and surroundings come from there.
        function: What it calls.
    Raises:
        QueueUnavailableError: It could not be created.
    """
    name, moment = None, 0
    if isinstance(command, CreateSlice):
        shard, seq, wake = command.shard, command.seq, command.wake
        task_id = slice_task_id(run.id, shard=shard, seq=seq, wake=wake)
        call = SliceCall(run_id=run.id, plan_sha256=run.plan_sha256, shard=shard, seq=seq, wake=wake)
        kind, body, moment = TaskType.SLICE, dump_slice(call), command.at
    else:
        task_id = finalize_task_id(run.id)
        end = FinalizeCall(run_id=run.id, plan_sha256=run.plan_sha256)
        kind, body, name = TaskType.FINALIZE, dump_finalize(end), _again(task_id, command.again)
    claims = _claims(runtime, plan, kind, function, task_id, body, moment)
    envelope = sign_envelope(claims, body, runtime.ring.primary, runtime.deployment)
    at_moment = float(moment) if moment > runtime.clock.time() else None
    try:
        runtime.sender.send(runtime.sender.prepare(make_task(claims, envelope, schedule_time=at_moment, name=name)))
    except (ConfigurationError, UsageError) as error:
        raise QueueUnavailableError(f"a task of an iteration could not be created: {error}") from error


def _again(task_id: TaskId, again: int) -> TaskName | None:
    """A further name for the same task: a queue that has dropped one keeps its name for a while."""
    if again == 0:
        return None
    digest = sha256(encode_pieces(b"safedefer.iteration.again", task_id, str(again).encode())).hexdigest()
    return TaskName(digest[:_NAME_DIGITS])


def _claims(  # noqa: PLR0917  # One argument for each part that differs.
    runtime: Runtime, plan: Claims, kind: TaskType, function: FunctionRef, task_id: TaskId, body: bytes, at: int
) -> Claims:
    now = int(runtime.clock.time())
    start = max(now, at)
    return Claims(
        type=kind,
        audience=plan.audience,
        function=function,
        producer=runtime.producer,
        deadline_seconds=plan.deadline_seconds,
        body=claim_body(body, Storage.INLINE),
        task_id=task_id,
        lineage=Lineage(root=plan.lineage.root, parent=plan.task_id, generation=plan.lineage.generation + 1),
        issued_at=now,
        not_before=start,
        expires_at=start + int(runtime.policy.max_age.total_seconds()),
        delivery=Delivery(route=plan.delivery.route),
        surroundings=plan.surroundings,
    )
