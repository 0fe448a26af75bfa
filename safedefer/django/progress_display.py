"""The progress of an iteration on a screen, drawn over itself, or in a log, a line now and then."""

import os
import shutil
import time
from collections.abc import Callable
from typing import Final, Protocol, final

from safedefer.core.iteration.drawing import Frame, draw_frame, shown_shards
from safedefer.core.iteration.rows import parse_shard, shard_key
from safedefer.core.iteration.state import Run
from safedefer.flow.runtime import Runtime

_SECONDS_BETWEEN_LINES: Final = 5.0


class Output(Protocol):
    """What is written to: a stream of Python's, or a command's output in Django."""

    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...
    def isatty(self) -> bool: ...


def read_frame(runtime: Runtime, run: Run) -> Frame:
    """Read the shards of a run, and draw it.

    Raises:
        StoreUnavailableError: The store did not answer.
    """
    keys = [shard_key(run.id, index) for index in sorted({*run.open, *shown_shards(run)})]
    shards = [parse_shard(record) for record in runtime.records.get(keys).values()]
    return draw_frame(run, {shard.index: shard for shard in shards}, now=runtime.clock.time())


@final
class ProgressDisplay:
    """Shows one frame after another."""

    def __init__(self, output: Output, *, now: Callable[[], float] = time.monotonic) -> None:
        """Show frames there; a terminal is drawn over.

        Args:
            now: A clock that only goes forward, in seconds.
        """
        self._output = output
        self._now = now
        self._in_place = output.isatty() and os.environ.get("TERM") != "dumb"
        self._drawn = 0
        self._next = 0.0

    def show(self, frame: Frame) -> None:
        """Show a frame in the place of the last one, or as a line if one is due."""
        if self._in_place:
            self._draw(frame)
        elif frame.ended or self._now() >= self._next:
            self._next = self._now() + _SECONDS_BETWEEN_LINES
            self._output.write(f"{frame.summary}\n")
            self._output.flush()

    def leave(self) -> None:
        """Leave the last frame where it is: something else is written next."""
        self._drawn = 0
        self._next = 0.0

    def _draw(self, frame: Frame) -> None:
        columns, rows = shutil.get_terminal_size()
        # A line that wraps, or one above the screen, could not be drawn over.
        lines = [line[: columns - 1] for line in frame.lines[-(rows - 1) :]]
        up = f"\x1b[{self._drawn}A\x1b[J" if self._drawn else ""
        self._output.write(up + "".join(f"{line}\n" for line in lines))
        self._output.flush()
        self._drawn = len(lines)
