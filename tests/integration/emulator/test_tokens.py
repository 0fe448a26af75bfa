"""Tokens of dispatches, verified as applications do: by google-auth with certificates, by PyJWT with a key set."""

import json
import urllib.error
import urllib.request
from datetime import UTC, datetime

import google.auth.transport.requests
import jwt
import pytest
import requests
from google.cloud import tasks_v2
from google.oauth2 import id_token

from safedefer.emulator import LocalCloud, ManualClock
from tests.integration.emulator.targets import Target

EMAIL = "safedefer@local.iam.gserviceaccount.com"
AUDIENCE = "http://127.0.0.1:8000/_safedefer/"


def dispatched_token(
    client: tasks_v2.CloudTasksClient, cloud: LocalCloud, target: Target, queue: str, token: tasks_v2.OidcToken
) -> str:
    request = tasks_v2.HttpRequest(url=target.url("/a?b=c"), headers={"authorization": "Basic mine"}, oidc_token=token)
    client.create_task(parent=queue, task=tasks_v2.Task(http_request=request))
    assert cloud.tasks.wait_idle(10)
    authorization = target.received[0].header("Authorization")
    assert authorization is not None
    kind, _, text = authorization.partition(" ")
    assert kind == "Bearer"
    return text


def verified_by_key_set(cloud: LocalCloud, token: str, audience: str = AUDIENCE) -> dict[str, object]:
    key = jwt.PyJWKClient(cloud.issuer.jwks_url).get_signing_key_from_jwt(token)
    claims: dict[str, object] = jwt.decode(token, key, algorithms=["RS256"], audience=audience, issuer=cloud.issuer.url)
    return claims


def verified_by_certificates(cloud: LocalCloud, token: str) -> dict[str, object]:
    with requests.Session() as session:
        request = google.auth.transport.requests.Request(session=session)
        claims: dict[str, object] = dict(
            id_token.verify_token(token, request, audience=AUDIENCE, certs_url=cloud.issuer.certificates_url)
        )
        return claims


def fetch(url: str) -> tuple[dict[str, object], str | None]:
    with urllib.request.urlopen(url, timeout=10) as response:
        return json.load(response), response.headers["Cache-Control"]


def test_dispatch_carries_a_token_with_the_claims_of_google(
    client: tasks_v2.CloudTasksClient, cloud: LocalCloud, target: Target, queue: str, clock: ManualClock
) -> None:
    asked = tasks_v2.OidcToken(service_account_email=EMAIL, audience=AUDIENCE)
    token = dispatched_token(client, cloud, target, queue, asked)
    now = int(clock.now().timestamp())
    claims = verified_by_key_set(cloud, token)
    account = claims.pop("sub")
    assert isinstance(account, str)
    assert account.isdigit()
    assert claims == {
        "iss": cloud.environment()["SAFEDEFER_LOCAL_ISSUER"],
        "aud": AUDIENCE,
        "azp": account,
        "email": EMAIL,
        "email_verified": True,
        "iat": now,
        "exp": now + 3600,
    }
    assert verified_by_certificates(cloud, token)["sub"] == account
    assert jwt.get_unverified_header(token)["alg"] == "RS256"


def test_audience_is_the_whole_url_unless_given(
    client: tasks_v2.CloudTasksClient, cloud: LocalCloud, target: Target, queue: str
) -> None:
    token = dispatched_token(client, cloud, target, queue, tasks_v2.OidcToken(service_account_email=EMAIL))
    assert verified_by_key_set(cloud, token, audience=target.url("/a?b=c"))["email"] == EMAIL


def test_token_is_minted_at_dispatch_and_kept_nowhere(
    client: tasks_v2.CloudTasksClient, cloud: LocalCloud, target: Target, queue: str, clock: ManualClock
) -> None:
    client.pause_queue(name=queue)
    asked = tasks_v2.OidcToken(service_account_email=EMAIL, audience=AUDIENCE)
    request = tasks_v2.HttpRequest(url=target.url(), oidc_token=asked)
    client.create_task(parent=queue, task=tasks_v2.Task(http_request=request))
    clock.advance(7200)
    client.resume_queue(name=queue)
    assert cloud.tasks.wait_idle(10)
    header = target.received[0].header("Authorization")
    assert header is not None
    token = header.removeprefix("Bearer ")
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["iat"] == int(clock.now().timestamp())
    assert ("Authorization", "[redacted]") in cloud.tasks.attempts[0].headers
    assert token not in repr(cloud.tasks.attempts)


def test_own_authorization_header_arrives_without_a_token(
    client: tasks_v2.CloudTasksClient, cloud: LocalCloud, target: Target, queue: str
) -> None:
    request = tasks_v2.HttpRequest(url=target.url(), headers={"Authorization": "Basic mine"})
    client.create_task(parent=queue, task=tasks_v2.Task(http_request=request))
    assert cloud.tasks.wait_idle(10)
    assert target.received[0].header("Authorization") == "Basic mine"
    assert "mine" not in repr(cloud.tasks.attempts)


def test_rotation_keeps_earlier_tokens_valid(cloud: LocalCloud) -> None:
    before = cloud.issuer.mint(EMAIL, AUDIENCE)
    key_id = cloud.issuer.rotate()
    after = cloud.issuer.mint(EMAIL, AUDIENCE)
    assert jwt.get_unverified_header(after)["kid"] == key_id
    assert jwt.get_unverified_header(before)["kid"] != key_id
    for token in (before, after):
        assert verified_by_key_set(cloud, token)["email"] == EMAIL
        assert verified_by_certificates(cloud, token)["email"] == EMAIL


def test_token_of_another_issuer_does_not_verify(cloud: LocalCloud) -> None:
    with LocalCloud() as other:
        foreign = other.issuer.mint(EMAIL, AUDIENCE)
        with pytest.raises(jwt.PyJWKClientError):
            verified_by_key_set(cloud, foreign)
        with pytest.raises(ValueError, match="not found"):
            verified_by_certificates(cloud, foreign)


def test_discovery_leads_to_the_keys(cloud: LocalCloud) -> None:
    document, caching = fetch(f"{cloud.issuer.url}/.well-known/openid-configuration")
    assert document["issuer"] == cloud.issuer.url
    assert document["id_token_signing_alg_values_supported"] == ["RS256"]
    assert caching == "public, max-age=3600"
    keys, caching = fetch(str(document["jwks_uri"]))
    assert caching == "public, max-age=3600"
    certificates, caching = fetch(cloud.issuer.certificates_url)
    assert caching == "public, max-age=3600"
    match keys:
        case {"keys": [{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": key_id, "n": _, "e": _, **rest}]}:
            assert rest == {}, "nothing private is published"
            assert list(certificates) == [key_id]
        case _:
            pytest.fail(f"unexpected key set {keys}")


def test_health_answers_and_other_paths_do_not(cloud: LocalCloud) -> None:
    health, _ = fetch(f"{cloud.issuer.url}/")
    assert health == {"status": "ok", "issuer": cloud.issuer.url}
    with pytest.raises(urllib.error.HTTPError) as refusal:
        fetch(f"{cloud.issuer.url}/oauth2/v2/certs")
    assert refusal.value.code == 404
    refusal.value.close()


def test_minting_takes_the_given_clock() -> None:
    clock = ManualClock(datetime(2030, 1, 1, tzinfo=UTC))
    with LocalCloud(clock=clock) as cloud:
        claims = jwt.decode(cloud.issuer.mint(EMAIL, AUDIENCE), options={"verify_signature": False})
    assert claims["iat"] == clock.now().timestamp()
