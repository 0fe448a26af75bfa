"""A token has one form: no other text that decodes to the same bytes is the same token."""

import base64
import json
from string import ascii_letters, digits
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from safedefer.errors import Reason, TokenError
from safedefer.gcp.oidc import OidcVerifier, TokenPolicy
from tests.support.builders import NOW

PRIVATE = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EMAIL = "tasks@acme.iam.gserviceaccount.com"
POLICY = TokenPolicy(
    issuer="https://accounts.google.com", audience="https://shop.example.com", emails=frozenset({EMAIL})
)
VERIFIER = OidcVerifier(POLICY, lambda key_id: PRIVATE.public_key(), lambda: NOW)
ALPHABET = ascii_letters + digits + "-_"
CLAIMS: dict[str, Any] = {
    "iss": POLICY.issuer,
    "aud": POLICY.audience,
    "sub": "1",
    "email": EMAIL,
    "email_verified": True,
    "iat": NOW,
    "exp": NOW + 600,
}


def decoded(segment: str) -> bytes:
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


def others_of(segment: str) -> list[str]:
    """Every text that ends in another character and decodes to the same bytes."""
    bytes_of = decoded(segment)
    ends = [segment[:-1] + end for end in ALPHABET if end != segment[-1]]
    return [text for text in ends if decoded(text) == bytes_of]


def signed(header: bytes, payload: bytes) -> str:
    """A token whose signature is right for these very bytes."""
    head, body = (base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (header, payload))
    return sign_segments(head, body)


def sign_segments(head: str, body: str) -> str:
    algorithm = jwt.get_algorithm_by_name("RS256")
    signature = algorithm.sign(f"{head}.{body}".encode(), PRIVATE)
    return f"{head}.{body}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def reason_of(token: str) -> Reason:
    with pytest.raises(TokenError) as caught:
        VERIFIER.verify(f"Bearer {token}")
    return caught.value.reason


HEADER = {"alg": "RS256", "kid": "good", "typ": "JWT"}


def padded(value: dict[str, Any], size: int) -> bytes:
    """JSON of a length that leaves a rest when divided by three."""
    text = json.dumps(value).encode()
    return text + b" " * ((size - len(text)) % 3)


def test_token_that_is_made_here_is_valid() -> None:
    assert VERIFIER.verify(f"Bearer {signed(padded(HEADER, 1), padded(CLAIMS, 1))}").email == EMAIL


def test_signature_in_another_form_is_refused() -> None:
    head, body, signature = signed(padded(HEADER, 0), padded(CLAIMS, 0)).split(".")
    others = others_of(signature)
    assert len(others) == 15
    for other in others:
        assert reason_of(f"{head}.{body}.{other}") is Reason.TOKEN_MALFORMED


@pytest.mark.parametrize("rest", [1, 2])
def test_header_or_payload_in_another_form_is_refused_though_it_was_signed_so(rest: int) -> None:
    head, body, _ = signed(padded(HEADER, rest), padded(CLAIMS, rest)).split(".")
    forms = [(other, body) for other in others_of(head)] + [(head, other) for other in others_of(body)]
    assert len(forms) == (30 if rest == 1 else 6)
    for form in forms:
        assert reason_of(sign_segments(*form)) is Reason.TOKEN_MALFORMED


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"5",
        b"{",
        b"\xff\xfe",
        b"[" * 2_500,
        b'{"exp": ' + b"9" * 2_000 + b"}",
        b"{}",
        b'{"iss": {}, "aud": [], "exp": {}, "iat": [], "sub": {}, "email": {}}',
    ],
    ids=lambda payload: payload[:20].decode("latin-1"),
)
def test_signed_payload_that_is_no_set_of_claims_is_refused(payload: bytes) -> None:
    assert reason_of(signed(padded(HEADER, 0), payload)).value.startswith("token_")


@pytest.mark.parametrize(
    "header",
    [
        b"null",
        b"[]",
        b'"RS256"',
        b"{",
        b"\xff",
        b"[" * 2_500,
        b'{"alg": ["RS256"], "kid": "good"}',
        b'{"alg": "RS256", "kid": ["good"]}',
        b'{"alg": "RS256", "kid": 5}',
        b'{"alg": "RS256"}',
        b'{"alg": "rs256", "kid": "good"}',
        b'{"alg": "RS256 ", "kid": "good"}',
        b'{"alg": "RS256", "kid": "good", "typ": "jwt"}',
        b'{"alg": "RS256", "kid": "good", "kid": "good"}',
        b'{"alg": "RS256", "kid": "good", "crit": []}',
        b'{"alg": "RS256", "kid": "good", "jwk": null}',
    ],
    ids=lambda header: header[:50].decode("latin-1"),
)
def test_signed_header_that_breaks_a_rule_is_refused(header: bytes) -> None:
    assert reason_of(signed(header, padded(CLAIMS, 0))) in (Reason.TOKEN_HEADER, Reason.TOKEN_MALFORMED)


@pytest.mark.parametrize(
    "scheme", ["bearer", "BEARER", "Bearer ", "Bearer\t", " Bearer", "Token", "", "Bearer:", "Bearer\u00a0"]
)
def test_token_under_another_scheme_is_refused(scheme: str) -> None:
    token = signed(padded(HEADER, 0), padded(CLAIMS, 0))
    with pytest.raises(TokenError) as caught:
        VERIFIER.verify(f"{scheme} {token}")
    assert caught.value.reason is Reason.TOKEN_MALFORMED


def test_length_of_the_header_is_bounded() -> None:
    lengths: dict[bool, list[int]] = {True: [], False: []}
    for more in range(2_300, 2_700, 20):
        token = signed(padded(HEADER, 0), json.dumps({**CLAIMS, "x": "x" * more}).encode())
        try:
            VERIFIER.verify(f"Bearer {token}")
        except TokenError:
            lengths[False].append(len(f"Bearer {token}"))
        else:
            lengths[True].append(len(f"Bearer {token}"))
    assert 4_060 < max(lengths[True]) <= 4_096 < min(lengths[False])
