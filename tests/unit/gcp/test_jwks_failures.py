"""The key cache where things go wrong in ways that nobody wants to wait for."""

import json
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from safedefer.errors import TokenError, TokenKeysUnavailableError
from safedefer.gcp import jwks
from safedefer.gcp.jwks import KeySet, KeySetCache, KeySetError, parse_key_set
from tests.support.builders import ManualClock
from tests.support.key_server import jwk_of

PRIVATE = rsa.generate_private_key(public_exponent=65537, key_size=2048)
KEYS = parse_key_set(json.dumps({"keys": [jwk_of(PRIVATE, "good")]}).encode())


class Fetches:
    """Counts fetches; each is answered by what a test has put there."""

    def __init__(self, answer: Callable[[], KeySet] = lambda: KeySet(KEYS, 300.0)) -> None:
        self.answer = answer
        self.count = 0

    def __call__(self) -> KeySet:
        """Answer."""
        self.count += 1
        return self.answer()


def fail() -> KeySet:
    raise KeySetError("down")


def break_down() -> KeySet:
    raise MemoryError


def ask_in_vain(cache: KeySetCache, times: int = 1) -> set[type[Exception]]:
    """Ask for ids that nobody has; says with which errors that was answered."""
    found: set[type[Exception]] = set()
    for number in range(times):
        try:
            cache.find(f"invented-{threading.get_ident()}-{number}")
        except (TokenError, TokenKeysUnavailableError) as error:
            found.add(type(error))
    return found


def ask_for(cache: KeySetCache, key_id: str) -> bool:
    """Whether a key is found."""
    try:
        cache.find(key_id)
    except TokenError:
        return False
    return True


def test_fetch_that_fails_in_an_unforeseen_way_is_told_and_waits_for_its_cooldown() -> None:
    clock, fetches = ManualClock(), Fetches(break_down)
    cache = KeySetCache(fetches, clock.time)
    with pytest.raises(MemoryError):
        cache.find("good")
    assert ask_in_vain(cache, 100) == {TokenKeysUnavailableError}
    assert fetches.count == 1
    fetches.answer = Fetches().answer
    clock.now += 40
    assert cache.find("good") is KEYS["good"]


def test_outage_of_a_month_neither_overflows_nor_ends_the_asking() -> None:
    clock, fetches = ManualClock(), Fetches(fail)
    cache = KeySetCache(fetches, clock.time)
    for _ in range(3_000):
        clock.now += 800
        assert ask_in_vain(cache) == {TokenKeysUnavailableError}
    assert fetches.count == 3_000


def test_back_off_begins_anew_after_a_success() -> None:
    clock, fetches = ManualClock(), Fetches(fail)
    cache = KeySetCache(fetches, clock.time)
    for _ in range(5):
        clock.now += 800
        ask_in_vain(cache)
    fetches.answer = Fetches().answer
    clock.now += 800
    cache.find("good")
    fetches.answer = fail
    clock.now += 301
    cache.find("good")
    before = fetches.count
    clock.now += 29
    cache.find("good")
    assert fetches.count == before
    clock.now += 8  # 30 seconds, and up to a fifth more.
    cache.find("good")
    assert fetches.count == before + 1


def test_processes_that_failed_together_do_not_come_back_together() -> None:
    moments: set[float] = set()
    for _ in range(20):
        cache = KeySetCache(fail, ManualClock().time)
        ask_in_vain(cache)
        moments.add(cache._next_fetch)
    assert len(moments) > 10
    assert max(moments) - min(moments) <= 6


def test_invented_ids_take_bounded_memory() -> None:
    cache = KeySetCache(Fetches(), ManualClock().time)
    assert ask_in_vain(cache, 10_000) == {TokenError}
    assert len(cache._unknown) <= 64


def test_id_that_was_unknown_a_moment_ago_causes_no_fetch_after_the_cooldown() -> None:
    clock, fetches = ManualClock(), Fetches()
    cache = KeySetCache(fetches, clock.time)
    cache.find("good")
    clock.now += 20
    assert ask_in_vain(cache) == {TokenError}
    clock.now += 20  # The cooldown is over, the minute is not.
    assert ask_in_vain(cache) == {TokenError}
    assert fetches.count == 1
    clock.now += 41
    assert ask_in_vain(cache) == {TokenError}
    assert fetches.count == 2


def test_new_key_that_is_asked_for_every_second_is_found_within_two_minutes() -> None:
    clock, fetches = ManualClock(), Fetches()
    cache = KeySetCache(fetches, clock.time)
    assert ask_for(cache, "new") is False  # The issuer's answer is a little older than its key.
    fetches.answer = lambda: KeySet({**KEYS, "new": KEYS["good"]}, 86_400.0)
    for _ in range(120):
        clock.now += 1
        if ask_for(cache, "new"):
            break
    assert cache.find("new") is KEYS["good"]
    assert fetches.count == 2


def test_threads_that_remember_and_threads_that_fetch_do_not_trip_over_each_other() -> None:
    clock = ManualClock()
    cache = KeySetCache(Fetches(), clock.time)

    def ask() -> None:
        for _ in range(500):
            clock.now += 31
            ask_in_vain(cache)

    with ThreadPoolExecutor(4) as pool:
        for answer in [pool.submit(ask) for _ in range(4)]:
            answer.result(20)
    assert cache.find("good") is KEYS["good"]


def test_many_threads_at_the_start_wait_for_one_fetch() -> None:
    together = threading.Barrier(8)
    fetches = Fetches()
    cache = KeySetCache(fetches, ManualClock().time)

    def ask() -> object:
        together.wait(20)
        return cache.find("good")

    with ThreadPoolExecutor(8) as pool:
        found = [answer.result(20) for answer in [pool.submit(ask) for _ in range(8)]]
    assert all(key is KEYS["good"] for key in found)
    assert fetches.count == 1


def test_thread_that_has_no_keys_waits_for_the_fetch_of_another_only_for_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jwks, "_WAIT_SECONDS", 0.05)
    started, go_on = threading.Event(), threading.Event()

    def slow() -> KeySet:
        started.set()
        assert go_on.wait(20)
        return KeySet(KEYS, 300.0)

    cache = KeySetCache(slow, ManualClock().time)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(cache.find, "good")
        assert started.wait(20)
        with pytest.raises(TokenKeysUnavailableError):
            cache.find("good")
        go_on.set()
        assert first.result(20) is KEYS["good"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_child_of_a_fork_in_the_middle_of_a_fetch_fetches_for_itself() -> None:
    codes: list[int] = []
    inside: list[bool] = []

    def fetch() -> KeySet:
        if not inside:
            inside.append(True)
            child = os.fork()
            if child == 0:
                signal.alarm(20)  # Ends a child that waits for what nobody will do.
                code = 1
                try:
                    code = 0 if cache.find("good") is KEYS["good"] else 2
                finally:
                    os._exit(code)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return KeySet(KEYS, 300.0)

    cache = KeySetCache(fetch, ManualClock().time)
    assert cache.find("good") is KEYS["good"]
    assert codes == [0]
