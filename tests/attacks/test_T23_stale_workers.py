"""T23: a worker that was stopped past the end of its lease goes on and wants to record its end."""

from dataclasses import replace
from typing import Any

import pytest

from safedefer.core.ledger import Busy, Claimed, Finished
from safedefer.errors import LeaseLostError, Reason
from safedefer.flow.ledger import Lease, Ledger
from safedefer.flow.runtime import install
from safedefer.testing.fakes import MemoryRecords
from tests.site.shop import tasks
from tests.support.builders import NOW, ManualClock, make_claims
from tests.support.site import Site


def claim(ledger: Ledger) -> Lease | Busy | Finished | Claimed:
    return ledger.claim(make_claims(), ledger.look(make_claims()))


def held(ledger: Ledger) -> Lease:
    lease = claim(ledger)
    assert isinstance(lease, Lease)
    return lease


def test_T23_lease_outlives_the_dispatch_deadline() -> None:
    lease = held(Ledger(MemoryRecords(), ManualClock()))
    assert lease.entry.lease_until >= NOW + make_claims().deadline_seconds + 60


def test_T23_end_of_a_stale_worker_is_refused() -> None:
    clock = ManualClock()
    ledger = Ledger(MemoryRecords(), clock)
    stale = held(ledger)
    assert isinstance(claim(ledger), Busy)
    clock.now = stale.entry.lease_until
    fresh = held(ledger)
    assert (fresh.entry.fence, fresh.entry.attempts) == (2, 2)
    with pytest.raises(LeaseLostError):
        ledger.finish(stale)
    with pytest.raises(LeaseLostError):
        ledger.release(stale)
    ledger.finish(fresh)
    assert isinstance(claim(ledger), Finished)


def test_T23_finished_task_is_never_claimed_again() -> None:
    clock = ManualClock()
    ledger = Ledger(MemoryRecords(), clock)
    lease = held(ledger)
    ledger.finish(lease)
    clock.now += 10_000_000
    assert isinstance(claim(ledger), Finished)


class SlowInvoker:
    """Calls the function, and lets another worker take the lease before it comes back."""

    def __init__(self, site: Site, clock: ManualClock) -> None:
        self.real = site.runtime.invoker
        self.call_each = site.runtime.invoker.call_each
        self.in_thread = site.runtime.invoker.in_thread
        self.site = site
        self.clock = clock
        self.overtaken = False

    def call(self, function: Any, args: Any, kwargs: Any) -> None:
        self.real.call(function, args, kwargs)
        if not self.overtaken:
            self.overtaken = True
            self.clock.now += 1_000
            self.wire_status = self.site.post(self.wire).status

    wire: bytes
    wire_status: int


def test_T23_overtaken_worker_is_not_answered_with_success(site: Site) -> None:
    clock = ManualClock(site.runtime.clock.time())
    slow = SlowInvoker(site, clock)
    slow.wire = site.seal(tasks.note, "x")
    runtime = replace(site.runtime, clock=clock, invoker=slow, ledger=Ledger(site.runtime.records, clock))
    install(lambda: runtime)
    assert site.post(slow.wire).status == 409
    assert slow.wire_status == 204
    assert [event.reason for event in site.dispatches()] == [Reason.EXECUTED, Reason.LEASE_LOST]
