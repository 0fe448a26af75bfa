"""A shard under its lease: whatever a slice writes of it, and the run that it reads beside it."""

import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import inf
from typing import Final, TypeAlias, final

from safedefer.core.iteration.decisions import Decision
from safedefer.core.iteration.plan import SliceCall
from safedefer.core.iteration.rows import parse_run, parse_shard, run_key, shard_key
from safedefer.core.iteration.slices import (
    NO_WORK,
    Work,
    checkpoint,
    claim_shard,
    end_slice,
    finish_shard,
    is_made,
    is_stopping,
    keep_lease,
)
from safedefer.core.iteration.state import Run, Shard, ShardState
from safedefer.core.limits import CLOCK_SKEW, LEASE_RESERVE
from safedefer.core.records import Record, RecordKey
from safedefer.errors import RecordConflictError, StoreUnavailableError
from safedefer.flow.iteration_walk import Commands, check_plan
from safedefer.flow.runtime import Runtime

Rule: TypeAlias = Callable[[Run, Shard], Decision]

_TRIES: Final = 4
_FINISHES: Final = 4
_SECONDS_AT_RUN: Final = 0.1
"""Datastore takes some ten writes a second of one entity."""

_MOST_WAITED: Final = 2.0
"""Seconds, between two tries; all of it fits into the reserve of a slice."""


@final
class HeldShard:
    """One shard, and its run.

    Attributes:
        run: As it was last read or written.
        shard: As its holder last wrote it.
        done: What was finished since.
        saved: When that was.
    """

    def __init__(self, runtime: Runtime, call: SliceCall, run: Run, *, deadline_seconds: int) -> None:
        self._runtime = runtime
        self._call = call
        self._lease_seconds = deadline_seconds + int((LEASE_RESERVE + CLOCK_SKEW).total_seconds())
        self.run: Run = run
        self.shard: Shard = Shard(run_id=run.id, index=call.shard, key_range=b"", heartbeat=0, batch_size=1)
        self.done: Work = NO_WORK
        self.saved: float = self._now

    @property
    def _now(self) -> float:
        return self._runtime.clock.time()

    def _read(self) -> Shard | None:
        key = shard_key(self.run.id, self._call.shard)
        found = self._read_run(key).get(key)
        return None if found is None else parse_shard(found)

    def _read_run(self, *others: RecordKey) -> Mapping[RecordKey, Record]:
        key = run_key(self.run.id)
        found = self._runtime.records.get([key, *others])
        if key not in found:
            raise StoreUnavailableError("the record of an iteration was removed while it ran")
        self.run = parse_run(found[key])
        check_plan(self.run, self._call.plan_sha256)
        return found

    def claim(self) -> Commands:
        """Take the lease; commands mean that there is nothing to be held.

        Raises:
            StoreUnavailableError: The store did not answer, or others were always first.
        """
        for _ in range(_TRIES):
            shard = self._read()
            if shard is not None and shard.state is ShardState.DONE and shard.index in self.run.open:
                continue  # The run was read before the shard: both are written at once.
            decision = claim_shard(
                self.run,
                shard,
                index=self._call.shard,
                seq=self._call.seq,
                now=self._now,
                lease_seconds=self._lease_seconds,
            )
            if decision.commands:
                return decision.commands
            try:
                self._runtime.records.commit(decision.changes)
            except RecordConflictError:
                continue
            if decision.shard is not None:
                self.shard = decision.shard
            return ()
        raise StoreUnavailableError("others were always first to claim a shard")

    @property
    def cursor(self) -> bytes | None:
        """Place of the last row that was finished."""
        return self.done.cursor or self.shard.cursor

    def reload(self) -> None:
        """Take the shard as it is stored: a transaction with its last writes was rolled back, or may have been.

        Raises:
            LeaseLostError: It is not held any more.
            StoreUnavailableError: The store did not answer.
        """
        stored = self._read()
        keep_lease(self.shard, stored)
        self.shard, self.done = stored or self.shard, NO_WORK

    def keep(self) -> None:
        """Write what was done, if anything was."""
        if self.done.cursor is not None:
            self.write(lambda _, shard: checkpoint(shard, self.done, now=self._now))

    def save(self) -> Commands:
        """A checkpoint; the slice ends where its run is stopping."""
        self.keep()
        self._read_run()
        return self.end() if is_stopping(self.run) else ()

    def end(self, not_before: int = 0, tries: int = _TRIES) -> Commands:
        """Keep what was done, and leave the rest to the next slice."""
        return self.write(lambda _, shard: end_slice(shard, self.done, now=self._now, not_before=not_before), tries)

    def let_go(self, not_before: int) -> None:
        """Release the shard as it is stored, behind a transaction that may have been rolled back.

        Its commit may also come late. Then it is not written over, since what was committed with it is there.

        Raises:
            LeaseLostError: It is not held any more.
            StoreUnavailableError: The store did not answer, or others were always first.
        """
        for left in reversed(range(_TRIES)):
            self.reload()
            try:
                self.end(not_before, tries=1)
            except StoreUnavailableError:
                if left == 0:
                    raise
            else:
                return

    def finish(self) -> Commands:
        """The end of the shard, in its run's row, which is every shard's.

        Where many end at once, they come back apart, the further the more of them are left. Who does not get at the row
        keeps what was done in the shard's own row, and leaves the rest to a next slice, which finds no row to walk.
        """
        for left in reversed(range(_FINISHES)):
            with suppress(StoreUnavailableError):
                return self.write(lambda run, shard: finish_shard(run, shard, self.done, now=self._now), tries=1)
            if left:
                time.sleep(self._turn(_MOST_WAITED))
                with suppress(StoreUnavailableError):
                    self.shard = keep_lease(self.shard, self._read())
        return self.end(not_before=int(self._now + self._turn()))

    def _turn(self, most: float = inf) -> float:
        """Seconds to wait, so that each open shard might have its own time at the row of the run."""
        return random.uniform(0, min(most, len(self.run.open) * _SECONDS_AT_RUN))  # noqa: S311  # No secret.

    def write(self, rule: Rule, tries: int = _TRIES) -> Commands:
        """Write under the lease, on top of whatever was written beside it.

        Raises:
            LeaseLostError: Another worker has claimed the shard.
            StoreUnavailableError: The store did not answer, or others were always first.
        """
        for _ in range(tries):
            decision = rule(self.run, self.shard)
            try:
                self._runtime.records.commit(decision.changes)
            except (RecordConflictError, StoreUnavailableError):
                stored = self._read()
                if not is_made(decision, stored):
                    self.shard = keep_lease(self.shard, stored)
                    continue
                self.shard = stored or self.shard
            else:
                self.shard = decision.shard or self.shard
                self.run = decision.run or self.run
            self.saved, self.done = self._now, NO_WORK
            return decision.commands
        raise StoreUnavailableError("others were always first to change a shard")
