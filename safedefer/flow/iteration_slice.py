"""One slice of a shard: the rows of its key range, for as long as its time allows. The rules are in the core."""

import inspect
import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from math import ceil
from typing import Final, final

from safedefer.core.control import Drop, Retry
from safedefer.core.iteration.budget import adapt_batch, make_budget, slowest
from safedefer.core.iteration.decisions import Decision
from safedefer.core.iteration.ids import item_digest
from safedefer.core.iteration.items import (
    Item,
    announce_item,
    fail_item,
    fail_page,
    judge_item,
    postpone_item,
    stop_at_item,
)
from safedefer.core.iteration.plan import SliceCall
from safedefer.core.iteration.slices import is_careful, page_size
from safedefer.core.iteration.state import Run
from safedefer.core.limits import (
    CHECKPOINT_INTERVAL,
    MAX_CALL_ROWS,
    MIN_CHECKPOINT_INTERVAL,
    MIN_ITEM_BACKOFF,
    SLOW_CALL,
)
from safedefer.core.ports import Place, WalkedPage
from safedefer.errors import (
    CommitRefusedError,
    FunctionFailedError,
    InvalidKeyRangesError,
    LeaseLostError,
    RejectedError,
    StoreUnavailableError,
    UnavailableError,
)
from safedefer.flow.calling import call_verified_for_each, failure_of
from safedefer.flow.current import walking
from safedefer.flow.iteration_lease import HeldShard
from safedefer.flow.iteration_walk import Commands, Outcome, decode_tree, find_walk, open_queryset
from safedefer.flow.runtime import Runtime

logger: Final = logging.getLogger("safedefer.iteration")
_INTERVAL: Final = CHECKPOINT_INTERVAL.total_seconds()
_SHORTEST_INTERVAL: Final = MIN_CHECKPOINT_INTERVAL.total_seconds()
_UNMADE: Final = "could not be given a row"
_UNKEPT: Final = "could not have its writes committed"


@final
class Slice:
    """One slice: the rows of its shard for as long as the budget allows."""

    def __init__(self, runtime: Runtime, call: SliceCall, run: Run) -> None:
        self._runtime = runtime
        self._shard_index = call.shard
        self._walk = find_walk(runtime, run)
        self._held = HeldShard(runtime, call, run, deadline_seconds=self._walk.claims.deadline_seconds)
        self._arguments = decode_tree(
            runtime, self._walk.callback.parameters.without_first(), self._walk.plan.arguments
        )
        self._queryset = open_queryset(runtime, self._walk)
        self._using = self._alias()
        self._rows = 0
        self._slowest_ms = 0
        self._last_seconds = 0.0
        self._has_warned = False
        self._follows_crash = False
        # Of the present page: how many of its rows are behind, whether these were all, and the keys of the last one
        # that was finished and of the last one that was called for.
        self._given = 0
        self._is_read = False
        self._finished: object = None
        self._called: object = None
        # Nothing more of it can be read: a row could not be made, which the error is kept of until it is seen to.
        self._is_broken_off = False
        self._unmade: BaseException | None = None
        self._is_coroutine = inspect.iscoroutinefunction(self._walk.callback.function)
        self._started = runtime.clock.time()
        deadline = timedelta(seconds=self._walk.claims.deadline_seconds)
        self._budget = make_budget(deadline, limit=runtime.slice_limit)

    def work(self) -> Outcome:
        """Claim the shard and walk it; what is to be done then."""
        commands = self._held.claim()
        self._slowest_ms = self._held.shard.slowest_ms
        # Then the next crash is to be found at its page.
        self._follows_crash = self._held.shard.crashes > 0
        token = walking.set(self._shard_index)
        try:
            while not commands:
                commands = self._page()
        except LeaseLostError:
            raise
        except Exception:
            self._let_go()
            raise
        finally:
            walking.reset(token)
        return Outcome(commands=commands, walk=self._walk, run=self._held.run)

    def _let_go(self) -> None:
        """Keep what was done, and release the shard: what has come up is none of its rows', nor is it a crash.

        The next delivery of this task finds the release, and creates the slice that follows.
        """
        with suppress(UnavailableError):
            if self._using is not None:
                self._held.reload()
            self._held.end(not_before=int(self._now + MIN_ITEM_BACKOFF.total_seconds()))

    def _alias(self) -> str | None:
        """The database of the transactions that checkpoints are part of; None where they are not."""
        if not self._walk.plan.atomic:
            return None
        using = self._runtime.querysets.alias_of(self._queryset)
        if using != self._runtime.records_using:
            raise StoreUnavailableError("the records of an iteration are not in the database of its rows any more")
        return using

    @property
    def _now(self) -> float:
        return self._runtime.clock.time()

    def _page(self) -> Commands:
        """One page of rows; no commands means that there is another."""
        if not self._has_time():
            return self._held.end()
        if is_careful(self._held.shard):
            return self._go_carefully()
        begun, size = self._now, self._held.done.batch_size or page_size(self._held.shard)
        self._given, self._is_read, self._is_broken_off = 0, False, False
        try:
            page = self._read(size)
            if self._walk.callback.batch:
                page = replace(page, rows=iter(list(page.rows)))
        except (UnavailableError, RejectedError):
            raise
        except Exception as error:  # noqa: BLE001  # Of the application's code, which makes these rows all at once.
            self._report(error, _UNMADE)
            return self._fail_page(size)
        read = self._now
        if commands := self._go_through(page):
            return commands
        if self._is_broken_off:
            return self._held.save()
        if page.ends(self._given):
            return self._held.finish()
        batch = adapt_batch(size, rows=self._given, seconds=self._now - begun, reading_seconds=read - begun)
        most = MAX_CALL_ROWS if self._walk.callback.batch else batch
        self._held.done = replace(self._held.done, batch_size=min(batch, most))
        if self._follows_crash or self._now - self._held.saved >= _SHORTEST_INTERVAL:
            return self._held.save()
        return ()

    def _read(self, size: int) -> WalkedPage:
        return self._runtime.querysets.read_page(
            self._queryset, self._walk.plan.order_field, self._held.shard.key_range, self._held.cursor, size
        )

    def _find_place(self) -> Place | None:
        """The place of the row behind the last one that was finished.

        Raises:
            InvalidKeyRangesError: It has none.
        """
        return self._runtime.querysets.find_place(
            self._queryset, self._walk.plan.order_field, self._held.shard.key_range, self._held.cursor
        )

    def _go_through(self, page: WalkedPage) -> Commands:
        if self._walk.callback.batch:
            return self._go_together(page)
        if self._is_coroutine or self._using is not None:
            # Making an instance may be the application's code: it runs in no event loop of its callback, nor in a
            # transaction that it could break.
            page = _made(page)
        while not self._is_read:
            if not self._has_time():
                return self._held.end()
            if commands := self._commit(partial(self._go_on_for_a_while, page), partial(self._fail_since, self._given)):
                return commands
            if self._now - self._held.saved >= _INTERVAL and (commands := self._held.save()):
                return commands
        return ()

    def _go_carefully(self) -> Commands:
        """One row, named before it is made and called for: either may be what stops workers."""
        try:
            place = self._find_place()
        except InvalidKeyRangesError as error:
            return self._stop_at_next(error)
        if place is None:
            return self._held.finish()
        item = self._item(place.cursor)
        if self._judge(item) is not None:
            # Only here attempts may be spent before the call: workers were stopped in it.
            return self._held.write(lambda _, __: _given_up(self._judge(item))) or self._held.save()
        self._held.write(lambda _, shard: announce_item(shard, self._held.done, item.digest, now=self._now))
        try:
            page = self._read(1)
            row = next(page.rows, None)
        except (UnavailableError, RejectedError):
            raise
        except Exception as error:  # noqa: BLE001  # Of the application's code.
            return self._fail(item, self._report(error, _UNMADE)) or self._held.save()
        if row is None:  # It was deleted meanwhile.
            return self._held.save()
        key = page.key_of(row)
        item = self._item(page.cursor_at(key))
        first = [row] if self._walk.callback.batch else row
        call = partial(self._call_at_once, page, first, key, item, 1)
        return self._commit(call, partial(self._fail, item)) or self._held.save()

    def _go_together(self, page: WalkedPage) -> Commands:
        """All rows of a page in one call."""
        rows = list(page.rows)
        if not rows:
            return ()
        if not self._has_time():
            return self._held.end()
        first, last = page.key_of(rows[0]), self._item(page.cursor_at(page.key_of(rows[-1])))
        self._given = len(rows)
        return self._commit(
            partial(self._call_at_once, page, rows, first, last, len(rows)), partial(self._fail_since, 0)
        )

    def _call_at_once(self, page: WalkedPage, first: object, key: object, last: Item, count: int) -> Commands:
        """One call.

        Args:
            key: Of its row, or of the first one of several.
            last: Its row, or the last one of several.
            count: How many rows it is for.
        """
        began = self._now
        failure = self._call_for_each((first,))
        self._last_seconds = self._now - began
        self._warn_if_slow(page, key)
        if failure is None or _is_drop(failure):
            self._account(last.cursor, count, calls=1)
            return ()
        if count == 1:
            return self._fail(last, failure)
        if (later := self._asked_for(failure)) is not None:
            return self._held.end(not_before=later)
        return self._fail_page(count)

    def _commit(self, go: Callable[[], Commands], refused: Callable[[FunctionFailedError], Commands]) -> Commands:
        """Make some calls and, where the plan says so, keep what they have finished in one transaction with them."""
        if self._using is None:
            return go()
        try:
            with self._runtime.commits.atomic(self._using):
                commands = go()
                self._held.keep()
                return commands
        except CommitRefusedError as error:
            self._held.reload()
            return refused(self._report(error.__cause__ or error, _UNKEPT))

    def _go_on_for_a_while(self, page: WalkedPage) -> Commands:
        """Once, or in a transaction until a checkpoint is due."""
        while True:
            commands = self._go_on(page)
            if commands or self._is_read or self._using is None:
                return commands
            if not self._has_time() or self._now - self._held.saved >= _INTERVAL:
                return ()

    def _go_on(self, page: WalkedPage) -> Commands:
        """Rows until a checkpoint is due, no more may be begun, or one fails; no commands means that there is more."""
        before = self._given
        rows = self._rows_of(page)
        failure = self._call_for_each(rows)
        rows.close()
        if failure is not None or self._given > before:
            self._warn_if_slow(page, self._called)
        if failure is not None and _is_drop(failure):
            self._finished, self._given, failure = self._called, self._given + 1, None
        if self._given > before:
            count = self._given - before
            self._account(page.cursor_at(self._finished), count, calls=count)
        if self._unmade is not None:
            error, self._unmade = self._unmade, None
            return self._fail_next(error)
        if failure is None:
            return ()
        self._given += 1
        return self._fail(self._item(page.cursor_at(self._called)), failure)

    def _rows_of(self, page: WalkedPage) -> Generator[object]:
        """The rows to call for: what is done for every row is done here, and by whoever calls."""
        clock, key_of = self._runtime.clock.time, page.key_of
        stop = min(self._held.saved + _INTERVAL, self._started + self._budget.last_start(self._slowest_ms))
        if self._using is not None:
            stop = 0.0  # Each call has a savepoint of its own.
        given, finished, called = self._given, self._finished, self._finished
        before = clock()
        try:
            for number, row in enumerate(page.rows, given + 1):
                called = key_of(row)
                yield row
                given, finished = number, called
                now = clock()
                if now >= stop:
                    break
                before = now
            else:
                self._is_read = True
        except (KeyboardInterrupt, GeneratorExit):  # The process is ending, or a call has failed.
            raise
        except BaseException as error:  # noqa: BLE001  # Of making a row: it must not be taken for the callback's.
            self._unmade = error
        finally:
            # Also when it is closed, because a call has failed.
            self._given, self._finished, self._called = given, finished, called
            # A row that takes so long that it matters to the reserve is the last one here.
            self._last_seconds = clock() - before

    def _call_for_each(self, firsts: Iterable[object]) -> FunctionFailedError | None:
        given, finished = self._given, self._finished
        try:
            # In a transaction a call that fails is rolled back to its savepoint, and what came before it is kept.
            with nullcontext() if self._using is None else self._runtime.commits.atomic(self._using):
                call_verified_for_each(self._runtime, self._walk.callback, self._walk.body, firsts, self._arguments)
        except FunctionFailedError as failure:
            return failure
        except CommitRefusedError as error:
            self._given, self._finished = given, finished
            return self._report(error.__cause__ or error, _UNKEPT)
        return None

    def _report(self, error: BaseException, what: str) -> FunctionFailedError:
        return failure_of(self._runtime, self._walk.callback, self._walk.body, error, what)

    def _account(self, cursor: bytes, count: int, *, calls: int) -> None:
        """Count rows that were finished."""
        self._rows += count
        self._slowest_ms = slowest(self._slowest_ms, self._last_seconds, rows=calls)
        self._held.done = replace(
            self._held.done, cursor=cursor, processed=self._held.done.processed + count, slowest_ms=self._slowest_ms
        )

    def _warn_if_slow(self, page: WalkedPage, key: object) -> None:
        """Name the row whose call took long, once: its primary key is the one thing that somebody can look for."""
        if self._last_seconds <= SLOW_CALL.total_seconds() or self._has_warned:
            return
        self._has_warned = True
        logger.warning(
            "iteration %s: in shard %d the call that began at the row with primary key %r took %d s; "
            "calls that take less than %d s can be ended and resumed in time",
            self._held.run.id.hex(),
            self._shard_index,
            page.pk_of(key),
            self._last_seconds,
            SLOW_CALL.total_seconds(),
        )

    def _judge(self, item: Item) -> Decision | None:
        held = self._held
        return judge_item(held.run, held.shard, held.done, item, self._walk.plan.policy, now=self._now)

    def _fail(self, item: Item, failure: FunctionFailedError) -> Commands:
        held, policy = self._held, self._walk.plan.policy
        later = self._asked_for(failure)
        if later is None:
            return held.write(lambda run, shard: fail_item(run, shard, held.done, item, policy, now=self._now))
        return held.write(
            lambda run, shard: postpone_item(run, shard, held.done, item, policy, not_before=later, now=self._now)
        )

    def _asked_for(self, failure: FunctionFailedError) -> int | None:
        """When the callback wants to be called again, if it has asked for that."""
        retry = failure.__cause__
        return ceil(self._now + retry.after.total_seconds()) if isinstance(retry, Retry) else None

    def _fail_since(self, before: int, _: FunctionFailedError) -> Commands:
        return self._fail_page(self._given - before)

    def _fail_page(self, rows: int) -> Commands:
        """Several rows have failed together: they go one by one next."""
        held = self._held
        return held.write(lambda _, shard: fail_page(shard, held.done, rows=rows, now=self._now))

    def _fail_next(self, error: BaseException) -> Commands:
        """The row behind the last one that was finished could not be made, and no other row of its page can be."""
        self._is_read = self._is_broken_off = True
        failure = self._report(error, _UNMADE)
        try:
            place = self._find_place()
        except InvalidKeyRangesError as lacking:
            return self._stop_at_next(lacking)
        return () if place is None else self._fail(self._item(place.cursor), failure)

    def _stop_at_next(self, error: InvalidKeyRangesError) -> Commands:
        """The row behind the last one that was finished has no place."""
        held, policy = self._held, self._walk.plan.policy
        logger.warning(
            "iteration %s: shard %d stands at a row that cannot be walked: %s",
            held.run.id.hex(),
            self._shard_index,
            error,
        )
        before = held.cursor or b""
        item = Item(digest=item_digest(held.run.id, b"behind" + before), cursor=before)
        return held.write(lambda run, shard: stop_at_item(run, shard, held.done, item, policy, now=self._now))

    def _item(self, cursor: bytes) -> Item:
        return Item(digest=item_digest(self._held.run.id, cursor), cursor=cursor)

    def _has_time(self) -> bool:
        elapsed = self._now - self._started
        return self._budget.has_time(elapsed_seconds=elapsed, slowest_ms=self._slowest_ms, rows=self._rows)


def _made(page: WalkedPage) -> WalkedPage:
    """A page whose rows were made already, up to one that could not be."""
    rows: list[object] = []
    error = None
    try:
        rows.extend(page.rows)
    except Exception as raised:  # noqa: BLE001  # Of the application's code; it is raised behind the rows.
        error = raised
    return replace(page, rows=_before(rows, error))


def _before(rows: list[object], error: Exception | None) -> Iterator[object]:
    yield from rows
    if error is not None:
        raise error


def _is_drop(failure: FunctionFailedError) -> bool:
    return isinstance(failure.__cause__, Drop)


def _given_up(decision: Decision | None) -> Decision:
    if decision is None:
        raise StoreUnavailableError("a row was judged anew while it was being left behind")
    return decision
