"""The state of one task in the ledger, and the rules between its states. Pure: the time is given, nothing is stored.

absent -> claimed -> done, or dead
             |  ^
             v  |  (lease over, given back after a failure, or put off until a given time)
          claimed, with a larger fencing number
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, TypeAlias, final

from safedefer.core.wire import WireError, pack, unpack
from safedefer.errors import StoreUnavailableError


@final
class LedgerState(StrEnum):
    """How far a task is."""

    CLAIMED = "claimed"
    DONE = "done"
    DEAD = "dead"
    """Given up: kept as a dead letter."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One task's row.

    Attributes:
        fence: Grows with each claim; a write with an old one fails.
        attempts: Claims so far.
        lease_until: Seconds since 1970; until then nobody else may claim.
    """

    state: LedgerState
    fence: int
    attempts: int
    lease_until: int


@final
@dataclass(frozen=True, slots=True)
class Claimed:
    """The task may be executed, by whoever writes this entry first."""

    entry: LedgerEntry


@final
@dataclass(frozen=True, slots=True)
class Busy:
    """Another worker holds the lease."""

    fence: int
    lease_until: int


@final
@dataclass(frozen=True, slots=True)
class Finished:
    """The task is not to be executed any more.

    Attributes:
        dead: It was given up, and not executed to its end.
    """

    dead: bool = False


Claim: TypeAlias = Claimed | Busy | Finished


def claim_entry(entry: LedgerEntry | None, *, now: float, lease_seconds: int) -> Claim:
    """What becomes of a claim.

    Args:
        entry: The task's row, or None where it has none yet.
        lease_seconds: Longer than the dispatch deadline: a worker that the queue has given up on may still run.
    """
    until = int(now) + lease_seconds
    if entry is None:
        return Claimed(LedgerEntry(state=LedgerState.CLAIMED, fence=1, attempts=1, lease_until=until))
    if entry.state is not LedgerState.CLAIMED:
        return Finished(dead=entry.state is LedgerState.DEAD)
    if now < entry.lease_until:
        return Busy(entry.fence, entry.lease_until)
    return Claimed(replace(entry, fence=entry.fence + 1, attempts=entry.attempts + 1, lease_until=until))


def finish_entry(entry: LedgerEntry) -> LedgerEntry:
    """The entry of an executed task."""
    return replace(entry, state=LedgerState.DONE)


def bury_entry(entry: LedgerEntry | None) -> LedgerEntry:
    """The entry of a task that is given up."""
    if entry is None:
        return LedgerEntry(state=LedgerState.DEAD, fence=0, attempts=0, lease_until=0)
    return replace(entry, state=LedgerState.DEAD)


def release_entry(entry: LedgerEntry, until: int = 0, *, executed: bool = True) -> LedgerEntry:
    """The entry of a task that is to run again: the next dispatch may claim it, at once or from `until` on.

    Args:
        executed: Whether this was an attempt; not, where something failed before the function was called.
    """
    return replace(entry, lease_until=until, attempts=entry.attempts if executed else entry.attempts - 1)


_FIELDS: Final = 4


def dump_entry(entry: LedgerEntry) -> bytes:
    """Encode an entry for the store."""
    return pack([entry.state.value, entry.fence, entry.attempts, entry.lease_until])


def parse_entry(data: bytes) -> LedgerEntry:
    """Read an entry.

    Trust: whoever can write the store can make a task run again, or not at all; never another function, or with other
    arguments.
    Raises:
        StoreUnavailableError: The row cannot be read; the task waits until somebody has looked.
    """
    try:
        tree = unpack(data)
        if not isinstance(tree, list) or len(tree) != _FIELDS:
            raise WireError("not a ledger entry")
        state, fence, attempts, lease_until = tree
        if not isinstance(fence, int) or not isinstance(attempts, int) or not isinstance(lease_until, int):
            raise WireError("not a ledger entry")
        return LedgerEntry(state=LedgerState(state), fence=fence, attempts=attempts, lease_until=lease_until)
    except ValueError:
        raise StoreUnavailableError("a row of the ledger cannot be read") from None
