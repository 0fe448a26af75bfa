"""T11: the message asks for another algorithm, version or mode than the key has."""

import base64
import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from safedefer.django.conf import LOCAL_SERVICE_ACCOUNT
from safedefer.errors import Reason
from tests.site.shop import tasks
from tests.support.site import Site


@pytest.mark.parametrize("suite", [0x00, 0x02, 0x7F, 0xFF])
def test_T11_suite_that_the_key_does_not_have_is_refused(site: Site, suite: int) -> None:
    wire = bytearray(site.seal(tasks.note, "x"))
    wire[5] = suite
    reply = site.post(bytes(wire))
    assert reply.status == 204
    assert site.refusal(reply).reason is Reason.SUITE_MISMATCH


@pytest.mark.parametrize("version", [0, 2, 255])
def test_T11_other_version_is_refused(site: Site, version: int) -> None:
    wire = bytearray(site.seal(tasks.note, "x"))
    wire[4] = version
    assert site.refusal(site.post(bytes(wire))).reason is Reason.FRAME_VERSION


@pytest.mark.parametrize("bit", range(16))
def test_T11_undefined_flag_is_refused(site: Site, bit: int) -> None:
    wire = bytearray(site.seal(tasks.note, "x"))
    wire[6:8] = (1 << bit).to_bytes(2, "big")
    assert site.refusal(site.post(bytes(wire))).reason is Reason.FRAME_FLAGS


def segment(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def claims_of(site: Site) -> dict[str, object]:
    now = int(time.time())
    return {
        "iss": site.cloud.issuer.url,
        "aud": site.url,
        "sub": "1",
        "azp": "1",
        "email": LOCAL_SERVICE_ACCOUNT,
        "email_verified": True,
        "iat": now,
        "exp": now + 3600,
    }


def key_id_of(site: Site) -> str:
    return str(jwt.get_unverified_header(site.token())["kid"])


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "HS256", "HS512", "RS384", "RS512", "PS256", "ES256", ""]
)
def test_T11_token_with_another_algorithm_is_refused(site: Site, algorithm: str) -> None:
    header = {"alg": algorithm, "kid": key_id_of(site), "typ": "JWT"}
    for signature in ("", segment(b"x" * 256)):
        token = f"{segment(header)}.{segment(claims_of(site))}.{signature}"
        reply = site.post(site.seal(tasks.note, "x"), token=token)
        assert reply.status == 401
    assert {event.reason for event in site.dispatches()} <= {Reason.TOKEN_HEADER, Reason.TOKEN_MALFORMED}


def test_T11_public_key_as_an_hmac_secret_is_refused(site: Site) -> None:
    from safedefer.gcp.jwks import fetch_key_set

    key_id = key_id_of(site)
    public = fetch_key_set(site.cloud.issuer.jwks_url).keys[key_id]
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    signed = f"{segment({'alg': 'HS256', 'kid': key_id, 'typ': 'JWT'})}.{segment(claims_of(site))}"
    mac = hmac.HMAC(pem, hashes.SHA256())
    mac.update(signed.encode())
    reply = site.post(site.seal(tasks.note, "x"), token=f"{signed}.{segment(mac.finalize())}")
    assert reply.status == 401
    assert site.refusal(reply).reason is Reason.TOKEN_HEADER


@pytest.mark.parametrize("name", ["crit", "b64", "jku", "jwk", "x5u", "x5c"])
def test_T11_header_that_brings_its_own_key_is_refused(site: Site, name: str) -> None:
    own = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    headers = {"kid": key_id_of(site), name: ["exp"] if name == "crit" else "http://127.0.0.1/keys"}
    signed = jwt.PyJWS().encode(b"{}", own, algorithm="RS256", headers={"kid": key_id_of(site)})
    token = (
        f"{segment({'alg': 'RS256', 'typ': 'JWT', **headers})}.{segment(claims_of(site))}.{signed.rpartition('.')[2]}"
    )
    reply = site.post(site.seal(tasks.note, "x"), token=token)
    assert reply.status == 401
    assert site.refusal(reply).reason is Reason.TOKEN_HEADER


def test_T11_signature_of_another_key_under_a_known_id_is_refused(site: Site) -> None:
    own = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    token = jwt.encode(claims_of(site), own, algorithm="RS256", headers={"kid": key_id_of(site)})
    reply = site.post(site.seal(tasks.note, "x"), token=token)
    assert reply.status == 401
    assert site.refusal(reply).reason is Reason.TOKEN_SIGNATURE
