"""T09: a key that has leaked is used after it was retired. The thief chooses the dates in the claims."""

from dataclasses import replace

import pytest

from safedefer.core.keys import Key, KeyRing, KeyState, derive_key, destroyed_key
from safedefer.core.names import KeyId
from safedefer.errors import Reason
from safedefer.flow.runtime import install
from tests.site.shop import tasks
from tests.support.site import Site

LEAKED = bytes(range(200, 240))


def leaked_key(site: Site, state: KeyState) -> Key:
    policy = site.runtime.policy
    return derive_key(name="leaked", secret=LEAKED, state=state, environment=policy.environment, project=policy.project)


def with_ring(site: Site, *keys: Key) -> None:
    runtime = replace(site.runtime, ring=KeyRing([site.runtime.ring.primary, *keys]))
    install(lambda: runtime)


@pytest.mark.parametrize("back_seconds", [0, 3_600, 30 * 86_400])
def test_T09_disabled_key_is_refused_whatever_the_date(site: Site, back_seconds: int) -> None:
    with_ring(site, leaked_key(site, KeyState.DISABLED))
    now = int(site.runtime.clock.time())
    dates = {"issued_at": now - back_seconds, "not_before": now - back_seconds, "expires_at": now + 60}
    forged = site.forge(site.seal(tasks.note, "x"), key=leaked_key(site, KeyState.PRIMARY), claims=dates)
    reply = site.post(forged)
    assert reply.status == 204
    event = site.refusal(reply)
    assert (event.reason, event.severity.value) == (Reason.KEY_DISABLED, "critical")


def test_T09_destroyed_key_is_told_apart_from_an_unknown_one(site: Site) -> None:
    thief = leaked_key(site, KeyState.PRIMARY)
    with_ring(site, destroyed_key(name="leaked", key_id=KeyId(thief.id)))
    reply = site.post(site.forge(site.seal(tasks.note, "x"), key=thief))
    assert reply.status == 204
    assert site.refusal(reply).reason is Reason.KEY_DESTROYED


def test_T09_active_key_is_still_believed(site: Site) -> None:
    with_ring(site, leaked_key(site, KeyState.ACTIVE))
    forged = site.forge(site.seal(tasks.note, "old but live"), key=leaked_key(site, KeyState.PRIMARY))
    assert site.post(forged).status == 204
    assert site.traces() == ["note old but live"]
