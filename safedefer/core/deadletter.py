"""A dead letter: a call that was given up, kept sealed for a person. Pure: the time is given, nothing is stored here.

What is known of it stands in one record; the envelope, which may be longer than a record, in others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, final

from safedefer.core.claims import Claims
from safedefer.core.limits import DEAD_LETTER_AGE, DEAD_LETTER_SLOTS
from safedefer.core.records import MAX_RECORD_BYTES, Change, Put, RecordKey, RecordKind
from safedefer.core.wire import WireError, pack, unpack
from safedefer.errors import DeadLetterError, Reason

_FIELDS: Final = 9
_PROBES: Final = 8
_MAX_TEXT: Final = 500
_MOST_PARTS: Final = 2
_MAX_TIME: Final = 253_402_300_799
"""The last second that a datetime can hold."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DeadLetter:
    """What is known of a call that was given up. No arguments: they stay in the envelope, or in the store.

    Trust: read from a store, all of it may have been changed there. What is driven again comes from the envelope alone,
    once that has been verified.

    Attributes:
        id: The task id in hex; of what was never verified, a slot.
        reason: Why it was given up.
        detail: A word more; the class of the exception of a function that failed.
        buried_at: Seconds since 1970.
        attempts: Executions, as far as they are known.
        function: Function name and version, such as `shop.note v1`; empty where no signature spoke for one.
        queue: Queue id.
        size_bytes: Of the envelope.
        sha256: Of the envelope.
    """

    id: str
    reason: Reason
    detail: str
    buried_at: int
    attempts: int
    function: str
    queue: str
    size_bytes: int
    sha256: bytes

    @property
    def is_signed(self) -> bool:
        """Whether a live key vouched for it when it was given up."""
        return not self.id.startswith(_SLOT)

    def __repr__(self) -> str:
        return f"<DeadLetter {self.id} {self.reason}>"


def make_letter(  # One argument for each thing that is known.
    claims: Claims | None,
    envelope: bytes,
    *,
    reason: Reason,
    detail: str,
    now: float,
    attempts: int,
    queue: str | None,
    slot: str = "",
) -> DeadLetter:
    """The letter of an envelope.

    Args:
        claims: What its signature speaks for; None where it was not verified, and `slot` is its id.
    """
    function = "" if claims is None else f"{claims.function.name} v{claims.function.version}"
    return DeadLetter(
        id=slot if claims is None else claims.task_id.hex(),
        reason=reason,
        detail=detail[:_MAX_TEXT],
        buried_at=int(now),
        attempts=attempts,
        function=function,
        queue=(queue or "")[:_MAX_TEXT] if claims is None else claims.audience.queue,
        size_bytes=len(envelope),
        sha256=sha256(envelope).digest(),
    )


_SLOT: Final = "refused-"


def slots_of(envelope: bytes) -> list[str]:
    """Where a letter that nobody vouches for may be kept.

    Their number is fixed, so that whoever can write to the queue, but not sign, cannot fill the store.
    """
    digest = sha256(envelope).digest()
    first = int.from_bytes(digest[:8], "big")
    return [f"{_SLOT}{(first + probe) % DEAD_LETTER_SLOTS:04d}" for probe in range(_PROBES)]


def put_letter(letter: DeadLetter, envelope: bytes) -> list[Change]:
    """The changes that keep a letter that is not kept yet."""
    expires_at = letter.buried_at + int(DEAD_LETTER_AGE.total_seconds())
    parts = [
        Put(
            key=key,
            data=envelope[index * MAX_RECORD_BYTES : (index + 1) * MAX_RECORD_BYTES],
            expires_at=expires_at,
            expected=None,
        )
        for index, key in enumerate(envelope_keys(letter))
    ]
    return [Put(key=letter_key(letter.id), data=_dump(letter), expires_at=expires_at, expected=None), *parts]


def unreadable_letter(letter_id: str) -> DeadLetter:
    """Stands for a letter whose record cannot be read, so that it can be listed and purged."""
    return DeadLetter(
        id=letter_id,
        reason=Reason.INTERNAL_ERROR,
        detail="its record cannot be read",
        buried_at=0,
        attempts=0,
        function="",
        queue="",
        size_bytes=0,
        sha256=b"",
    )


def possible_keys(letter_id: str) -> Sequence[RecordKey]:
    """Every record that a letter of this id may have, whatever its first one says."""
    parts = [RecordKey(RecordKind.DEAD_ENVELOPE, f"{letter_id}-{index:02d}") for index in range(_MOST_PARTS)]
    return [letter_key(letter_id), *parts]


def letter_key(letter_id: str) -> RecordKey:
    """The record of what is known of a letter."""
    return RecordKey(RecordKind.DEAD, letter_id)


def envelope_keys(letter: DeadLetter) -> Sequence[RecordKey]:
    """The records of its envelope, in their order."""
    count = -(-letter.size_bytes // MAX_RECORD_BYTES)
    return [RecordKey(RecordKind.DEAD_ENVELOPE, f"{letter.id}-{index:02d}") for index in range(count)]


def _dump(letter: DeadLetter) -> bytes:
    return pack(
        [
            letter.id,
            letter.reason.value,
            letter.detail,
            letter.buried_at,
            letter.attempts,
            letter.function,
            letter.queue,
            letter.size_bytes,
            letter.sha256,
        ]
    )


def parse_letter(data: bytes) -> DeadLetter:
    """Read what is known of a letter.

    Raises:
        DeadLetterError: The record cannot be read.
    """
    try:
        tree = unpack(data)
        if not isinstance(tree, list) or len(tree) != _FIELDS:
            raise WireError("not a dead letter")
        letter_id, reason, detail, buried_at, attempts, function, queue, size, digest = tree
        texts = (letter_id, reason, detail, function, queue)
        numbers = (buried_at, attempts, size)
        if not all(isinstance(text, str) for text in texts) or not all(type(number) is int for number in numbers):
            raise WireError("not a dead letter")
        bounds = 0 <= size <= _MOST_PARTS * MAX_RECORD_BYTES and 0 <= buried_at <= _MAX_TIME
        if not isinstance(digest, bytes) or not bounds or not all(text.isprintable() for text in texts):
            raise WireError("not a dead letter")
        return DeadLetter(
            id=letter_id,
            reason=Reason(reason),
            detail=detail,
            buried_at=buried_at,
            attempts=attempts,
            function=function,
            queue=queue,
            size_bytes=size,
            sha256=digest,
        )
    except ValueError:
        raise DeadLetterError("a record of a dead letter cannot be read; purge it") from None
