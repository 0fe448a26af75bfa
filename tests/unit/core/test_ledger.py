"""The states of a task in the ledger."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedefer.core.ledger import (
    Busy,
    Claimed,
    Finished,
    LedgerEntry,
    LedgerState,
    claim_entry,
    dump_entry,
    finish_entry,
    parse_entry,
    release_entry,
)
from safedefer.core.wire import pack
from safedefer.errors import StoreUnavailableError

ENTRY = LedgerEntry(state=LedgerState.CLAIMED, fence=3, attempts=3, lease_until=1_000)


def test_first_claim_gets_the_first_fencing_number() -> None:
    claim = claim_entry(None, now=100.9, lease_seconds=60)
    assert claim == Claimed(LedgerEntry(state=LedgerState.CLAIMED, fence=1, attempts=1, lease_until=160))


def test_held_lease_is_busy_until_its_last_second() -> None:
    assert claim_entry(ENTRY, now=999.9, lease_seconds=60) == Busy(3, 1_000)
    claim = claim_entry(ENTRY, now=1_000, lease_seconds=60)
    assert isinstance(claim, Claimed)
    assert (claim.entry.fence, claim.entry.attempts, claim.entry.lease_until) == (4, 4, 1_060)


def test_released_entry_can_be_claimed_at_once() -> None:
    assert isinstance(claim_entry(release_entry(ENTRY), now=5, lease_seconds=60), Claimed)


@given(st.floats(0, 1e10))
def test_finished_entry_stays_finished(now: float) -> None:
    assert claim_entry(finish_entry(ENTRY), now=now, lease_seconds=60) == Finished()


@given(st.lists(st.sampled_from(["claim", "finish", "release", "wait"]), max_size=20))
def test_fencing_numbers_only_grow(steps: list[str]) -> None:
    entry: LedgerEntry | None = None
    now, fences = 0.0, [0]
    for step in steps:
        if step == "wait":
            now += 100
        elif step == "claim":
            claim = claim_entry(entry, now=now, lease_seconds=60)
            if isinstance(claim, Claimed):
                entry = claim.entry
                assert entry.fence > fences[-1]
                fences.append(entry.fence)
        elif entry is not None:
            entry = finish_entry(entry) if step == "finish" else release_entry(entry)


@pytest.mark.parametrize("entry", [ENTRY, finish_entry(ENTRY), release_entry(ENTRY)])
def test_entry_comes_back_as_it_was(entry: LedgerEntry) -> None:
    assert parse_entry(dump_entry(entry)) == entry


@pytest.mark.parametrize(
    "data", [b"", b"x", pack([]), pack(["claimed", 1, 1]), pack(["lost", 1, 1, 1]), pack(["done", "1", 1, 1]), pack({})]
)
def test_row_that_cannot_be_read_waits_for_somebody(data: bytes) -> None:
    with pytest.raises(StoreUnavailableError):
        parse_entry(data)
