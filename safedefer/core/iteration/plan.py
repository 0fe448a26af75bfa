"""What an iteration is to do: the body of its plan, which every slice verifies.

Spec: docs/reference/iteration.md, section "Plan".
"""

from dataclasses import dataclass
from typing import Final, final

from safedefer.core.iteration.description import Description, dump_description, parse_description
from safedefer.core.iteration.items import ItemPolicy, OnError
from safedefer.core.iteration.rows import DIGEST_BYTES, MAX_POSITION_BYTES
from safedefer.core.limits import MAX_SHARDS
from safedefer.core.names import FunctionName, TaskId, parse_function_name, parse_task_id
from safedefer.core.wire import WireError, pack, unpack
from safedefer.errors import ArgumentsRefusedError, InvalidNameError, Reason

_MAX_NUMBER: Final = (1 << 63) - 1
_MAX_VERSION: Final = 1_000_000
_MAX_ATTEMPTS: Final = 1_000


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A registered function by its name and version."""

    name: FunctionName
    version: int


@final
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class BoundSource:
    """The queryset of a registered function: which, and the tree of its arguments."""

    function: Named
    arguments: object


@final
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Plan:
    """What an iteration is to do.

    Attributes:
        source: Whose rows.
        callback: Called for each row.
        finalize: Called once, when every row is done.
        arguments: The tree of what both are called with besides.
        order_field: Along which the rows are walked.
        shards: Wanted number of key ranges.
        key_ranges: Those of a getter that ran with the caller; None where the plan task makes them.
        policy: What becomes of rows that fail.
        keeps: Whether the records stay when it is done.
        atomic: Whether what the callback writes is committed together with the checkpoint.
    """

    source: BoundSource | Description
    callback: Named
    finalize: Named
    arguments: object
    order_field: str
    shards: int
    key_ranges: tuple[bytes, ...] | None
    policy: ItemPolicy
    keeps: bool
    atomic: bool


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SliceCall:
    """Which slice of which shard, under which plan."""

    run_id: TaskId
    plan_sha256: bytes
    shard: int
    seq: int
    wake: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FinalizeCall:
    """Which run is to be finalized, under which plan."""

    run_id: TaskId
    plan_sha256: bytes


def dump_plan(plan: Plan) -> bytes:
    """Encode a plan as the body of its task.

    Raises:
        ValueError: A value in the description of its queryset cannot travel.
    """
    source: list[object]
    if isinstance(plan.source, BoundSource):
        named = plan.source.function
        source = ["bound", [named.name, named.version], plan.source.arguments]
    else:
        source = ["described", dump_description(plan.source)]
    return pack(
        [
            source,
            [plan.callback.name, plan.callback.version],
            [plan.finalize.name, plan.finalize.version],
            plan.arguments,
            plan.order_field,
            plan.shards,
            None if plan.key_ranges is None else list(plan.key_ranges),
            [plan.policy.max_attempts, plan.policy.on_error.value],
            plan.keeps,
            plan.atomic,
        ]
    )


def parse_plan(data: bytes) -> Plan:
    """Read the verified body of a plan.

    Raises:
        ArgumentsRefusedError: `BODY_MALFORMED`: this library does not write such a plan.
    """
    try:
        source, callback, finalize, arguments, order_field, shards, ranges, policy, *flags = _list(unpack(data), 10)
        attempts, on_error = _list(policy, 2)
        keeps, atomic = flags
        if not isinstance(keeps, bool) or not isinstance(atomic, bool):
            raise WireError("not a plan")
        return Plan(
            source=_source(source),
            callback=_named(callback),
            finalize=_named(finalize),
            arguments=arguments,
            order_field=_text(order_field),
            shards=_number(shards, MAX_SHARDS),
            key_ranges=None if ranges is None else _ranges(ranges),
            policy=ItemPolicy(max_attempts=_number(attempts, _MAX_ATTEMPTS), on_error=OnError(_text(on_error))),
            keeps=keeps,
            atomic=atomic,
        )
    except (ValueError, InvalidNameError):
        raise ArgumentsRefusedError(Reason.BODY_MALFORMED, "not a plan") from None


def dump_slice(call: SliceCall) -> bytes:
    """Encode the body of a slice's task."""
    return pack([call.run_id, call.plan_sha256, call.shard, call.seq, call.wake])


def parse_slice(data: bytes) -> SliceCall:
    """Read the verified body of a slice's task.

    Raises:
        ArgumentsRefusedError: `BODY_MALFORMED`.
    """
    try:
        run_id, digest, shard, seq, wake = _list(unpack(data), 5)
        return SliceCall(
            run_id=parse_task_id(run_id),
            plan_sha256=_digest(digest),
            shard=_number(shard, MAX_SHARDS),
            seq=_number(seq, _MAX_NUMBER),
            wake=_number(wake, _MAX_NUMBER),
        )
    except (ValueError, InvalidNameError):
        raise ArgumentsRefusedError(Reason.BODY_MALFORMED, "not a slice") from None


def dump_finalize(call: FinalizeCall) -> bytes:
    """Encode the body of a finalize task."""
    return pack([call.run_id, call.plan_sha256])


def parse_finalize(data: bytes) -> FinalizeCall:
    """Read the verified body of a finalize task.

    Raises:
        ArgumentsRefusedError: `BODY_MALFORMED`.
    """
    try:
        run_id, digest = _list(unpack(data), 2)
        return FinalizeCall(run_id=parse_task_id(run_id), plan_sha256=_digest(digest))
    except (ValueError, InvalidNameError):
        raise ArgumentsRefusedError(Reason.BODY_MALFORMED, "not a finalize") from None


def _source(value: object) -> BoundSource | Description:
    match value:
        case ["bound", function, arguments]:
            return BoundSource(function=_named(function), arguments=arguments)
        case ["described", tree]:
            return parse_description(tree)
        case _:
            raise WireError("an unknown source")


def _named(value: object) -> Named:
    name, version = _list(value, 2)
    return Named(name=parse_function_name(name), version=_number(version, _MAX_VERSION))


def _ranges(value: object) -> tuple[bytes, ...]:
    if not isinstance(value, list) or len(value) > MAX_SHARDS:
        raise WireError("not key ranges")
    found = tuple(part for part in value if isinstance(part, bytes) and len(part) <= MAX_POSITION_BYTES)
    if len(found) != len(value):
        raise WireError("not key ranges")
    return found


def _list(value: object, length: int) -> list[object]:
    if not isinstance(value, list) or len(value) != length:
        raise WireError("not an array of the right length")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise WireError("not a text")
    return value


def _number(value: object, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise WireError("not a number in range")
    return value


def _digest(value: object) -> bytes:
    if not isinstance(value, bytes) or len(value) != DIGEST_BYTES:
        raise WireError("not a digest")
    return value
