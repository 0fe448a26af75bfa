"""Frames on a terminal, and in a log."""

import io

import pytest

from safedefer.core.iteration.drawing import Frame
from safedefer.django.progress_display import ProgressDisplay


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


class Ticks:
    """A clock that is set."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def frame(text: str, *, ended: bool = False, lines: int = 2) -> Frame:
    return Frame(summary=text, lines=tuple(f"{text} {number}" for number in range(lines)), ended=ended)


@pytest.fixture(autouse=True)
def _size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "5")
    monkeypatch.setenv("TERM", "xterm")


def test_terminal_is_drawn_over() -> None:
    out = Terminal()
    display = ProgressDisplay(out)
    display.show(frame("one"))
    display.show(frame("two"))
    assert out.getvalue() == "one 0\none 1\n\x1b[2A\x1b[Jtwo 0\ntwo 1\n"


def test_what_is_left_is_not_drawn_over() -> None:
    out = Terminal()
    display = ProgressDisplay(out)
    display.show(frame("one"))
    display.leave()
    display.show(frame("two"))
    assert "\x1b" not in out.getvalue()


def test_lines_that_would_wrap_or_scroll_away_are_cut() -> None:
    out = Terminal()
    display = ProgressDisplay(out)
    display.show(frame("a line that is longer than the screen", lines=9))
    display.show(frame("x"))
    first, _, rest = out.getvalue().partition("\x1b")
    assert first == "a line that is long\n" * 4
    assert rest.startswith("[4A")


def test_pipe_gets_a_line_now_and_then_and_the_last_one() -> None:
    out, ticks = io.StringIO(), Ticks()
    display = ProgressDisplay(out, now=ticks)
    for seconds in range(8):
        ticks.seconds = float(seconds)
        display.show(frame(f"at {seconds}"))
    display.show(frame("ended", ended=True))
    assert out.getvalue() == "at 0\nat 5\nended\n"


def test_dumb_terminal_gets_lines_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    out = Terminal()
    ProgressDisplay(out).show(frame("one"))
    assert out.getvalue() == "one\n"
