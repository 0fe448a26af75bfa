"""Clocks: what waits is woken, and no wake-up is lost."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from safedefer.emulator import FileClock, ManualClock, SystemClock

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_manual_clock_stands_still_until_advanced() -> None:
    clock = ManualClock(NOW)
    assert clock.now() == NOW
    clock.advance(1.5)
    assert clock.now() == NOW + timedelta(seconds=1.5)


def test_manual_clock_refuses_to_run_backwards_and_naive_starts() -> None:
    with pytest.raises(ValueError, match="only moves forward"):
        ManualClock(NOW).advance(-1)
    with pytest.raises(ValueError, match="aware"):
        ManualClock(datetime(2026, 1, 1))  # noqa: DTZ001 (which is the point)


def test_wait_for_a_time_that_has_come_returns_at_once() -> None:
    changed = threading.Condition()
    with changed:
        ManualClock(NOW).wait(changed, until=NOW)
        SystemClock().wait(changed, until=datetime.now(UTC) - timedelta(seconds=1))


def test_no_advance_is_lost_between_looking_and_waiting() -> None:
    clock = ManualClock(NOW)
    changed = threading.Condition()
    goal = NOW + timedelta(seconds=1000)

    def follow() -> None:
        with changed:
            while clock.now() < goal:
                clock.wait(changed, until=clock.now() + timedelta(seconds=1))

    follower = threading.Thread(target=follow)
    follower.start()
    for _ in range(1000):
        clock.advance(1)
    follower.join(20)
    assert not follower.is_alive()


def test_manual_clock_wakes_every_waiter() -> None:
    clock = ManualClock(NOW)
    woken = []

    def wait(number: int) -> None:
        changed = threading.Condition()
        with changed:
            while clock.now() == NOW:
                clock.wait(changed, until=NOW + timedelta(seconds=1))
        woken.append(number)

    waiters = [threading.Thread(target=wait, args=(number,)) for number in range(5)]
    for waiter in waiters:
        waiter.start()
    clock.advance(1)
    for waiter in waiters:
        waiter.join(20)
    assert sorted(woken) == [0, 1, 2, 3, 4]


def test_system_clock_wakes_up_in_time() -> None:
    clock = SystemClock()
    until = clock.now() + timedelta(milliseconds=20)
    changed = threading.Condition()
    with changed:
        while clock.now() < until:
            clock.wait(changed, until=until)
    assert clock.now() >= until


def test_file_clock_is_ahead_by_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "clock"
    clock, other = FileClock(path), FileClock(path)
    assert clock.now() - datetime.now(UTC) < timedelta(seconds=1)
    path.write_text("3600\n")
    for one in (clock, other):
        assert timedelta(minutes=59) < one.now() - datetime.now(UTC) < timedelta(minutes=61)


@pytest.mark.parametrize("text", ["60", "-1", "1e9", "", "soon", "9" * 10, "\N{SUPERSCRIPT TWO}", None])
def test_file_clock_never_goes_back(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "clock"
    path.write_text("3600")
    clock = FileClock(path)
    before = clock.now()
    if text is None:
        path.unlink()
    else:
        path.write_text(text, encoding="utf-8")
    assert clock.now() - before < timedelta(minutes=1)
    assert clock.now() > before


def test_file_clock_that_is_moved_wakes_who_waits(tmp_path: Path) -> None:
    path = tmp_path / "clock"
    clock = FileClock(path)
    until = clock.now() + timedelta(hours=1)
    woken = threading.Event()

    def follow() -> None:
        changed = threading.Condition()
        with changed:
            while clock.now() < until:
                clock.wait(changed, until=until)
        woken.set()

    threading.Thread(target=follow, daemon=True).start()
    path.write_text("3601")
    assert woken.wait(20)
