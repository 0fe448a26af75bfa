"""Claims: everything that decides whether, when and what a dispatch may run. All of it is signed.

Spec: docs/reference/wire-format.md, section "Claims".
"""

from dataclasses import dataclass
from datetime import timedelta
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
    TaskName,
    parse_environment_name,
    parse_function_name,
    parse_handler_id,
    parse_location_name,
    parse_project_name,
    parse_queue_name,
    parse_task_id,
    parse_task_name,
)
from safedefer.core.parameters import FINGERPRINT_BYTES
from safedefer.core.retries import RetryOptions
from safedefer.core.routing import ANYWHERE, Route, is_host_part
from safedefer.core.surroundings import NO_SURROUNDINGS, Surroundings, make_surroundings
from safedefer.core.wire import WireError, pack, unpack
from safedefer.errors import ClaimsError, InvalidNameError, InvalidOptionError, Reason

CODEC_ID: Final = 1
"""The encoding of the body: docs/reference/wire-format.md, section "Body"."""
DIGEST_BYTES: Final = 32
_MAX_TIME: Final = 253_402_300_799
"""9999-12-31T23:59:59Z, the last second that a datetime can hold."""
_MAX_BODY: Final = (1 << 32) - 1
_MAX_TEXT: Final = 128
_MAX_DEADLINE: Final = int(MAX_DISPATCH_DEADLINE.total_seconds())
_MAX_MILLISECONDS: Final = (1 << 32) - 1
_MAX_COUNT: Final = 1_000_000
_MILLISECOND: Final = timedelta(milliseconds=1)


@final
class TaskType(StrEnum):
    """What kind of work an envelope asks for."""

    CALL = "call"
    """A registered function with its arguments."""
    SWEEP = "sweep"
    """A look for what a crash left unsent."""
    PLAN = "plan"
    """The beginning of an iteration."""
    SLICE = "slice"
    """A piece of one of its shards."""
    FINALIZE = "finalize"
    """Its end."""


ITERATION: Final = frozenset({TaskType.PLAN, TaskType.SLICE, TaskType.FINALIZE})


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
class Delivery:
    """How the task is to be made, so that whoever sends the envelope later makes the same one.

    Attributes:
        name: The task name that was asked for; None where it follows from the task id.
        route: Where in an App Engine application it runs.
    """

    name: TaskName | None = None
    route: Route = ANYWHERE


PLAIN_DELIVERY: Final = Delivery()


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
        delivery: How its task is made.
        retry: When it is given up; None means when it expires.
        surroundings: What is restored around the function.
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
    delivery: Delivery = PLAIN_DELIVERY
    retry: RetryOptions | None = None
    surroundings: Surroundings = NO_SURROUNDINGS

    @property
    def task_name(self) -> TaskName:
        """Name of the first task that carries the envelope."""
        return TaskName(self.task_id.hex()) if self.delivery.name is None else self.delivery.name


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
            _dump_delivery(claims.delivery),
            _dump_retry(claims.retry),
            _dump_surroundings(claims.surroundings),
        ]
    )


def _dump_delivery(delivery: Delivery) -> list[object] | None:
    route = delivery.route
    parts: list[object] = [delivery.name, route.service, route.version, route.instance]
    return None if parts == [None] * 4 else parts


def _dump_retry(retry: RetryOptions | None) -> list[object] | None:
    if retry is None:
        return None
    times = (retry.min_backoff, retry.max_backoff, retry.max_duration)
    shortest, longest, duration = (None if time is None else time // _MILLISECOND for time in times)
    return [retry.max_attempts, shortest, longest, retry.max_doublings, duration]


def _dump_surroundings(surroundings: Surroundings) -> list[object] | None:
    parts: list[object] = [surroundings.traceparent, surroundings.language, surroundings.time_zone]
    return None if parts == [None] * 3 else parts


def parse_claims(data: bytes) -> Claims:
    """Read the claims of an envelope whose tag has been verified.

    Trust: the tag proves who wrote `data`; this refuses what no version of ours would write.
    Raises:
        ClaimsError: `CLAIMS_MALFORMED`, or `TYPE_UNSUPPORTED` for a kind of work that this version does not know.
    """
    if len(data) > MAX_CLAIMS_BYTES:
        raise ClaimsError(Reason.CLAIMS_MALFORMED)
    try:
        tree = unpack(data)
        kind, audience, function, producer, deadline, body, task_id, lineage, times, *rest = _array(tree, 12)
        delivery, retry, surroundings = rest
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
            delivery=_parse_delivery(delivery),
            retry=_parse_retry(retry),
            surroundings=_parse_surroundings(surroundings),
        )
    except (WireError, InvalidNameError, InvalidOptionError):
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


def _parse_delivery(value: object) -> Delivery:
    if value is None:
        return PLAIN_DELIVERY
    name, *places = _array(value, 4)
    service, version, instance = (None if place is None else _host_part(place) for place in places)
    delivery = Delivery(
        name=None if name is None else parse_task_name(name),
        route=Route(service=service, version=version, instance=instance),
    )
    if delivery == PLAIN_DELIVERY:
        raise WireError("a delivery that says nothing")
    return delivery


def _parse_retry(value: object) -> RetryOptions | None:
    if value is None:
        return None
    attempts, shortest, longest, doublings, duration = _array(value, 5)
    return RetryOptions(
        max_attempts=None if attempts is None else _integer(attempts, _MAX_COUNT),
        min_backoff=_duration(shortest),
        max_backoff=_duration(longest),
        max_doublings=None if doublings is None else _integer(doublings, _MAX_COUNT),
        max_duration=_duration(duration),
    )


def _parse_surroundings(value: object) -> Surroundings:
    if value is None:
        return NO_SURROUNDINGS
    parts = [None if part is None else _text(part) for part in _array(value, 3)]
    found = make_surroundings(*parts)
    if found == NO_SURROUNDINGS or [found.traceparent, found.language, found.time_zone] != parts:
        raise WireError("surroundings of another form")
    return found


def _duration(value: object) -> timedelta | None:
    return None if value is None else timedelta(milliseconds=_integer(value, _MAX_MILLISECONDS))


def _host_part(value: object) -> str:
    if not isinstance(value, str) or not is_host_part(value):
        raise WireError("not a part of a host name")
    return value


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
