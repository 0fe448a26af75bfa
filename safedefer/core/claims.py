"""Claims: everything that decides whether, when and what a dispatch may run. All of it is signed.

Spec: docs/reference/wire-format.md, section "Claims".
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, final

from safedefer.core.limits import MAX_CLAIMS_BYTES, MAX_DISPATCH_DEADLINE
from safedefer.core.names import (
    EnvironmentName,
    FunctionName,
    HandlerId,
    LocationName,
    ProjectName,
    QueueName,
    TaskId,
    parse_environment_name,
    parse_function_name,
    parse_handler_id,
    parse_location_name,
    parse_project_name,
    parse_queue_name,
    parse_task_id,
)
from safedefer.core.parameters import FINGERPRINT_BYTES
from safedefer.core.wire import WireError, pack, unpack
from safedefer.errors import ClaimsError, InvalidNameError, Reason

CODEC_ID: Final = 1
"""The encoding of the body: docs/reference/wire-format.md, section "Body"."""
DIGEST_BYTES: Final = 32
_MAX_TIME: Final = 253_402_300_799
"""9999-12-31T23:59:59Z, the last second that a datetime can hold."""
_MAX_BODY: Final = (1 << 32) - 1
_MAX_TEXT: Final = 128
_MAX_DEADLINE: Final = int(MAX_DISPATCH_DEADLINE.total_seconds())


@final
class TaskType(StrEnum):
    """What kind of work an envelope asks for."""

    CALL = "call"


@final
class Storage(StrEnum):
    """Where the body is: behind the claims, or kept outside the task."""

    INLINE = "inline"
    OVERFLOW = "overflow"


_TYPES: Final = frozenset(kind.value for kind in TaskType)
_STORAGES: Final = frozenset(storage.value for storage in Storage)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Audience:
    """For which handler of which deployment, and through which queue."""

    environment: EnvironmentName
    project: ProjectName
    location: LocationName
    queue: QueueName
    handler: HandlerId


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionRef:
    """A registered function: its name, its major version, and the fingerprint of its parameters."""

    name: FunctionName
    version: int
    fingerprint: bytes


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BodyClaim:
    """Which bytes the body is."""

    codec: int
    size_bytes: int
    sha256: bytes
    storage: Storage


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Where a task comes from: the first of its chain, the task that deferred it, how many steps in between."""

    root: TaskId
    parent: TaskId | None
    generation: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Producer:
    """Which service and revision deferred the call. For the audit only; it decides nothing."""

    service: str
    revision: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What one signature speaks for. Times are whole seconds since 1970 in UTC.

    Attributes:
        type: The kind of work.
        audience: Whom the envelope is meant for.
        function: What runs.
        producer: Who deferred it.
        deadline_seconds: The dispatch deadline, at most 30 minutes.
        body: What the function is called with.
        task_id: The identity of the call, whatever task carries it.
        lineage: What it descends from.
        issued_at: When it was signed.
        not_before: When it may first run.
        expires_at: After which it must not start.
    """

    type: TaskType
    audience: Audience
    function: FunctionRef
    producer: Producer
    deadline_seconds: int
    body: BodyClaim
    task_id: TaskId
    lineage: Lineage
    issued_at: int
    not_before: int
    expires_at: int


def dump_claims(claims: Claims) -> bytes:
    """Encode claims as the one array of version 1."""
    audience, function, body, lineage = claims.audience, claims.function, claims.body, claims.lineage
    return pack(
        [
            claims.type._value_,
            [audience.environment, audience.project, audience.location, audience.queue, audience.handler],
            [function.name, function.version, function.fingerprint],
            [claims.producer.service, claims.producer.revision],
            claims.deadline_seconds,
            [body.codec, body.size_bytes, body.sha256, body.storage._value_],
            claims.task_id,
            [lineage.root, lineage.parent, lineage.generation],
            [claims.issued_at, claims.not_before, claims.expires_at],
        ]
    )


def parse_claims(data: bytes) -> Claims:
    """Read the claims of an envelope whose tag has been verified.

    Trust: the tag proves who wrote `data`; this refuses what no version of ours would write.
    Raises:
        ClaimsError: `CLAIMS_MALFORMED`, or `TYPE_UNSUPPORTED` for a kind of work that this version does not know.
    """
    if len(data) > MAX_CLAIMS_BYTES:
        raise ClaimsError(Reason.CLAIMS_MALFORMED)
    try:
        kind, audience, function, producer, deadline, body, task_id, lineage, times = _array(unpack(data), 9)
        if not isinstance(kind, str):
            raise WireError("a type that is no string")
        if kind not in _TYPES:
            raise ClaimsError(Reason.TYPE_UNSUPPORTED)
        issued_at, not_before, expires_at = (_integer(time, _MAX_TIME) for time in _array(times, 3))
        service, revision = (_text(part) for part in _array(producer, 2))
        return Claims(
            type=TaskType(kind),
            audience=_parse_audience(audience),
            function=_parse_function(function),
            producer=Producer(service=service, revision=revision),
            deadline_seconds=_integer(deadline, _MAX_DEADLINE),
            body=_parse_body(body),
            task_id=parse_task_id(task_id),
            lineage=_parse_lineage(lineage),
            issued_at=issued_at,
            not_before=not_before,
            expires_at=expires_at,
        )
    except (WireError, InvalidNameError):
        raise ClaimsError(Reason.CLAIMS_MALFORMED) from None


def _parse_audience(value: object) -> Audience:
    environment, project, location, queue, handler = _array(value, 5)
    return Audience(
        environment=parse_environment_name(environment),
        project=parse_project_name(project),
        location=parse_location_name(location),
        queue=parse_queue_name(queue),
        handler=parse_handler_id(handler),
    )


def _parse_function(value: object) -> FunctionRef:
    name, version, fingerprint = _array(value, 3)
    return FunctionRef(
        name=parse_function_name(name),
        version=_integer(version, 1_000_000),
        fingerprint=_bytes(fingerprint, FINGERPRINT_BYTES),
    )


def _parse_body(value: object) -> BodyClaim:
    codec, size, digest, storage = _array(value, 4)
    if not isinstance(storage, str) or storage not in _STORAGES:
        raise WireError("a storage that is not known")
    return BodyClaim(
        codec=_integer(codec, 255),
        size_bytes=_integer(size, _MAX_BODY),
        sha256=_bytes(digest, DIGEST_BYTES),
        storage=Storage(storage),
    )


def _parse_lineage(value: object) -> Lineage:
    root, parent, generation = _array(value, 3)
    return Lineage(
        root=parse_task_id(root),
        parent=None if parent is None else parse_task_id(parent),
        generation=_integer(generation, 1_000_000_000),
    )


def _array(value: object, length: int) -> list[object]:
    if not isinstance(value, list) or len(value) != length:
        raise WireError("not an array of the right length")
    return value


def _integer(value: object, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise WireError("not an integer in range")
    return value


def _bytes(value: object, length: int) -> bytes:
    if not isinstance(value, bytes) or len(value) != length:
        raise WireError("not bytes of the right length")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT or not value.isprintable():
        raise WireError("not a short text")
    return value
