"""The token issuer of the local cloud: identity tokens as Google would sign them, under a key of its own."""

import hashlib
import threading
from dataclasses import dataclass, field
from datetime import timedelta

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from jwt.algorithms import RSAAlgorithm

from safedefer.emulator.clock import Clock

TOKEN_LIFE = timedelta(hours=1)
_KEY_BITS = 2048
_PUBLIC_EXPONENT = 65537
_CERTIFICATE_LIFE = timedelta(days=365)


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A private key, and the two forms in which its public half is published."""

    key_id: str
    private: rsa.RSAPrivateKey = field(repr=False)
    jwk: dict[str, object]
    certificate: str


class TokenIssuer:
    """Mints identity tokens and keeps the keys they verify under. Safe to use from any thread.

    A token of this issuer proves nothing to anybody who does not choose to trust the issuer's address.
    """

    def __init__(self, *, url: str, clock: Clock) -> None:
        """Make the first key.

        Args:
            url: The issuer's base URL, which tokens carry as `iss`.
            clock: Time of minting.
        """
        self.url = url
        self._clock = clock
        self._lock = threading.Lock()
        self._keys = [_new_key(clock)]

    def mint(self, email: str, audience: str, **claims: object) -> str:
        """Return a signed token for the service account `email`, meant for `audience`.

        Args:
            email: The account. Any address will do; its numeric id is derived from it and is always the same.
            audience: The `aud` claim.
            **claims: Replace the claims of these names; None leaves a claim out. For tests of verifiers.
        """
        now = int(self._clock.now().timestamp())
        account = account_id(email)
        payload: dict[str, object] = {
            "iss": self.url,
            "aud": audience,
            "azp": account,
            "sub": account,
            "email": email,
            "email_verified": True,
            "iat": now,
            "exp": now + int(TOKEN_LIFE.total_seconds()),
        }
        payload.update(claims)
        with self._lock:
            key = self._keys[-1]
        kept = {name: value for name, value in payload.items() if value is not None}
        return jwt.encode(kept, key.private, algorithm="RS256", headers={"kid": key.key_id})

    def rotate(self) -> str:
        """Sign with a new key from now on. Earlier keys stay published. Returns the new key id."""
        key = _new_key(self._clock)
        with self._lock:
            self._keys.append(key)
        return key.key_id

    def jwks(self) -> dict[str, object]:
        """Return the published keys as a JSON Web Key Set."""
        with self._lock:
            return {"keys": [key.jwk for key in self._keys]}

    def certificates(self) -> dict[str, str]:
        """Return the published keys as PEM certificates by key id, the form that google-auth reads."""
        with self._lock:
            return {key.key_id: key.certificate for key in self._keys}


def account_id(email: str) -> str:
    """Return the numeric id of a service account: 21 digits, always the same for one email."""
    digest = hashlib.sha256(email.encode()).digest()
    return f"1{int.from_bytes(digest) % 10**20:020d}"


def _new_key(clock: Clock) -> SigningKey:
    private = rsa.generate_private_key(public_exponent=_PUBLIC_EXPONENT, key_size=_KEY_BITS)
    public = private.public_key()
    encoded = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    key_id = hashlib.sha256(encoded).hexdigest()[:40]
    jwk: dict[str, object] = dict(RSAAlgorithm.to_jwk(public, as_dict=True))
    jwk.update({"use": "sig", "alg": "RS256", "kid": key_id})
    jwk.pop("key_ops", None)
    return SigningKey(key_id=key_id, private=private, jwk=jwk, certificate=_certificate(private, clock))


def _certificate(private: rsa.RSAPrivateKey, clock: Clock) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "safedefer local token issuer")])
    now = clock.now()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _CERTIFICATE_LIFE)
        .sign(private, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
