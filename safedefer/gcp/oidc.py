"""TokenVerifier for the identity token that Cloud Tasks attaches to a dispatch.

The numbered rules stand in the order in which they are applied. PyJWT computes the signature; every rule around it is
ours, because libraries differ in what they let pass.
"""

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, final

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.exceptions import (
    InvalidAudienceError,
    InvalidIssuerError,
    InvalidSignatureError,
    MissingRequiredClaimError,
    PyJWTError,
)

from safedefer.core.limits import CLOCK_SKEW, MAX_TOKEN_BYTES
from safedefer.core.ports import VerifiedCaller
from safedefer.errors import Reason, TokenError

GOOGLE_ISSUER: Final = "https://accounts.google.com"
GOOGLE_KEYS_URL: Final = "https://www.googleapis.com/oauth2/v3/certs"

_BEARER: Final = re.compile(r"Bearer ([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_REMOVED_SIGNATURE: Final = "SIGNATURE_REMOVED_BY_GOOGLE"
_FORBIDDEN_HEADERS: Final = frozenset({"crit", "b64", "jku", "jwk", "x5u", "x5c"})
_MAX_KEY_ID: Final = 128
_SKEW_SECONDS: Final = int(CLOCK_SKEW.total_seconds())
_MAX_LIFETIME_SECONDS: Final = 3_900
_MISSING: Final[Mapping[str, Reason]] = {
    "iss": Reason.TOKEN_ISSUER,
    "aud": Reason.TOKEN_AUDIENCE,
    "email": Reason.TOKEN_EMAIL,
    "sub": Reason.TOKEN_SUBJECT,
    "exp": Reason.TOKEN_TIMES,
    "iat": Reason.TOKEN_TIMES,
}
"""What the absence of a claim is called: the same as a wrong value."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPolicy:
    """Which tokens prove that our queue called.

    Attributes:
        issuer: `iss`, exactly.
        audience: `aud`, exactly; a list is refused.
        emails: The service accounts that may call.
    """

    issuer: str
    audience: str
    emails: frozenset[str]


@final
class OidcVerifier:
    """Verifies identity tokens against one policy.

    Args:
        find_key: The public key of a key id; raises TokenError or TokenKeysUnavailableError.
        now: Seconds since 1970.
    """

    def __init__(self, policy: TokenPolicy, find_key: Callable[[str], RSAPublicKey], now: Callable[[], float]) -> None:
        self._policy = policy
        self._find_key = find_key
        self._now = now

    def verify(self, authorization: str | None) -> VerifiedCaller:
        """Verify the Authorization header of a dispatch.

        Trust: `authorization` comes from the network.
        Raises:
            TokenError: The reason says which rule refused it; nothing of the token is in the error.
            TokenKeysUnavailableError: The issuer's keys cannot be had.
        """
        # 1. One bearer token of bounded size: three segments, each the one base64url form of its bytes.
        token, header_bytes = _split_token(authorization)

        # 2. RS256 with a key id, and no header that would change what is verified or with what.
        key_id = _check_header(header_bytes)

        # 3. A key of the issuer's, the signature, and only then the claims.
        claims = self._verify_signature(token, self._find_key(key_id))

        # 4. The account is one of ours, and its address is its own.
        email = claims.get("email")
        if not isinstance(email, str) or email not in self._policy.emails:
            raise TokenError(Reason.TOKEN_EMAIL)
        if claims.get("email_verified") is not True:
            raise TokenError(Reason.TOKEN_EMAIL)

        # 5. The subject is there, and the token was not made for another party.
        subject = claims.get("sub")
        if not isinstance(subject, str) or not subject or claims.get("azp", subject) != subject:
            raise TokenError(Reason.TOKEN_SUBJECT)

        # 6. It is of this hour.
        self._check_times(claims)
        return VerifiedCaller(email=email, subject=subject)

    def _verify_signature(self, token: str, key: RSAPublicKey) -> dict[str, object]:
        try:
            claims: dict[str, object] = jwt.decode(
                token,
                key=key,
                algorithms=["RS256"],
                audience=self._policy.audience,
                issuer=self._policy.issuer,
                options={
                    "require": list(_MISSING),
                    "strict_aud": True,
                    # Times are checked by rule 6, on our clock and as true integers.
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        # Each `from None`: upstream errors may hold parts of the token.
        except InvalidSignatureError:
            raise TokenError(Reason.TOKEN_SIGNATURE) from None
        except InvalidAudienceError:
            raise TokenError(Reason.TOKEN_AUDIENCE) from None
        except InvalidIssuerError:
            raise TokenError(Reason.TOKEN_ISSUER) from None
        except MissingRequiredClaimError as error:
            raise TokenError(_MISSING.get(error.claim, Reason.TOKEN_MALFORMED)) from None
        except (PyJWTError, ValueError, TypeError, RecursionError):
            raise TokenError(Reason.TOKEN_MALFORMED) from None
        return claims

    def _check_times(self, claims: dict[str, object]) -> None:
        now = self._now()
        expires_at, issued_at = _time(claims.get("exp")), _time(claims.get("iat"))
        not_before = _time(claims.get("nbf", issued_at))
        if not (
            now <= expires_at + _SKEW_SECONDS
            and issued_at <= now + _SKEW_SECONDS
            and not_before <= now + _SKEW_SECONDS
            and 0 < expires_at - issued_at <= _MAX_LIFETIME_SECONDS
        ):
            raise TokenError(Reason.TOKEN_TIMES)


def _split_token(authorization: str | None) -> tuple[str, bytes]:
    if not authorization:
        raise TokenError(Reason.TOKEN_MISSING)
    if len(authorization) > MAX_TOKEN_BYTES:
        raise TokenError(Reason.TOKEN_MALFORMED)
    match = _BEARER.fullmatch(authorization)
    if match is None:
        raise TokenError(Reason.TOKEN_MALFORMED)
    header, payload, signature = match.groups()
    # Some platforms verify a token and then take its signature away. Such a token proves nothing to us.
    if signature.endswith(_REMOVED_SIGNATURE):
        raise TokenError(Reason.TOKEN_SIGNATURE_REMOVED)
    header_bytes = _decode_segment(header)
    _decode_segment(payload)
    _decode_segment(signature)
    return f"{header}.{payload}.{signature}", header_bytes


def _decode_segment(segment: str) -> bytes:
    try:
        data = urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except ValueError:
        raise TokenError(Reason.TOKEN_MALFORMED) from None
    if urlsafe_b64encode(data).rstrip(b"=") != segment.encode("ascii"):
        raise TokenError(Reason.TOKEN_MALFORMED)
    return data


def _check_header(data: bytes) -> str:
    try:
        header = json.loads(data, object_pairs_hook=_unique_names)
    except (ValueError, RecursionError):
        raise TokenError(Reason.TOKEN_MALFORMED) from None
    if not isinstance(header, dict):
        raise TokenError(Reason.TOKEN_MALFORMED)
    if header.get("alg") != "RS256" or header.get("typ", "JWT") != "JWT" or header.keys() & _FORBIDDEN_HEADERS:
        raise TokenError(Reason.TOKEN_HEADER)
    key_id = header.get("kid")
    if not isinstance(key_id, str) or not 0 < len(key_id) <= _MAX_KEY_ID:
        raise TokenError(Reason.TOKEN_HEADER)
    return key_id


def _unique_names(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("a repeated name")
    return names


def _time(value: object) -> int:
    # `type`, not `isinstance`: True is an int to Python, and NaN would compare as never expired.
    if type(value) is not int:
        raise TokenError(Reason.TOKEN_TIMES)
    return value
