"""The runtime of a process: built once, on first use, or refused with the reason."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from safedefer.errors import ConfigurationError
from safedefer.flow.runtime import Runtime, current_runtime, install, install_problem
from tests.unit.flow.ports import Ports


@pytest.fixture(autouse=True)
def _afterwards() -> Iterator[None]:
    yield
    install_problem("this test has no runtime")


def test_problem_is_told_to_everybody_who_asks() -> None:
    install_problem("KEYS is missing")
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="KEYS is missing"):
            current_runtime()


def test_runtime_is_built_on_first_use_and_once_by_many_threads() -> None:
    built: list[Runtime] = []
    together = threading.Barrier(8)

    def build() -> Runtime:
        built.append(Ports().runtime())
        return built[-1]

    def ask() -> Runtime:
        together.wait(20)
        return current_runtime()

    install(build)
    assert built == []
    with ThreadPoolExecutor(8) as pool:
        found = [answer.result(20) for answer in [pool.submit(ask) for _ in range(8)]]
    assert len(built) == 1
    assert all(runtime is built[0] for runtime in found)


def test_build_that_fails_is_tried_again() -> None:
    answers: list[Runtime | Exception] = [ConfigurationError("no metadata server"), Ports().runtime()]

    def build() -> Runtime:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    install(build)
    with pytest.raises(ConfigurationError, match="metadata"):
        current_runtime()
    assert current_runtime() is current_runtime()


def test_later_problem_takes_the_place_of_a_runtime_and_a_later_runtime_that_of_a_problem() -> None:
    runtime = Ports().runtime()
    install(lambda: runtime)
    assert current_runtime() is runtime
    install_problem("gone")
    with pytest.raises(ConfigurationError):
        current_runtime()
    install(lambda: runtime)
    assert current_runtime() is runtime


def test_repr_of_a_runtime_shows_no_key() -> None:
    runtime = Ports().runtime()
    assert runtime.ring.primary.mac.hex() not in repr(runtime)
    assert repr(runtime.ring.primary.mac) not in repr(runtime)
