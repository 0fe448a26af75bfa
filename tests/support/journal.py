"""What the traces of an iteration have to say whatever befell its workers."""

from collections.abc import Iterable

UNSAVED_ROWS = 5
"""What a slice finishes between two checkpoints at most, where a row takes 0.4 seconds."""


def check_journal(traces: Iterable[str], names: list[str], *, unsaved: int = UNSAVED_ROWS) -> int:
    """Every row in its order, none left out, and again only what a killed slice had not checkpointed.

    A slice that claims a shard begins behind the last checkpoint, which the claim names by its number of rows.

    Args:
        names: The rows in the order of their keys.
        unsaved: How many rows there may be between two checkpoints.
    Returns:
        How many visits were repeats.
    """
    events = [text.split() for text in traces]
    shards = {event[1] for event in events if event[0] in {"claim", "visit"}}
    visits = [event for event in events if event[0] == "visit"]
    walks = [sorted({event[2] for event in visits if event[1] == shard}, key=names.index) for shard in sorted(shards)]
    assert sorted(name for walk in walks for name in walk) == sorted(names)
    for shard, walk in zip(sorted(shards), walks, strict=True):
        _check_shard([event for event in events if event[0] == "life" or shard in event[1:2]], walk, unsaved)
    kinds = [event[0] for event in events]
    assert "finalized" in kinds
    assert "visit" not in kinds[kinds.index("finalized") :]
    return len(visits) - len(names)


def _check_shard(events: list[list[str]], walk: list[str], unsaved: int) -> None:
    place, was_killed = 0, False
    for event in events:
        match event:
            case ["life", _]:
                was_killed = True
            case ["claim", _, finished]:
                again = place - int(finished)
                assert 0 <= again <= (unsaved if was_killed else 0), events
                place, was_killed = int(finished), False
            case ["visit", _, name]:
                assert walk[place : place + 1] == [name], events
                place += 1
            case _:
                raise AssertionError(f"a trace that says nothing of a shard: {event}")
    assert place == len(walk)
