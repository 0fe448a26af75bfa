"""Tokens and keys without a server."""

from datetime import UTC, datetime

import jwt
import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from safedefer.emulator import ManualClock
from safedefer.emulator.identity import TokenIssuer, account_id

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def issuer() -> TokenIssuer:
    return TokenIssuer(url="http://127.0.0.1:9024", clock=ManualClock(NOW))


def claims_of(token: str) -> dict[str, object]:
    claims: dict[str, object] = jwt.decode(token, options={"verify_signature": False})
    return claims


def test_claims_can_be_replaced_and_left_out(issuer: TokenIssuer) -> None:
    claims = claims_of(issuer.mint("a@local", "x", aud="y", exp=5, email_verified=None, extra=["z"]))
    assert claims["aud"] == "y"
    assert claims["exp"] == 5
    assert claims["extra"] == ["z"]
    assert "email_verified" not in claims


def test_certificate_and_key_set_publish_the_same_key(issuer: TokenIssuer) -> None:
    ((key_id, certificate),) = issuer.certificates().items()
    jwk = jwt.PyJWK.from_dict(next(iter(jwt.PyJWKSet.from_dict(dict(issuer.jwks())).keys))._jwk_data)
    assert jwk.key_id == key_id
    from_certificate = x509.load_pem_x509_certificate(certificate.encode()).public_key()
    assert from_certificate == jwk.key


def test_private_key_is_in_no_repr(issuer: TokenIssuer) -> None:
    assert "private" not in repr(issuer._keys)


@given(st.text())
def test_account_id_has_21_digits_and_is_stable(email: str) -> None:
    found = account_id(email)
    assert found == account_id(email)
    assert len(found) == 21
    assert found.isdigit()


def test_accounts_differ() -> None:
    assert account_id("a@local") != account_id("b@local")
