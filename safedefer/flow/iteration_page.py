"""The rows of one page as they are handed out, and the time of the slice that does so."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import final

from safedefer.core.iteration.budget import make_budget, slowest
from safedefer.core.iteration.ports import WalkedPage


@final
class Pace:
    """How long a slice has worked, and whether it may begin more.

    Attributes:
        rows: How many were finished.
        slowest_ms: The slowest recent row.
        last_seconds: What the last call took, or a row of it that was no quicker.
    """

    def __init__(self, clock: Callable[[], float], deadline_seconds: int, limit: timedelta | None) -> None:
        self.clock: Callable[[], float] = clock
        self.rows: int = 0
        self.slowest_ms: int = 0
        self.last_seconds: float = 0.0
        self._started = clock()
        self._budget = make_budget(timedelta(seconds=deadline_seconds), limit=limit)

    def has_time(self) -> bool:
        """Whether another row, or another page, may be begun."""
        elapsed = self.clock() - self._started
        return self._budget.has_time(elapsed_seconds=elapsed, slowest_ms=self.slowest_ms, rows=self.rows)

    def last_start(self) -> float:
        """The moment after which nothing more is begun."""
        return self._started + self._budget.last_start(self.slowest_ms)

    def count(self, rows: int, *, calls: int) -> None:
        """Rows were finished, in so many calls, none of which took longer than the last one if that matters."""
        self.rows += rows
        self.slowest_ms = slowest(self.slowest_ms, self.last_seconds, rows=calls)


@final
class PageRows:
    """The rows of a page, handed out one after another.

    Attributes:
        page: Where they come from.
        given: How many are behind: finished, or failed.
        finished: Key of the last one that was finished.
        called: Key of the last one that was called for.
        unmade: Why the row that comes next could not be made; nothing more of the page can be read then.
        is_over: Whether nothing more of it is to be handed out.
    """

    def __init__(self, page: WalkedPage, *, at_once: bool) -> None:
        # Making an instance may be the application's code.
        self.page: WalkedPage = _made(page) if at_once else page
        self.given: int = 0
        self.finished: object = None
        self.called: object = None
        self.unmade: BaseException | None = None
        self.is_over: bool = False

    def until(self, stop: float, pace: Pace) -> Generator[object]:
        """Rows, until one is finished at that moment or later: what is done for every row is done here."""
        clock, key_of = pace.clock, self.page.key_of
        given, finished, called = self.given, self.finished, self.finished
        before = clock()
        try:
            for number, row in enumerate(self.page.rows, given + 1):
                called = key_of(row)
                yield row
                given, finished = number, called
                now = clock()
                if now >= stop:
                    break
                before = now
            else:
                self.is_over = True
        except (KeyboardInterrupt, GeneratorExit):  # The process is ending, or a call has failed.
            raise
        except BaseException as error:  # noqa: BLE001  # Of making a row: it must not be taken for the callback's.
            self.unmade, self.is_over = error, True
        finally:
            # Also when it is closed, because a call has failed.
            self.given, self.finished, self.called = given, finished, called
            # A row that takes so long that it matters to the reserve is the last one here.
            pace.last_seconds = clock() - before

    def take_as_finished(self) -> None:
        """The row whose call has raised needs nothing more."""
        self.given, self.finished = self.given + 1, self.called


def _made(page: WalkedPage) -> WalkedPage:
    """A page whose rows were made already, up to one that could not be."""
    rows: list[object] = []
    error = None
    try:
        rows.extend(page.rows)
    except Exception as raised:  # noqa: BLE001  # It is raised behind the rows.
        error = raised
    return replace(page, rows=_before(rows, error))


def _before(rows: list[object], error: Exception | None) -> Iterator[object]:
    yield from rows
    if error is not None:
        raise error
