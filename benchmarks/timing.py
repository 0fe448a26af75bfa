"""How the benchmarks measure: rounds of all candidates in turn, the best of each, ratios against the floor."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Final

ROUNDS: Final = 15


def measure(candidates: Mapping[str, Callable[[], object]], *, seconds: float = 0.02) -> dict[str, float]:
    """Seconds a call of each candidate: the lowest of several rounds, in which the candidates take turns.

    Taking turns spreads whatever else the machine does over all of them.
    """
    numbers = {name: _calls_in(call, seconds) for name, call in candidates.items()}
    best = dict.fromkeys(candidates, float("inf"))
    for _ in range(ROUNDS):
        for name, call in candidates.items():
            started = time.perf_counter()
            for _ in range(numbers[name]):
                call()
            best[name] = min(best[name], (time.perf_counter() - started) / numbers[name])
    return best


def measure_pairs(first: Callable[[], object], second: Callable[[], object], *, pairs: int) -> tuple[float, float]:
    """Median seconds of two calls made in turn: for calls that wait for another process."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(pairs):
        order = ((0, first), (1, second)) if number % 2 else ((1, second), (0, first))
        for index, call in order:
            started = time.perf_counter()
            call()
            times[index].append(time.perf_counter() - started)
    return statistics.median(times[0]), statistics.median(times[1])


def print_ratios(title: str, times: Mapping[str, float], floor: str) -> None:
    """A small table: microseconds, and how many times the floor."""
    print(f"\n{title}")
    for name, seconds in times.items():
        print(f"  {name:<44} {seconds * 1e6:9.1f} us   {seconds / times[floor]:5.2f} x")


def _calls_in(call: Callable[[], object], seconds: float) -> int:
    call()
    started = time.perf_counter()
    call()
    return max(1, int(seconds / max(time.perf_counter() - started, 1e-7)))
