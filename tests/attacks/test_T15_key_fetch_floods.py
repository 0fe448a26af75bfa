"""T15: tokens with invented key ids make the handler fetch the issuer's keys again and again."""

from collections.abc import Iterator
from dataclasses import replace

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from safedefer.errors import Reason
from safedefer.flow.runtime import install
from safedefer.gcp.jwks import KeySetCache, fetch_key_set
from safedefer.gcp.oidc import OidcVerifier, TokenPolicy
from tests.site.shop import tasks
from tests.support.builders import ManualClock
from tests.support.key_server import KeyServer, jwk_of, serving_keys
from tests.support.site import Site

PRIVATE = rsa.generate_private_key(public_exponent=65537, key_size=2048)
THIEF = rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with serving_keys() as keys:
        keys.publish(jwk_of(PRIVATE, "good"))
        yield keys


def with_keys(site: Site, server: KeyServer, clock: ManualClock) -> None:
    """Have the handler use the key server instead of the local issuer's."""
    cache = KeySetCache(lambda: fetch_key_set(server.url), clock.time)
    policy = TokenPolicy(
        issuer=site.cloud.issuer.url,
        audience=site.url,
        emails=frozenset({"safedefer@local.iam.gserviceaccount.com"}),
    )
    runtime = replace(site.runtime, tokens=OidcVerifier(policy, cache.find, site.runtime.clock.time))
    install(lambda: runtime)


def token_with(site: Site, key_id: str, private: rsa.RSAPrivateKey) -> str:
    claims = jwt.decode(site.token(), options={"verify_signature": False})
    return jwt.encode(claims, private, algorithm="RS256", headers={"kid": key_id})


@pytest.mark.parametrize("healthy", [True, False])
def test_T15_invented_key_ids_cause_one_fetch_a_cooldown(site: Site, server: KeyServer, healthy: bool) -> None:
    clock = ManualClock()
    with_keys(site, server, clock)
    wire = site.seal(tasks.note, "x")
    assert site.post(wire, token=token_with(site, "other", THIEF)).status == 401
    server.status = 200 if healthy else 500
    clock.now += 61
    before = server.asked
    statuses = {site.post(wire, token=token_with(site, f"random-{number}", THIEF)).status for number in range(40)}
    assert statuses == ({401} if healthy else {503})
    assert server.asked - before == 1
    assert site.traces() == []


def test_T15_genuine_tokens_are_verified_during_a_flood(site: Site, server: KeyServer) -> None:
    clock = ManualClock()
    with_keys(site, server, clock)
    wire = site.seal(tasks.forgetful, "x")
    assert site.post(wire, token=token_with(site, "good", PRIVATE)).status == 204
    server.status = 500
    clock.now += 61
    for number in range(5):
        assert site.post(wire, token=token_with(site, f"random-{number}", THIEF)).status == 503
        assert site.post(wire, token=token_with(site, "good", PRIVATE)).status == 204


def test_T15_unknown_key_is_audited_without_its_id(site: Site, server: KeyServer) -> None:
    with_keys(site, server, ManualClock())
    reply = site.post(site.seal(tasks.note, "x"), token=token_with(site, "canary-id", THIEF))
    event = site.refusal(reply)
    assert event.reason is Reason.TOKEN_KEY_UNKNOWN
    assert "canary" not in repr(event)
