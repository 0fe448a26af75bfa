"""Keeps calls that are given up, shows them, and removes them. Driving them again is `safedefer.flow.redrive`."""

from collections.abc import Iterator
from typing import Final

from safedefer.core.claims import Claims
from safedefer.core.deadletter import (
    DeadLetter,
    envelope_keys,
    letter_key,
    make_letter,
    parse_letter,
    possible_keys,
    put_letter,
    slots_of,
    unreadable_letter,
)
from safedefer.core.ledger import Finished
from safedefer.core.limits import DEAD_LETTER_AGE
from safedefer.core.ports import RecordStore
from safedefer.core.records import Delete, Record, RecordKind
from safedefer.errors import DeadLetterError, LeaseLostError, Reason, RecordConflictError, StoreUnavailableError
from safedefer.flow.ledger import Lease, Standing
from safedefer.flow.overflow import keep_overflow
from safedefer.flow.runtime import Runtime

_PAGE: Final = 100


def bury_call(
    runtime: Runtime,
    claims: Claims,
    envelope: bytes,
    held: Lease | Standing,
    *,
    reason: Reason,
    detail: str,
    attempts: int,
) -> None:
    """Keep a call that a signature speaks for, and mark it as given up in the ledger: both, or neither.

    Args:
        held: The lease of the worker that gives up, or what the ledger last said.
    Raises:
        LeaseLostError: Another worker has the task.
        StoreUnavailableError: The store did not answer, and the call is not kept.
    """
    now = runtime.clock.time()
    letter = make_letter(claims, envelope, reason=reason, detail=detail, now=now, attempts=attempts, queue=None)
    keep_overflow(runtime.records, claims, int(now + DEAD_LETTER_AGE.total_seconds()))
    try:
        runtime.records.commit([*put_letter(letter, envelope), runtime.ledger.burial(claims, held)])
    except RecordConflictError:
        if runtime.ledger.look(claims).claim != Finished(dead=True):
            raise LeaseLostError("another worker has claimed the task") from None


def bury_envelope(runtime: Runtime, envelope: bytes, *, reason: Reason, detail: str, queue: str | None) -> None:
    """Keep what no signature speaks for, in one of a fixed number of places.

    Raises:
        StoreUnavailableError: The store did not answer, or has no place left, and it is not kept.
    """
    for slot in slots_of(envelope):
        letter = make_letter(
            None,
            envelope,
            reason=reason,
            detail=detail,
            now=runtime.clock.time(),
            attempts=0,
            queue=queue,
            slot=slot,
        )
        try:
            runtime.records.commit(put_letter(letter, envelope))
        except RecordConflictError:
            record = runtime.records.get([letter_key(slot)]).get(letter_key(slot))
            if record is not None and _read(record).sha256 == letter.sha256:
                return
        else:
            return
    raise StoreUnavailableError("there are too many dead letters of envelopes that nobody vouches for; purge them")


def list_letters(store: RecordStore) -> Iterator[DeadLetter]:
    """All dead letters, in the order of their ids; one that cannot be read says so.

    Raises:
        StoreUnavailableError: The store did not answer.
    """
    after = ""
    while page := store.scan(RecordKind.DEAD, after=after, limit=_PAGE):
        for record in page:
            yield _read(record)
        after = page[-1].key.id


def _read(record: Record) -> DeadLetter:
    try:
        letter = parse_letter(record.data)
    except DeadLetterError:
        return unreadable_letter(record.key.id)
    return letter if letter.id == record.key.id else unreadable_letter(record.key.id)


def find_letter(store: RecordStore, letter_id: str) -> DeadLetter:
    """What is known of one letter.

    Raises:
        DeadLetterError: There is none.
        StoreUnavailableError: The store did not answer.
    """
    key = letter_key(letter_id)
    record = store.get([key]).get(key)
    if record is None:
        raise DeadLetterError("there is no such dead letter")
    return _read(record)


def read_envelope(store: RecordStore, letter: DeadLetter) -> bytes:
    """The envelope of a letter.

    Trust: whoever can write the store chose these bytes; they are to be verified like those of a dispatch.
    Raises:
        DeadLetterError: A part of it is gone.
        StoreUnavailableError: The store did not answer.
    """
    keys = envelope_keys(letter)
    records = store.get(keys)
    if any(key not in records for key in keys):
        raise DeadLetterError("the envelope of this dead letter is not complete; it can only be purged")
    return b"".join(records[key].data for key in keys)


def remove_letter(store: RecordStore, letter_id: str) -> None:
    """Remove a letter with all its records; what is not there is no matter.

    Raises:
        StoreUnavailableError: The store did not answer, or somebody else is at it.
    """
    found = store.get(possible_keys(letter_id))
    if not found:
        return
    try:
        store.commit([Delete(key=key, expected=record.version) for key, record in found.items()])
    except RecordConflictError:
        raise StoreUnavailableError("somebody else has just changed this dead letter; look again") from None
