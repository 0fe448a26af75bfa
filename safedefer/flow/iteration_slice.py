"""One slice of a shard: the rows of its key range, for as long as its time allows. The rules are in the core."""

import inspect
import logging
from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Final, final

from safedefer.core.control import Drop
from safedefer.core.iteration.budget import adapt_batch, make_budget, slowest
from safedefer.core.iteration.decisions import Decision
from safedefer.core.iteration.ids import item_digest
from safedefer.core.iteration.items import Item, announce_item, fail_item, fail_page, judge_item
from safedefer.core.iteration.plan import SliceCall
from safedefer.core.iteration.slices import is_careful, page_size
from safedefer.core.iteration.state import Run
from safedefer.core.limits import CHECKPOINT_INTERVAL, MAX_CALL_ROWS, MIN_ITEM_BACKOFF, SLOW_CALL
from safedefer.core.ports import WalkedPage
from safedefer.errors import FunctionFailedError, LeaseLostError, StoreUnavailableError, UnavailableError
from safedefer.flow.calling import call_verified_for_each
from safedefer.flow.current import walking
from safedefer.flow.iteration_lease import HeldShard
from safedefer.flow.iteration_walk import Commands, Outcome, decode_tree, find_walk, open_queryset
from safedefer.flow.runtime import Runtime

logger: Final = logging.getLogger("safedefer.iteration")
_INTERVAL: Final = CHECKPOINT_INTERVAL.total_seconds()


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
        # Of the present page: how many of its rows are behind, whether these were all, and the keys of the last one
        # that was finished and of the last one that was called for.
        self._given = 0
        self._is_read = False
        self._finished: object = None
        self._called: object = None
        self._unreadable: Exception | None = None
        self._is_coroutine = inspect.iscoroutinefunction(self._walk.callback.function)
        self._started = runtime.clock.time()
        deadline = timedelta(seconds=self._walk.claims.deadline_seconds)
        self._budget = make_budget(deadline, limit=runtime.slice_limit)

    def work(self) -> Outcome:
        """Claim the shard and walk it; what is to be done then."""
        commands = self._held.claim()
        self._slowest_ms = self._held.shard.slowest_ms
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

        The next delivery of this task finds the release, and creates the slice that follows. In a transaction what was
        done is rolled back, so that the lease has to end.
        """
        if self._using is None:
            with suppress(UnavailableError):
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
        begun = self._now
        page = self._runtime.querysets.read_page(
            self._queryset,
            self._walk.plan.order_field,
            self._held.shard.key_range,
            self._held.shard.cursor,
            page_size(self._held.shard),
        )
        read, self._given = self._now, 0
        if commands := self._go_through(page):
            return commands
        if page.ends(self._given):
            return self._held.finish()
        if not is_careful(self._held.shard):
            batch = adapt_batch(
                self._held.shard.batch_size, rows=self._given, seconds=self._now - begun, reading_seconds=read - begun
            )
            most = MAX_CALL_ROWS if self._walk.callback.batch else batch
            self._held.done = replace(self._held.done, batch_size=min(batch, most))
        return self._held.save()

    def _go_through(self, page: WalkedPage) -> Commands:
        if is_careful(self._held.shard):
            return self._go_carefully(page)
        if self._walk.callback.batch:
            return self._go_together(page)
        if self._is_coroutine:
            # Nothing but the callback runs in its event loop: making an instance may be the application's code.
            page = replace(page, rows=iter(list(page.rows)))
        self._is_read = False
        while not self._is_read:
            if not self._has_time():
                return self._held.end()
            go_on = self._go_on if self._using is None else self._go_on_in_a_transaction
            if commands := go_on(page):
                return commands
            if self._now - self._held.saved >= _INTERVAL and (commands := self._held.save()):
                return commands
        return ()

    def _go_carefully(self, page: WalkedPage) -> Commands:
        """The one row of a page, named before its call."""
        row = next(page.rows, None)
        if row is None:
            return ()
        key = page.key_of(row)
        item = self._item(page, key)
        self._given = 1
        if self._judge(item) is not None:
            # Only here attempts may be spent before the call: workers were stopped in it.
            return self._held.write(lambda _, __: _given_up(self._judge(item)))
        self._held.write(lambda _, shard: announce_item(shard, self._held.done, item.digest, now=self._now))
        began = self._now
        first = [row] if self._walk.callback.batch else row
        with self._transaction():
            failure = self._call_for_each((first,))
            self._last_seconds = self._now - began
            self._warn_if_slow(page, key)
            if failure is not None and not _is_drop(failure):
                return self._fail(item)
            self._account(item.cursor, 1, calls=1)
            self._keep_with_writes()
        return ()

    def _go_together(self, page: WalkedPage) -> Commands:
        """All rows of a page in one call."""
        rows = list(page.rows)
        if not rows:
            return ()
        if not self._has_time():
            return self._held.end()
        first, last = page.key_of(rows[0]), self._item(page, page.key_of(rows[-1]))
        self._given, began = len(rows), self._now
        with self._transaction():
            failure = self._call_for_each((rows,))
            self._last_seconds = self._now - began
            self._warn_if_slow(page, first)
            if failure is not None and not _is_drop(failure):
                if self._given == 1:
                    return self._fail(last)
                held, rows_given = self._held, self._given
                return held.write(lambda _, shard: fail_page(shard, held.done, rows=rows_given, now=self._now))
            self._account(last.cursor, self._given, calls=1)
            self._keep_with_writes()
        return ()

    def _go_on_in_a_transaction(self, page: WalkedPage) -> Commands:
        """The same until a checkpoint is due, which is committed together with what the calls have written."""
        with self._transaction():
            while not self._is_read and self._has_time() and self._now - self._held.saved < _INTERVAL:
                if commands := self._go_on(page):
                    return commands
            self._keep_with_writes()
        return self._held.save()

    def _keep_with_writes(self) -> None:
        if self._using is not None:
            self._held.keep()

    def _transaction(self) -> AbstractContextManager[None]:
        return nullcontext() if self._using is None else self._runtime.commits.atomic(self._using)

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
        if self._unreadable is not None:
            raise self._unreadable
        if failure is None:
            return ()
        self._given += 1
        return self._fail(self._item(page, self._called))

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
        except Exception as error:  # noqa: BLE001  # Of making an instance: it must not be taken for the callback's.
            self._unreadable = error
        finally:
            # Also when it is closed, because a call has failed.
            self._given, self._finished, self._called = given, finished, called
            # A row that takes so long that it matters to the reserve is the last one here.
            self._last_seconds = clock() - before

    def _call_for_each(self, firsts: Iterable[object]) -> FunctionFailedError | None:
        try:
            # In a transaction a call that fails is rolled back to its savepoint, and what came before it is kept.
            with self._transaction():
                call_verified_for_each(self._runtime, self._walk.callback, self._walk.body, firsts, self._arguments)
        except FunctionFailedError as failure:
            return failure
        return None

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

    def _fail(self, item: Item) -> Commands:
        policy = self._walk.plan.policy
        return self._held.write(lambda run, shard: fail_item(run, shard, self._held.done, item, policy, now=self._now))

    def _item(self, page: WalkedPage, key: object) -> Item:
        cursor = page.cursor_at(key)
        return Item(digest=item_digest(self._held.run.id, cursor), cursor=cursor)

    def _has_time(self) -> bool:
        elapsed = self._now - self._started
        return self._budget.has_time(elapsed_seconds=elapsed, slowest_ms=self._slowest_ms, rows=self._rows)


def _is_drop(failure: FunctionFailedError) -> bool:
    return isinstance(failure.__cause__, Drop)


def _given_up(decision: Decision | None) -> Decision:
    if decision is None:
        raise StoreUnavailableError("a row was judged anew while it was being left behind")
    return decision
