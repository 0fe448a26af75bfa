"""T26: whoever sits between us and the issuer answers with keys of their own, or sends us elsewhere for them."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm

from safedefer.django.conf import read_settings
from safedefer.errors import TokenError, TokenKeysUnavailableError
from safedefer.gcp import jwks
from safedefer.gcp.jwks import KeySetCache, KeySetError, fetch_key_set
from safedefer.gcp.oidc import GOOGLE_ISSUER, GOOGLE_KEYS_URL
from tests.site.shop import tasks
from tests.support.builders import ManualClock
from tests.support.key_server import KeyServer, jwk_of, serving_keys
from tests.support.site import Site, site_settings

OURS = rsa.generate_private_key(public_exponent=65537, key_size=2048)
THEIRS = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SMALL = rsa.generate_private_key(public_exponent=65537, key_size=1024)
GOOD = jwk_of(OURS, "good")
EVIL = jwk_of(THEIRS, "evil")


def an_ec_key(kid: str) -> dict[str, Any]:
    key = dict(ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True))
    return {**key, "kid": kid, "alg": "ES256", "use": "sig"}


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with serving_keys() as keys:
        keys.publish(GOOD)
        yield keys


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_T26_redirect_is_not_followed(server: KeyServer, status: int) -> None:
    with serving_keys() as attacker:
        attacker.publish(EVIL)
        server.status, server.headers = status, {"Location": attacker.url}
        with pytest.raises(KeySetError, match=str(status)):
            fetch_key_set(server.url)
        assert attacker.asked == 0


@pytest.mark.parametrize("status", [201, 203, 206, 400, 404, 500])
def test_T26_keys_in_any_other_answer_than_200_are_not_taken(server: KeyServer, status: int) -> None:
    server.publish(EVIL)
    server.status = status
    with pytest.raises(KeySetError, match=str(status)):
        fetch_key_set(server.url)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "file://127.0.0.1/etc/passwd", "ftp://127.0.0.1/keys", "data:,{}", "/keys", ""]
)
def test_T26_only_http_and_https_are_fetched(url: str) -> None:
    with pytest.raises(KeySetError, match="no http or https"):
        fetch_key_set(url)


def test_T26_plain_http_is_not_taken_from_another_address_than_loopback() -> None:
    address = _own_address()
    if address is None:
        pytest.skip("this machine has no other address than loopback")
    answer = _http(json.dumps({"keys": [EVIL]}).encode())
    with (
        _answering(lambda connection: connection.sendall(answer), "") as port,
        pytest.raises(KeySetError, match="another machine"),
    ):
        fetch_key_set(f"http://{address}:{port}/certs")


def test_T26_https_of_a_stranger_is_refused_for_its_certificate() -> None:
    with (
        _answering(lambda connection: connection.sendall(_http(b"{}"))) as port,
        pytest.raises(KeySetError, match="SSL"),
    ):
        fetch_key_set(f"https://127.0.0.1:{port}/certs")


def test_T26_proxy_of_the_environment_is_not_asked(server: KeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving_keys() as proxy:
        proxy.publish(EVIL)
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert list(fetch_key_set(server.url).keys) == ["good"]
        assert proxy.asked == 0


BAD_SETS: dict[str, list[dict[str, Any]]] = {
    "no key at all": [],
    "only an elliptic key": [an_ec_key("evil")],
    "only a shared secret": [{"kty": "oct", "k": "c2VjcmV0", "kid": "evil", "alg": "RS256", "use": "sig"}],
    "a small RSA key": [jwk_of(SMALL, "evil")],
    "a small RSA key beside a good one": [GOOD, jwk_of(SMALL, "evil")],
    "one id twice": [GOOD, jwk_of(THEIRS, "good")],
    "two keys without ids": [{**EVIL, "kid": None}, {**GOOD, "kid": None}],
    "a modulus that is no number": [GOOD, {**EVIL, "n": "!"}],
    "an exponent of one": [GOOD, {**EVIL, "e": "AQ"}],
    "an even exponent": [GOOD, {**EVIL, "e": "Ag"}],
    "too many keys": [jwk_of(OURS, f"key-{number}") for number in range(17)],
    "an algorithm that is not ours": [{**EVIL, "alg": "PS256"}],
    "a key for encryption": [{**EVIL, "use": "enc"}],
    "operations that are no list": [{**EVIL, "key_ops": 5}],
    "no operations": [{**EVIL, "key_ops": None}],
    "operations in one word": [{**EVIL, "key_ops": "verify"}],
    "a key for signing only": [{**EVIL, "key_ops": ["sign"]}],
}


@pytest.mark.parametrize("keys", BAD_SETS.values(), ids=BAD_SETS.keys())
def test_T26_bad_set_is_not_used_and_the_old_one_is_kept(server: KeyServer, keys: list[dict[str, Any]]) -> None:
    clock = ManualClock()
    cache = KeySetCache(lambda: fetch_key_set(server.url), clock.time)
    old = cache.find("good")
    server.publish(*keys)
    clock.now += 301
    assert cache.find("good") is old
    assert server.asked == 2
    with pytest.raises((TokenError, TokenKeysUnavailableError)):
        cache.find("evil")
    # And the issuer's next answer is taken again.
    server.publish(GOOD, jwk_of(OURS, "new"))
    clock.now += 301
    assert cache.find("new").key_size == 2048


@pytest.mark.parametrize(
    "body",
    [
        b'{"keys":[' + json.dumps(GOOD).encode() + b"]}" + b" " * 65_536,
        b"x" * 10_000_000,
        b"\xff\xfe" * 100,
        b'{"keys":',
        b'{"keys": null}',
        b'{"keys": [' + b"9" * 5_000 + b"]}",
    ],
    ids=["padded", "ten megabytes", "no text", "cut", "null", "long number"],
)
def test_T26_answer_that_is_too_large_or_broken_is_not_used(server: KeyServer, body: bytes) -> None:
    server.body = body
    with pytest.raises(KeySetError):
        fetch_key_set(server.url)


def test_T26_endless_answer_is_given_up() -> None:
    def flood(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65_536)

    with _answering(flood) as port, pytest.raises(KeySetError, match="too large"):
        fetch_key_set(f"http://127.0.0.1:{port}/certs")


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"])
def test_T26_answer_that_comes_drop_by_drop_is_given_up_in_time(start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "_READ_SECONDS", 0.3)
    stop = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(start)
        for _ in range(200):
            if stop.wait(0.02):
                return
            connection.sendall(b"x")

    with _answering(drip) as port:
        begun = time.monotonic()
        with pytest.raises(KeySetError, match="Timeout"):
            fetch_key_set(f"http://127.0.0.1:{port}/certs")
        assert time.monotonic() - begun < 2
        stop.set()


@pytest.mark.parametrize("header", ["jku", "x5u"])
def test_T26_place_for_keys_that_a_token_names_is_never_asked(site: Site, server: KeyServer, header: str) -> None:
    server.publish(EVIL)
    token = jwt.encode({"iss": "x"}, THEIRS, algorithm="RS256", headers={"kid": "evil", header: server.url})
    assert site.post(site.seal(tasks.note, "x"), token=token).status == 401
    assert server.asked == 0


def test_T26_no_variable_points_a_public_service_at_other_keys() -> None:
    public = {
        "SERVICE_ACCOUNT": "tasks@acme.iam.gserviceaccount.com",
        "HANDLER_URL": "https://shop.example.com/_safedefer/",
        "PROJECT": "acme",
        "LOCATION": "europe-west1",
    }
    environ = {"SAFEDEFER_LOCAL_ISSUER": "http://127.0.0.1:9024"}
    settings, problems = read_settings(site_settings("", **public), environ)
    assert settings is None
    assert [problem.id for problem in problems if problem.is_error] == ["E009"]
    settings, _ = read_settings(site_settings("", **public), {})
    assert settings is not None
    assert settings.local is None
    assert GOOGLE_ISSUER == "https://accounts.google.com"
    assert GOOGLE_KEYS_URL == "https://www.googleapis.com/oauth2/v3/certs"


def _http(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@contextmanager
def _answering(answer: Callable[[socket.socket], None], host: str = "127.0.0.1") -> Iterator[int]:
    """A server that answers one connection, whatever it asks; gives its port."""
    listener = socket.create_server((host, 0))

    def serve() -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            try:
                connection.recv(65_536)
                answer(connection)
            except OSError:
                pass  # The client has given up, as it should.

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(20)


def _own_address() -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # Sends nothing: it only chooses the interface.
        except OSError:
            return None
        address = str(probe.getsockname()[0])
    return None if address.startswith("127.") else address
