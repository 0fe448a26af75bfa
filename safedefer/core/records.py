"""Durable records: small opaque values under a kind and an id, each with a version that its next writer must know."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple, TypeAlias, final

MAX_RECORD_BYTES: Final = 900_000
"""Of one record's data. A Datastore entity holds a little more than 1,000,000 bytes, key and properties included."""

MAX_RECORD_ID: Final = 128
"""Characters of a record's id."""


@final
class RecordKind(StrEnum):
    """What a record is for; each kind is a range of keys of its own."""

    LEDGER = "ledger"
    OVERFLOW = "overflow"
    DEAD = "dead"
    """A dead letter: what is known of it."""
    DEAD_ENVELOPE = "dead_envelope"
    """A part of its envelope."""
    RUN = "run"
    """An iteration."""
    PLAN = "plan"
    """A part of its sealed plan."""
    SHARD = "shard"


@final
class RecordKey(NamedTuple):
    """Which record."""

    kind: RecordKind
    id: str


@final
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Record:
    """One record as it was read.

    Attributes:
        version: 1 when inserted, one more with each change.
        data: Opaque to the store.
        expires_at: Seconds since 1970 after which the store may remove it. It may be seen for days after that, so
            that whoever reads it looks at this.
    """

    key: RecordKey
    version: int
    data: bytes
    expires_at: int

    def __repr__(self) -> str:
        return f"<Record {self.key.kind} {self.key.id} version {self.version} of {len(self.data)} bytes>"


@final
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Put:
    """Write a record.

    Attributes:
        expected: The version it must have; None where it must not exist.
    """

    key: RecordKey
    data: bytes
    expires_at: int
    expected: int | None

    @property
    def version(self) -> int:
        """The version that the record has afterwards."""
        return 1 if self.expected is None else self.expected + 1

    def __repr__(self) -> str:
        return f"<Put {self.key.kind} {self.key.id} version {self.version} of {len(self.data)} bytes>"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """Remove a record that has the expected version."""

    key: RecordKey
    expected: int


Change: TypeAlias = Put | Delete
