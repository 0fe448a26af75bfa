"""What an iteration walks and whom it calls, by its verified plan; and how far it is, by the store."""

import hmac
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TypeAlias, final

from safedefer.core.claims import Claims, TaskType
from safedefer.core.codec import Arguments, DecodedArguments
from safedefer.core.envelope import parse_envelope
from safedefer.core.function import RegisteredFunction
from safedefer.core.iteration.decisions import Command, CreateFinalize, CreateSlice
from safedefer.core.iteration.description import Description
from safedefer.core.iteration.ids import finalize_task_id
from safedefer.core.iteration.plan import Named, Plan, parse_plan
from safedefer.core.iteration.rows import parse_run, plan_keys, run_key
from safedefer.core.iteration.state import Run
from safedefer.core.ledger import Finished
from safedefer.core.names import TaskId
from safedefer.core.parameters import Parameters
from safedefer.core.signing import VerifiedBody, verify_body, verify_envelope
from safedefer.errors import ArgumentsRefusedError, Reason, StoreUnavailableError, UnsupportedQuerySetError
from safedefer.flow.calling import make_queryset
from safedefer.flow.runtime import Runtime

Commands: TypeAlias = tuple[Command, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Walk:
    """A verified plan, and what it names.

    Attributes:
        body: The body of the plan: the proof that it was verified.
    """

    body: VerifiedBody
    plan: Plan
    callback: RegisteredFunction
    finalize: RegisteredFunction

    @property
    def claims(self) -> Claims:
        """Those of the plan."""
        return self.body.claims


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a task of an iteration has come to.

    Attributes:
        commands: What is to be done now, in this order.
        walk: The plan it belongs to.
        run: Its run.
    """

    commands: Commands
    walk: Walk
    run: Run


def open_walk(runtime: Runtime, body: VerifiedBody) -> Walk:
    """Find whom a verified plan names.

    Raises:
        RejectedError: A function is unknown here, or the plan cannot be read.
    """
    plan = parse_plan(body.data)
    return Walk(
        body=body,
        plan=plan,
        callback=runtime.registry.find(plan.callback.name, plan.callback.version),
        finalize=runtime.registry.find(plan.finalize.name, plan.finalize.version),
    )


def open_queryset(runtime: Runtime, walk: Walk) -> object:
    """Make what a verified plan has walked.

    Raises:
        RejectedError: The plan names no rows, or others than its callback takes.
        UnavailableError: A row that the queryset is made from could not be loaded.
        FunctionFailedError: A queryset function raised.
    """
    try:
        queryset = _open_source(runtime, walk.plan, walk.body)
        fits = walk.callback.parameters.takes_rows_of(runtime.querysets.model_of(queryset))
    except UnsupportedQuerySetError:
        raise ArgumentsRefusedError(Reason.ARGUMENTS_MISMATCH, "a queryset function gave no queryset") from None
    if not fits:
        # Who has a key could have rows of one model called for as those of another.
        raise ArgumentsRefusedError(Reason.ARGUMENTS_MISMATCH, "the callback does not take rows of this model")
    return queryset


def _open_source(runtime: Runtime, plan: Plan, body: VerifiedBody) -> object:
    source = plan.source
    if isinstance(source, Description):
        return runtime.querysets.build(source)
    function = _find(runtime, source.function)
    arguments = decode_tree(runtime, function.parameters, source.arguments)
    return make_queryset(runtime, function, body, arguments)


def _find(runtime: Runtime, named: Named) -> RegisteredFunction:
    return runtime.queryset_functions.find(named.name, named.version)


def decode_tree(runtime: Runtime, parameters: Parameters, tree: object) -> Arguments:
    """Arguments that a verified plan holds as a tree, their rows loaded.

    Raises:
        RejectedError: They do not fit the parameters, or a row is gone.
        UnavailableError: The database did not answer.
    """
    decoded = DecodedArguments(parameters, tree, runtime.resolver)
    rows = runtime.resolver.resolve(decoded.references) if decoded.references else {}
    if any(reference not in rows for reference in decoded.references):
        raise ArgumentsRefusedError(Reason.ARGUMENTS_MISMATCH, "a row among the arguments of an iteration is gone")
    return decoded.build(rows)


def find_walk(runtime: Runtime, run: Run) -> Walk:
    """Bring back the plan of a run from the store, and verify it.

    Trust: the records may have been changed; the digest comes from signed claims, the tag from our own key.
    Raises:
        RejectedError: It is not the plan that was sealed for this run.
        StoreUnavailableError: It is not there.
    """
    keys = plan_keys(run)
    records = runtime.records.get(keys)
    if any(key not in records for key in keys):
        raise StoreUnavailableError("the plan of an iteration is not in the store")
    data = b"".join(records[key].data for key in keys)
    if not hmac.compare_digest(sha256(data).digest(), run.plan_sha256):
        raise ArgumentsRefusedError(Reason.BODY_DIGEST, "another plan than the one that was sealed")
    envelope = verify_envelope(parse_envelope(data), runtime.ring, runtime.deployment)
    claims = envelope.claims
    runtime.policy.check_audience(claims, claims.audience.queue)
    if claims.type is not TaskType.PLAN or claims.task_id != run.id:
        raise ArgumentsRefusedError(Reason.BODY_DIGEST, "the plan of another iteration")
    return open_walk(runtime, verify_body(envelope))


def read_run(runtime: Runtime, run_id: TaskId) -> Run | None:
    """The run as it is now; None where it is gone.

    Raises:
        StoreUnavailableError: The store did not answer.
    """
    key = run_key(run_id)
    record = runtime.records.get([key]).get(key)
    return None if record is None else parse_run(record)


def end_of_plan(runtime: Runtime, plan: Claims) -> Finished | None:
    """What the ledger knows of the end of an iteration: of its finalize task.

    Raises:
        StoreUnavailableError: The store did not answer.
    """
    claim = runtime.ledger.look(replace(plan, task_id=finalize_task_id(plan.task_id))).claim
    return claim if isinstance(claim, Finished) else None


def check_plan(run: Run, digest: bytes) -> None:
    """Refuse a run whose record names another plan than the signed claims of its task.

    Raises:
        ArgumentsRefusedError: It does.
    """
    if not hmac.compare_digest(run.plan_sha256, digest):
        raise ArgumentsRefusedError(Reason.BODY_DIGEST, "another plan than the one that was sealed")


def function_of(walk: Walk, command: CreateSlice | CreateFinalize) -> RegisteredFunction:
    """What the task that a command asks for is going to call."""
    return walk.callback if isinstance(command, CreateSlice) else walk.finalize
