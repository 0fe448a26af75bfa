"""A value that each process makes for itself."""

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from safedefer.gcp.per_process import PerProcess

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]


def in_child(check: Callable[[], bool]) -> bool:
    """Whether something holds in a child of this process."""
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # Ends a child that waits for what nobody will do.
        code = 1
        try:
            code = 0 if check() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_child_makes_its_own_and_the_parent_keeps_its() -> None:
    value = PerProcess(os.getpid)
    assert value.get() == os.getpid()
    assert in_child(lambda: value.get() == os.getpid() != os.getppid())
    assert in_child(lambda: in_child(lambda: value.get() == os.getpid()))
    assert value.get() == os.getpid()


def test_child_of_a_fork_in_the_middle_of_making_is_not_stuck() -> None:
    held: list[bool] = []

    def make() -> int:
        if not held:
            held.append(True)
            held.append(in_child(lambda: value.get() == os.getpid()))
        return os.getpid()

    value = PerProcess(make)
    assert value.get() == os.getpid()
    assert held == [True, True]


def test_many_threads_make_one() -> None:
    made: list[object] = []
    together = threading.Barrier(8)

    def make() -> object:
        made.append(object())
        return made[-1]

    value = PerProcess(make)

    def ask() -> object:
        together.wait(20)
        return value.get()

    with ThreadPoolExecutor(8) as pool:
        found = {answer.result(20) for answer in [pool.submit(ask) for _ in range(8)]}
    assert found == set(made)
    assert len(made) == 1


def test_value_that_could_not_be_made_is_tried_again() -> None:
    answers: list[Exception | str] = [ValueError("not yet"), "made"]

    def make() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    value = PerProcess(make)
    with pytest.raises(ValueError, match="not yet"):
        value.get()
    assert [value.get(), value.get()] == ["made", "made"]
