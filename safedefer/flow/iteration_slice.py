"""One slice of a shard: the rows of its key range, for as long as its time allows. The rules are in the core."""

import inspect
import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from math import ceil
from typing import Final, final

from safedefer.core.control import Drop, Retry
from safedefer.core.iteration.budget import adapt_batch
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
from safedefer.core.iteration.ports import Place, WalkedPage
from safedefer.core.iteration.slices import is_careful, page_size
from safedefer.core.iteration.state import Run
from safedefer.core.limits import (
    CHECKPOINT_INTERVAL,
    MAX_CALL_ROWS,
    MIN_CHECKPOINT_INTERVAL,
    MIN_ITEM_BACKOFF,
    SLOW_CALL,
)
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
from safedefer.flow.iteration_page import Pace, PageRows
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
        self._pace = Pace(runtime.clock.time, self._walk.claims.deadline_seconds, runtime.slice_limit)
        self._has_warned = False
        self._follows_crash = False
        # Rows are made at once where the callback's event loop, or a transaction, would be around the making.
        self._at_once = self._using is not None or inspect.iscoroutinefunction(self._walk.callback.function)

    def work(self) -> Outcome:
        """Claim the shard and walk it; what is to be done then."""
        commands = self._held.claim()
        self._pace.slowest_ms = self._held.shard.slowest_ms
        # Then the next crash is to be found at its page.
        self._follows_crash = self._held.shard.crashes > 0
        token = walking.set(self._shard_index)
        try:
            while not commands:
                commands = self._page_or_care()
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
        not_before = int(self._now + MIN_ITEM_BACKOFF.total_seconds())
        with suppress(UnavailableError):
            if self._using is None:
                self._held.end(not_before)
            else:
                self._held.let_go(not_before)

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

    def _page_or_care(self) -> Commands:
        """A page; where a key cannot be a cursor, its rows go one by one until the one at fault is next."""
        try:
            return self._page()
        except InvalidKeyRangesError as error:
            if self._using is not None:
                self._held.reload()
            if is_careful(self._held.shard):
                return self._stop_at_next(error)
            return self._fail_page(page_size(self._held.shard))

    def _page(self) -> Commands:
        """One page of rows; no commands means that there is another."""
        if not self._pace.has_time():
            return self._held.end()
        if is_careful(self._held.shard):
            return self._go_carefully()
        begun, size = self._now, self._held.done.batch_size or page_size(self._held.shard)
        try:
            rows = PageRows(self._read(size), at_once=self._at_once)
        except (UnavailableError, RejectedError, InvalidKeyRangesError):
            raise
        except Exception as error:  # noqa: BLE001  # Of the application's code, which makes these rows all at once.
            self._report(error, _UNMADE)
            return self._fail_page(size)
        read = self._now
        if commands := self._go_together(rows) if self._walk.callback.batch else self._go_through(rows):
            return commands
        if rows.unmade is not None:
            return self._held.save()
        if rows.page.ends(rows.given):
            return self._held.finish()
        batch = adapt_batch(size, rows=rows.given, seconds=self._now - begun, reading_seconds=read - begun)
        most = MAX_CALL_ROWS if self._walk.callback.batch else batch
        self._held.done = replace(self._held.done, batch_size=min(batch, most))
        if self._follows_crash or self._now - self._held.saved >= _SHORTEST_INTERVAL:
            return self._held.save()
        return ()

    def _read(self, size: int) -> WalkedPage:
        with self._as_deferred():
            return self._runtime.querysets.read_page(
                self._queryset, self._walk.plan.order_field, self._held.shard.key_range, self._held.cursor, size
            )

    def _find_place(self) -> Place | None:
        """The place of the row behind the last one that was finished.

        Raises:
            InvalidKeyRangesError: It has none.
        """
        with self._as_deferred():
            return self._runtime.querysets.find_place(
                self._queryset, self._walk.plan.order_field, self._held.shard.key_range, self._held.cursor
            )

    def _as_deferred(self) -> AbstractContextManager[None]:
        """In the zone of whoever deferred it, on which filters by dates depend: a callback may have left another."""
        return self._runtime.surroundings.restored(self._walk.claims.surroundings)

    def _go_through(self, rows: PageRows) -> Commands:
        while not rows.is_over:
            if not self._pace.has_time():
                return self._held.end()
            refused = partial(self._fail_since, rows, rows.given)
            if commands := self._commit(partial(self._go_on_for_a_while, rows), refused):
                return commands
            if self._now - self._held.saved >= _INTERVAL and (commands := self._held.save()):
                return commands
        return ()

    def _go_carefully(self) -> Commands:
        """One row, named before it is made and called for: either may be what stops workers."""
        place = self._find_place()
        if place is None:
            return self._held.finish()
        item = self._item(place.cursor)
        if self._judge(item) is not None:
            # Only here attempts may be spent before the call: workers were stopped in it.
            self._pace.count(1, calls=1)
            return self._held.write(lambda _, __: _given_up(self._judge(item))) or self._held.save()
        self._announce(item)
        try:
            page = self._read(1)
            row = next(page.rows, None)
            key = None if row is None else page.key_of(row)
            named, item = item, item if row is None else self._item(page.cursor_at(key))
        except (UnavailableError, RejectedError):
            raise
        except Exception as error:  # noqa: BLE001  # Of the application's code.
            return self._fail(item, self._report(error, _UNMADE)) or self._held.save()
        if row is None:
            return self._held.finish()
        if item != named:
            # The other was deleted meanwhile, or a join leaves it out that only instances are made with.
            self._announce(item)
        first = [row] if self._walk.callback.batch else row
        call = partial(self._call_once, page, first, key, item, 1)
        return self._commit(call, partial(self._fail, item)) or self._held.save()

    def _go_together(self, rows: PageRows) -> Commands:
        """All rows of a page in one call."""
        page, given = rows.page, list[object]()
        try:
            given += page.rows
        except Exception as error:  # noqa: BLE001  # Of the application's code.
            self._report(error, _UNMADE)
            return self._fail_page(len(given) + 1)
        if not given:
            return ()
        if not self._pace.has_time():
            return self._held.end()
        first, last = page.key_of(given[0]), self._item(page.cursor_at(page.key_of(given[-1])))
        rows.given = len(given)
        call = partial(self._call_once, page, given, first, last, rows.given)
        return self._commit(call, partial(self._fail_since, rows, 0))

    def _call_once(self, page: WalkedPage, first: object, key: object, last: Item, count: int) -> Commands:
        """One call.

        Args:
            key: Of its row, or of the first one of several.
            last: Its row, or the last one of several.
            count: How many rows it is for.
        """
        began = self._now
        failure = self._call_for_each((first,))
        self._pace.last_seconds = self._now - began
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
        size, is_finished = self._held.done.batch_size or page_size(self._held.shard), False
        try:
            with self._runtime.commits.atomic(self._using):
                commands = go()
                self._held.keep()
                is_finished = True
                return commands
        except CommitRefusedError as error:
            self._held.reload()
            return refused(self._report(error.__cause__ or error, _UNKEPT))
        except StoreUnavailableError as error:
            if is_finished:
                raise  # The commit may yet come.
            # A callback may have lost the connection, and would do so each time. In an outage this raises as well.
            self._held.reload()
            failure = self._report(error.__cause__ or error, _UNKEPT)
            return refused(failure) if is_careful(self._held.shard) else self._fail_page(size)

    def _go_on_for_a_while(self, rows: PageRows) -> Commands:
        """Once, or in a transaction until a checkpoint is due."""
        while True:
            commands = self._go_on(rows)
            if commands or rows.is_over or self._using is None:
                return commands
            if not self._pace.has_time() or self._now - self._held.saved >= _INTERVAL:
                return ()

    def _go_on(self, rows: PageRows) -> Commands:
        """Rows until a checkpoint is due, no more may be begun, or one fails; no commands means that there is more."""
        before, finished, page = rows.given, rows.finished, rows.page
        # In a transaction each call has a savepoint of its own.
        stop = 0.0 if self._using is not None else min(self._held.saved + _INTERVAL, self._pace.last_start())
        firsts = rows.until(stop, self._pace)
        failure = self._call_for_each(firsts)
        firsts.close()
        if failure is not None and self._using is not None:
            # The one call may have returned, and its savepoint not have been kept.
            rows.given, rows.finished = before, finished
        if failure is not None or rows.given > before:
            self._warn_if_slow(page, rows.called)
        if failure is not None and _is_drop(failure):
            rows.take_as_finished()
            failure = None
        if rows.given > before:
            count = rows.given - before
            self._account(page.cursor_at(rows.finished), count, calls=count)
        if rows.unmade is not None:
            return self._fail_next(rows.unmade)
        if failure is None:
            return ()
        rows.given += 1
        return self._fail(self._item(page.cursor_at(rows.called)), failure)

    def _call_for_each(self, firsts: Iterable[object]) -> FunctionFailedError | None:
        try:
            # In a transaction a call that fails is rolled back to its savepoint, and what came before it is kept.
            with nullcontext() if self._using is None else self._runtime.commits.atomic(self._using):
                call_verified_for_each(self._runtime, self._walk.callback, self._walk.body, firsts, self._arguments)
        except FunctionFailedError as failure:
            return failure
        except CommitRefusedError as error:
            return self._report(error.__cause__ or error, _UNKEPT)
        return None

    def _report(self, error: BaseException, what: str) -> FunctionFailedError:
        return failure_of(self._runtime, self._walk.callback, self._walk.body, error, what)

    def _account(self, cursor: bytes, count: int, *, calls: int) -> None:
        """Count rows that were finished."""
        self._pace.count(count, calls=calls)
        done = self._held.done
        self._held.done = replace(
            done, cursor=cursor, processed=done.processed + count, slowest_ms=self._pace.slowest_ms
        )

    def _warn_if_slow(self, page: WalkedPage, key: object) -> None:
        """Name the row whose call took long, once: its primary key is the one thing that somebody can look for."""
        if self._pace.last_seconds <= SLOW_CALL.total_seconds() or self._has_warned:
            return
        self._has_warned = True
        logger.warning(
            "iteration %s: in shard %d the call that began at the row with primary key %r took %d s; "
            "calls that take less than %d s can be ended and resumed in time",
            self._held.run.id.hex(),
            self._shard_index,
            page.pk_of(key),
            self._pace.last_seconds,
            SLOW_CALL.total_seconds(),
        )

    def _judge(self, item: Item) -> Decision | None:
        held = self._held
        return judge_item(held.run, held.shard, held.done, item, self._walk.plan.policy, now=self._now)

    def _announce(self, item: Item) -> None:
        self._held.write(lambda _, shard: announce_item(shard, self._held.done, item.digest, now=self._now))

    def _fail(self, item: Item, failure: FunctionFailedError) -> Commands:
        held, policy = self._held, self._walk.plan.policy
        self._pace.count(1, calls=1)
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

    def _fail_since(self, rows: PageRows, before: int, _: FunctionFailedError) -> Commands:
        return self._fail_page(rows.given - before)

    def _fail_page(self, rows: int) -> Commands:
        """Several rows have failed together: they go one by one next."""
        held = self._held
        return held.write(lambda _, shard: fail_page(shard, held.done, rows=rows, now=self._now))

    def _fail_next(self, error: BaseException) -> Commands:
        """The row behind the last one that was finished could not be made, and no other row of its page can be."""
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


def _is_drop(failure: FunctionFailedError) -> bool:
    return isinstance(failure.__cause__, Drop)


def _given_up(decision: Decision | None) -> Decision:
    if decision is None:
        raise StoreUnavailableError("a row was judged anew while it was being left behind")
    return decision
