"""What a rule of an iteration answers: changes for one commit, then what is to be done, in its order."""

from dataclasses import dataclass, replace
from typing import TypeAlias, final

from safedefer.core.iteration.rows import put_run, put_shard
from safedefer.core.iteration.state import Run, Shard
from safedefer.core.records import Change


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CreateSlice:
    """Create the task of a slice; one of its id that exists already is no matter.

    Attributes:
        at: When it is to come, in seconds since 1970; 0 is now.
    """

    shard: int
    seq: int
    wake: int
    at: int = 0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CreateFinalize:
    """Create the finalize task; one that exists already is no matter.

    Attributes:
        again: 0, or a number that a further *name* of the same task id is to be made from: a queue that has dropped a
            task keeps its name for a while.
    """

    again: int = 0


@final
@dataclass(frozen=True, slots=True)
class Acknowledge:
    """This task is finished: record that in the ledger and answer with success."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Reissue:
    """Not now: the same sealed call as a new task at `at`, then answer with success."""

    at: int


@final
@dataclass(frozen=True, slots=True)
class Stop:
    """Leave this task in the queue: nothing of this delivery may be taken for its end."""


Command: TypeAlias = CreateSlice | CreateFinalize | Acknowledge | Reissue | Stop

ACKNOWLEDGE = Acknowledge()
STOP = Stop()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What is to be done.

    Attributes:
        changes: For one commit; empty where nothing is to be written.
        commands: After it, in this order; empty where the worker goes on.
        run: The run as it is after the commit.
        shard: The shard as it is after the commit; None where none is concerned.
    """

    changes: tuple[Change, ...] = ()
    commands: tuple[Command, ...] = ()
    run: Run | None = None
    shard: Shard | None = None


def decide(now: float, *commands: Command, run: Run | None = None, shard: Shard | None = None) -> Decision:
    """A decision that writes the rows it names."""
    changes: list[Change] = []
    if run is not None:
        changes.append(put_run(run, now))
        run = replace(run, version=run.version + 1)
    if shard is not None:
        changes.append(put_shard(shard, now))
        shard = replace(shard, version=shard.version + 1)
    return Decision(changes=tuple(changes), commands=commands, run=run, shard=shard)


def slice_of(shard: Shard, at: int = 0) -> CreateSlice:
    """The slice that a shard waits for."""
    return CreateSlice(shard=shard.index, seq=shard.seq, wake=shard.wake, at=at or shard.not_before)
