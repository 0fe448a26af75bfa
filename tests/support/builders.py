"""Valid values that a test changes in one place."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from safedefer.core.claims import Audience, Claims, FunctionRef, Lineage, Producer, Storage, TaskType
from safedefer.core.envelope import parse_envelope
from safedefer.core.keys import Key, KeyRing, KeyState, derive_key
from safedefer.core.names import (
    EnvironmentName,
    FunctionName,
    HandlerId,
    LocationName,
    ProjectName,
    QueueName,
    TaskId,
)
from safedefer.core.policy import Policy
from safedefer.core.references import ModelReference
from safedefer.core.signing import Deployment, VerifiedEnvelope, claim_body, sign_envelope, verify_envelope

NOW: Final = 1_800_000_000
ENVIRONMENT: Final = EnvironmentName("production")
PROJECT: Final = ProjectName("acme")
SECRET: Final = bytes(range(1, 33))
OTHER_SECRET: Final = bytes(range(101, 133))
BODY: Final = b"\x92\x90\x80"
"""The encoded arguments of a call without any."""
DEPLOYMENT: Final = Deployment(ENVIRONMENT, PROJECT)
POLICY: Final = Policy(
    environment=ENVIRONMENT,
    project=PROJECT,
    location=LocationName("europe-west1"),
    handler=HandlerId("/_safedefer/"),
)


def make_key(
    name: str = "first",
    secret: bytes = SECRET,
    state: KeyState = KeyState.PRIMARY,
    environment: str = ENVIRONMENT,
    project: str = PROJECT,
) -> Key:
    """A derived key."""
    return derive_key(
        name=name,
        secret=secret,
        state=state,
        environment=EnvironmentName(environment),
        project=ProjectName(project),
    )


KEY: Final = make_key()
RING: Final = KeyRing([KEY])


def make_audience(**changes: Any) -> Audience:
    """The audience that `POLICY` expects through the queue `default`."""
    return replace(POLICY.audience(QueueName("default")), **changes)


def make_claims(body: bytes = BODY, **changes: Any) -> Claims:
    """Claims that `POLICY` accepts at `NOW`."""
    task_id = TaskId(b"t" * 16)
    claims = Claims(
        type=TaskType.CALL,
        audience=make_audience(),
        function=FunctionRef(name=FunctionName("shop.note"), version=1, fingerprint=b"f" * 16),
        producer=Producer(service="web", revision="web-1"),
        deadline_seconds=600,
        body=claim_body(body, Storage.INLINE),
        task_id=task_id,
        lineage=Lineage(root=task_id, parent=None, generation=0),
        issued_at=NOW,
        not_before=NOW,
        expires_at=NOW + 3600,
    )
    return replace(claims, **changes)


def make_envelope(claims: Claims | None = None, body: bytes = BODY, key: Key = KEY) -> bytes:
    """A whole signed envelope."""
    return sign_envelope(make_claims(body) if claims is None else claims, body, key, DEPLOYMENT)


def verified(wire: bytes, ring: KeyRing = RING) -> VerifiedEnvelope:
    """Parse and verify, as the handler does."""
    return verify_envelope(parse_envelope(wire), ring, DEPLOYMENT)


class ManualClock:
    """A clock that moves only when told; naive datetimes are UTC."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def time(self) -> float:
        """Seconds since 1970."""
        return self.now

    def aware(self, moment: datetime) -> datetime:
        """With a time zone."""
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


class HurryingClock(ManualClock):
    """A clock that goes on by so many seconds whenever somebody looks at it."""

    def __init__(self, now: float, step: float) -> None:
        super().__init__(now)
        self.step = step

    def time(self) -> float:
        """Seconds since 1970."""
        self.now += self.step
        return self.now


@dataclass(frozen=True)
class Row:
    """Stands for a saved model instance where Django is not at hand."""

    pk: object

    class _meta:  # noqa: N801  # As Django spells it.
        label_lower = "shop.row"


class Rows:
    """A ReferenceResolver over a dict of `Row`s."""

    def __init__(self, rows: Mapping[object, Row] | None = None) -> None:
        self.rows = dict(rows or {})

    def is_model(self, cls: type) -> bool:
        """Only `Row`."""
        return cls is Row

    def allows(self, label: str, cls: type) -> bool:
        """Only the label of `Row`."""
        return label == Row._meta.label_lower and cls is Row

    def reference(self, instance: object, *, with_related: bool = False) -> ModelReference:
        """The reference of a Row; one without a primary key is not saved."""
        assert isinstance(instance, Row)
        if instance.pk is None:
            raise ValueError("this Row is not saved yet")
        return ModelReference(label="shop.row", using="default", key=instance.pk)

    def resolve(self, references: Iterable[ModelReference]) -> Mapping[ModelReference, object]:
        """Those that are there."""
        return {reference: self.rows[reference.key] for reference in references if reference.key in self.rows}
