"""At most one completed execution for each task id: claim, lease, fencing number, done."""

from dataclasses import dataclass, replace
from typing import Final, final

from safedefer.core.claims import Claims
from safedefer.core.ledger import (
    Busy,
    Claim,
    Claimed,
    Finished,
    LedgerEntry,
    bury_entry,
    claim_entry,
    dump_entry,
    finish_entry,
    parse_entry,
    release_entry,
)
from safedefer.core.limits import CLOCK_SKEW, LEASE_RESERVE, RECORD_RESERVE
from safedefer.core.ports import Clock, RecordStore
from safedefer.core.records import Put, RecordKey, RecordKind
from safedefer.errors import LeaseLostError, RecordConflictError, StoreUnavailableError

_CLAIM_TRIES: Final = 4
_FINISH_TRIES: Final = 3


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to execute one task, for a time.

    Attributes:
        version: The version of the row as this lease wrote it: the condition of every further write.
    """

    key: RecordKey
    entry: LedgerEntry
    version: int
    expires_at: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the ledger had to say of a task at one moment.

    Attributes:
        claim: Whether it may be executed.
        entry: Its row; None where it has none.
        version: The version of its row; None where it has none.
    """

    claim: Claim
    entry: LedgerEntry | None
    version: int | None


@final
class Ledger:
    """Rows of one store."""

    def __init__(self, store: RecordStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def look(self, claims: Claims) -> Standing:
        """Ask how far a task is, before anything costly is done for it.

        Raises:
            StoreUnavailableError: The store did not answer.
        """
        key = _key(claims)
        record = self._store.get([key]).get(key)
        entry = None if record is None else parse_entry(record.data)
        claim = claim_entry(entry, now=self._clock.time(), lease_seconds=_lease_seconds(claims))
        return Standing(claim=claim, entry=entry, version=None if record is None else record.version)

    def claim(self, claims: Claims, standing: Standing) -> Lease | Busy | Finished:
        """Take the right to execute a task, unless it was executed or is being executed.

        Args:
            standing: What `look` has said; it may be out of date.
        Raises:
            StoreUnavailableError: The store did not answer, or other writers were always first.
        """
        for _ in range(_CLAIM_TRIES):
            if not isinstance(standing.claim, Claimed):
                return standing.claim
            lease = Lease(
                key=_key(claims),
                entry=standing.claim.entry,
                version=1 if standing.version is None else standing.version + 1,
                expires_at=record_expiry(claims),
            )
            change = Put(
                key=lease.key,
                data=dump_entry(lease.entry),
                expires_at=lease.expires_at,
                expected=standing.version,
            )
            try:
                self._store.commit([change])
            except RecordConflictError:
                standing = self.look(claims)  # Another worker was first.
            else:
                return lease
        raise StoreUnavailableError("other workers were always first to claim a task")

    def finish(self, lease: Lease) -> None:
        """Record that the task has been executed.

        Raises:
            LeaseLostError: The lease was over and another worker has claimed the task.
            StoreUnavailableError: The store did not answer.
        """
        done = replace(lease, entry=finish_entry(lease.entry))
        for left in reversed(range(_FINISH_TRIES)):
            try:
                self._write(done)
            except StoreUnavailableError:
                # The function has run: it is worth asking again before it is run again.
                if left == 0:
                    raise
            else:
                return

    def release(self, lease: Lease, until: int = 0, *, executed: bool = True) -> None:
        """Give the lease back, so that the next dispatch need not wait for its end.

        Args:
            until: Seconds since 1970 before which nobody may claim the task.
            executed: Whether this counts as an attempt.
        Raises:
            LeaseLostError: The lease was over and another worker has claimed the task.
            StoreUnavailableError: The store did not answer; the lease ends by itself.
        """
        self._write(replace(lease, entry=release_entry(lease.entry, until, executed=executed)))

    def burial(self, claims: Claims, held: Lease | Standing) -> Put:
        """The change that marks a task as given up, for the commit that keeps its dead letter.

        Args:
            held: The lease of the worker that gives up; without one, what `look` has said.
        """
        return Put(
            key=_key(claims),
            data=dump_entry(bury_entry(held.entry)),
            expires_at=record_expiry(claims),
            expected=held.version,
        )

    def _write(self, lease: Lease) -> None:
        change = Put(key=lease.key, data=dump_entry(lease.entry), expires_at=lease.expires_at, expected=lease.version)
        try:
            self._store.commit([change])
        except RecordConflictError:
            record = self._store.get([lease.key]).get(lease.key)
            # An earlier try of this very write may have been made without an answer.
            if record is None or record.version != change.version or record.data != change.data:
                raise LeaseLostError("another worker has claimed the task") from None


def record_expiry(claims: Claims) -> int:
    """When nothing can come any more that a record of this task would have to answer."""
    reserve = RECORD_RESERVE + 2 * CLOCK_SKEW
    return claims.expires_at + int(reserve.total_seconds())


def _lease_seconds(claims: Claims) -> int:
    return claims.deadline_seconds + int((LEASE_RESERVE + CLOCK_SKEW).total_seconds())


def _key(claims: Claims) -> RecordKey:
    return RecordKey(RecordKind.LEDGER, claims.task_id.hex())
