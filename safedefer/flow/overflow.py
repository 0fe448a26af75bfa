"""Bodies that are too large for a task: kept in the store, in records named from the task id.

Nothing that a record says of itself is believed. How many there are follows from the signed length, and the whole is
held against the signed digest before it is decoded.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from safedefer.core.claims import Claims, Storage
from safedefer.core.limits import MAX_AGE, OVERFLOW_CHUNK_BYTES, OVERFLOW_COMMIT_BYTES, RECORD_RESERVE
from safedefer.core.names import TaskId
from safedefer.core.ports import RecordStore
from safedefer.core.records import Delete, Put, RecordKey, RecordKind
from safedefer.errors import OverflowMissingError, Reason, RecordConflictError, StoreUnavailableError
from safedefer.flow.ledger import record_expiry

_CHUNKS_IN_ONE_COMMIT: Final = OVERFLOW_COMMIT_BYTES // OVERFLOW_CHUNK_BYTES
_SCAN: Final = {RecordKind.OVERFLOW: 4, RecordKind.DEAD_ENVELOPE: 4}
"""Records in one page of a scan: those that may be large come a few at a time."""
_SCAN_OF_SMALL: Final = 200
_WRITTEN: Final = 1
_KEPT: Final = 2
"""The versions of a chunk: as it was written, and with the longer life that it has beside a dead letter."""


def write_overflow(store: RecordStore, claims: Claims, body: bytes) -> None:
    """Keep a body.

    Raises:
        StoreUnavailableError: The store did not take it. What it may have taken expires.
    """
    expires_at = _expiry(claims)
    keys = _keys(claims)
    changes = [
        Put(
            key=key,
            data=body[index * OVERFLOW_CHUNK_BYTES : (index + 1) * OVERFLOW_CHUNK_BYTES],
            expires_at=expires_at,
            expected=None,
        )
        for index, key in enumerate(keys)
    ]
    try:
        for start in range(0, len(changes), _CHUNKS_IN_ONE_COMMIT):
            store.commit(changes[start : start + _CHUNKS_IN_ONE_COMMIT])
    except RecordConflictError:
        # The names come from 16 random bytes: what is there was written for this call, by an earlier try.
        found = store.get(keys)
        if any(change.key not in found or found[change.key].data != change.data for change in changes):
            raise StoreUnavailableError("the store holds another body of this task") from None


def read_overflow(store: RecordStore, claims: Claims) -> bytes:
    """Bring a body back.

    Trust: whoever can write the store chose these bytes; they are to go through `verify_body`.
    Raises:
        OverflowMissingError: A record is not there.
        StoreUnavailableError: The store did not answer.
    """
    keys = _keys(claims)
    records = store.get(keys)
    if any(key not in records for key in keys):
        raise OverflowMissingError(Reason.OVERFLOW_MISSING, f"{len(records)} of {len(keys)} records")
    return b"".join(records[key].data for key in keys)


def remove_overflow(store: RecordStore, claims: Claims) -> None:
    """Remove a body that nobody will ask for any more; what is not there is no matter, and what stays expires.

    Raises:
        StoreUnavailableError: The store did not answer.
    """
    if claims.body.storage is not Storage.OVERFLOW:
        return
    for key in _keys(claims):
        for version in (_WRITTEN, _KEPT):
            try:
                store.commit([Delete(key=key, expected=version)])
            except RecordConflictError:
                continue  # Removed before, or not ours.
            break


def keep_overflow(store: RecordStore, claims: Claims, expires_at: int) -> None:
    """Have a body live longer: until the dead letter that needs it expires.

    Raises:
        StoreUnavailableError: The store did not answer.
    """
    if claims.body.storage is not Storage.OVERFLOW:
        return
    for key in _keys(claims):
        record = store.get([key]).get(key)
        if record is None or record.version != _WRITTEN:
            continue
        with suppress(RecordConflictError):  # Somebody else has just done the same.
            store.commit([Put(key=key, data=record.data, expires_at=expires_at, expected=_WRITTEN)])


def purge_expired(store: RecordStore, kind: RecordKind, now: float) -> Iterator[bool]:
    """Walk over all records of a kind and remove the expired ones.

    Yields:
        For each record, whether it was removed.
    Raises:
        StoreUnavailableError: The store did not answer.
    """
    after = ""
    while page := store.scan(kind, after=after, limit=_SCAN.get(kind, _SCAN_OF_SMALL)):
        for record in page:
            expired = record.expires_at < now
            if expired:
                try:
                    store.commit([Delete(key=record.key, expected=record.version)])
                except RecordConflictError:
                    expired = False  # It was changed since, so that somebody still uses it.
            yield expired
        after = page[-1].key.id


def _expiry(claims: Claims) -> int:
    """For as long as Cloud Tasks may hold the task: one that has expired by then is still kept, with its body."""
    return max(record_expiry(claims), claims.not_before + int((MAX_AGE + RECORD_RESERVE).total_seconds()))


def _keys(claims: Claims) -> list[RecordKey]:
    count = -(-claims.body.size_bytes // OVERFLOW_CHUNK_BYTES)
    return [RecordKey(RecordKind.OVERFLOW, _name(claims.task_id, index)) for index in range(count)]


def _name(task_id: TaskId, index: int) -> str:
    return f"{task_id.hex()}-{index:05d}"
