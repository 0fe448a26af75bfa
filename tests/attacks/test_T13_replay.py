"""T13: a captured dispatch is sent again: at once, at the same time, later, and when it has expired."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from safedefer.core.records import RecordKind
from safedefer.django.models import StoredRecord
from safedefer.errors import Reason
from safedefer.flow.runtime import install
from tests.site.shop import tasks
from tests.support.builders import ManualClock
from tests.support.site import Site


def test_T13_replayed_dispatch_is_answered_and_not_run(site: Site) -> None:
    wire = site.seal(tasks.note, "once")
    assert [site.post(wire).status for _ in range(4)] == [204] * 4
    assert site.traces() == ["note once"]
    assert [event.reason for event in site.dispatches()] == [Reason.EXECUTED, *[Reason.ALREADY_EXECUTED] * 3]


def test_T13_dispatches_at_the_same_time_run_once(site: Site) -> None:
    wire, token = site.seal(tasks.note, "once"), site.token()
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: site.post(wire, token=token).status, range(16)))
    assert set(statuses) == {204}
    assert site.traces() == ["note once"]
    assert sum(event.reason is Reason.EXECUTED for event in site.dispatches()) == 1


def test_T13_expired_envelope_is_refused(site: Site) -> None:
    wire = site.seal(tasks.note, "x")
    clock = ManualClock(site.runtime.clock.time() + 31 * 86_400 + 31)
    late = replace(site.runtime, clock=clock)
    install(lambda: late)
    reply = site.post(wire)
    assert reply.status == 204
    assert site.refusal(reply).reason is Reason.EXPIRED


def test_T13_ledger_remembers_for_longer_than_the_envelope_lives(site: Site) -> None:
    from safedefer.core.claims import parse_claims
    from safedefer.core.envelope import parse_envelope

    wire = site.seal(tasks.note, "x")
    assert site.post(wire).status == 204
    (row,) = StoredRecord.objects.filter(kind=RecordKind.LEDGER)
    # Skew on both sides, and a dispatch that began in the last moment and takes as long as one may.
    assert row.expires_at >= parse_claims(parse_envelope(wire).claims).expires_at + 60 + 1_800


def test_T13_thief_of_a_key_cannot_stretch_the_life_of_an_envelope(site: Site) -> None:
    now = int(site.runtime.clock.time())
    wire = site.seal(tasks.note, "x")
    for dates, reason in (
        ({"expires_at": now + 400 * 86_400}, Reason.LIFETIME_TOO_LONG),
        ({"issued_at": now - 90 * 86_400, "expires_at": now + 60}, Reason.LIFETIME_TOO_LONG),
        ({"issued_at": now + 600, "not_before": now + 600}, Reason.ISSUED_IN_FUTURE),
        ({"not_before": now - 5}, Reason.CLAIMS_MALFORMED),
        ({"expires_at": now - 5}, Reason.CLAIMS_MALFORMED),
    ):
        # A clock may be wrong, and is asked again; nothing else of this is.
        expected = 409 if reason is Reason.ISSUED_IN_FUTURE else 204
        assert site.post(site.forge(wire, claims={**dates, "task_id": os.urandom(16)})).status == expected
        assert site.dispatches()[-1].reason is reason
    assert site.traces() == []
