"""The cache of the issuer's keys."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from safedefer.errors import Reason, TokenError, TokenKeysUnavailableError
from safedefer.gcp.jwks import KeySet, KeySetCache, KeySetError, fetch_key_set, parse_key_set
from tests.support.builders import ManualClock
from tests.support.key_server import KeyServer, jwk_of, serving_keys

PRIVATE = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
GOOD = jwk_of(PRIVATE, "good")


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with serving_keys() as keys:
        keys.publish(GOOD)
        yield keys


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def cache(server: KeyServer, clock: ManualClock) -> KeySetCache:
    return KeySetCache(lambda: fetch_key_set(server.url), clock.time)


def encoded(*keys: object) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not json",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": [1]}',
        b"[" * 100_000,
        encoded(),
        encoded(jwk_of(PRIVATE, "good", kty="EC")),
        encoded(jwk_of(PRIVATE, "good", alg="HS256")),
        encoded(jwk_of(PRIVATE, "good", alg="RS512")),
        encoded(jwk_of(PRIVATE, "good", use="enc")),
        encoded(jwk_of(PRIVATE, "good", key_ops=["sign"])),
        encoded({"kty": "oct", "k": "AAAA", "alg": "HS256", "use": "sig", "kid": "good"}),
        encoded({key: value for key, value in GOOD.items() if key != "kid"}),
        encoded({**GOOD, "kid": ""}),
        encoded({**GOOD, "kid": 5}),
        encoded({**GOOD, "n": "AAAA"}),
        encoded({**GOOD, "n": 5}),
        encoded({**GOOD, "e": ""}),
        encoded(GOOD, jwk_of(OTHER, "good")),
        encoded(GOOD, GOOD),
        encoded(*[jwk_of(PRIVATE, f"key-{number}") for number in range(17)]),
        encoded(GOOD, jwk_of(rsa.generate_private_key(public_exponent=65537, key_size=1024), "small")),
    ],
)
def test_set_that_is_not_to_be_trusted_is_refused_as_a_whole(data: bytes) -> None:
    with pytest.raises(KeySetError):
        parse_key_set(data)


def test_keys_of_other_kinds_are_passed_over() -> None:
    keys = parse_key_set(encoded({"kty": "EC", "kid": "new"}, GOOD, jwk_of(OTHER, "encrypts", use="enc")))
    assert list(keys) == ["good"]


def test_key_is_fetched_once_and_kept(server: KeyServer, cache: KeySetCache) -> None:
    for _ in range(5):
        assert cache.find("good").key_size == 2048
    assert server.asked == 1


@pytest.mark.parametrize(
    ("headers", "fresh"),
    [
        ({}, 300),
        ({"Cache-Control": "public, max-age=3600, must-revalidate"}, 3600),
        ({"Cache-Control": "max-age=3600", "Age": "600"}, 3000),
        ({"Cache-Control": "max-age=3600", "Age": "99999"}, 300),
        ({"Cache-Control": "max-age=1"}, 300),
        ({"Cache-Control": "max-age=99999999999999"}, 86_400),
        ({"Cache-Control": "max-age=-5"}, 300),
        ({"Cache-Control": "no-store"}, 300),
    ],
)
def test_set_is_fresh_for_as_long_as_the_issuer_says_within_bounds(
    server: KeyServer, headers: dict[str, str], fresh: float
) -> None:
    server.headers = headers
    assert fetch_key_set(server.url).fresh_seconds == fresh


def test_set_is_fetched_again_when_it_is_no_longer_fresh(
    server: KeyServer, cache: KeySetCache, clock: ManualClock
) -> None:
    cache.find("good")
    clock.now += 299
    cache.find("good")
    assert server.asked == 1
    clock.now += 2
    cache.find("good")
    assert server.asked == 2


def test_key_published_later_is_found_after_the_cooldown(
    server: KeyServer, cache: KeySetCache, clock: ManualClock
) -> None:
    cache.find("good")
    server.publish(GOOD, jwk_of(OTHER, "new"))
    with pytest.raises(TokenError):
        cache.find("new")
    clock.now += 61
    assert cache.find("new").key_size == 2048
    assert server.asked == 2


def test_old_keys_are_used_while_fetching_fails_and_for_no_longer_than_six_hours(
    server: KeyServer, cache: KeySetCache, clock: ManualClock
) -> None:
    cache.find("good")
    server.status = 500
    clock.now += 301
    assert cache.find("good").key_size == 2048
    clock.now += 6 * 3600 - 10
    assert cache.find("good").key_size == 2048
    clock.now += 20
    with pytest.raises(TokenKeysUnavailableError):
        cache.find("good")


def test_without_any_keys_nothing_can_be_said(server: KeyServer, cache: KeySetCache) -> None:
    server.status = 503
    with pytest.raises(TokenKeysUnavailableError):
        cache.find("good")


def test_unknown_id_while_fetching_fails_is_not_called_unknown(
    server: KeyServer, cache: KeySetCache, clock: ManualClock
) -> None:
    cache.find("good")
    server.status = 500
    clock.now += 61
    with pytest.raises(TokenKeysUnavailableError):
        cache.find("perhaps new")


@pytest.mark.parametrize("healthy", [True, False])
def test_thousand_unknown_ids_cause_one_fetch_a_cooldown(
    server: KeyServer, cache: KeySetCache, clock: ManualClock, healthy: bool
) -> None:
    cache.find("good")
    server.status = 200 if healthy else 500
    clock.now += 31
    before = server.asked
    for number in range(1_000):
        with pytest.raises((TokenError, TokenKeysUnavailableError)):
            cache.find(f"random-{number}")
    assert server.asked - before == 1


def test_failures_are_waited_out_longer_each_time(server: KeyServer, cache: KeySetCache, clock: ManualClock) -> None:
    server.status = 500
    asked = []
    for _ in range(3_600):
        clock.now += 1
        with pytest.raises(TokenKeysUnavailableError):
            cache.find("good")
        asked.append(server.asked)
    # 30, 60, 120, 240, 480, then 600 seconds and up to a fifth more.
    assert 7 <= asked[-1] <= 10


def test_one_thread_fetches_while_the_others_use_what_there_is(clock: ManualClock) -> None:
    started, go_on, fetches = threading.Event(), threading.Event(), []
    keys = parse_key_set(encoded(GOOD))

    def fetch() -> KeySet:
        fetches.append(1)
        if len(fetches) > 1:
            started.set()
            assert go_on.wait(20)
        return KeySet(keys, 300)

    cache = KeySetCache(fetch, clock.time)
    cache.find("good")
    clock.now += 301
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(cache.find, "good")
        assert started.wait(20)
        for _ in range(10):
            assert cache.find("good") is keys["good"]
        go_on.set()
        assert slow.result(20) is keys["good"]
    assert len(fetches) == 2


def test_unknown_key_says_so_with_its_reason(cache: KeySetCache) -> None:
    with pytest.raises(TokenError) as caught:
        cache.find("unknown")
    assert caught.value.reason is Reason.TOKEN_KEY_UNKNOWN
