"""Versions of entities and transactions over them, against whole copies of every state."""

from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedefer.emulator.datastore.entries import Index
from safedefer.emulator.datastore.failures import CallError
from safedefer.emulator.datastore.keys import EntityKey
from safedefer.emulator.datastore.messages import Entity, RunQueryRequest, Value
from safedefer.emulator.datastore.queries import Query
from safedefer.emulator.datastore.storage import Storage
from safedefer.emulator.datastore.transactions import MAX_IDLE_SECONDS, MAX_SECONDS, Transaction, Transactions
from tests.unit.emulator.datastore.values import PARTITION, key

KEYS: Final = (key("A", 1), key("A", 2), key("A", 1, "A", 3), key("B", 1))


def query(kind: str | None, at_least: int) -> Query:
    """Rows of a kind whose value is no smaller than a number; of no kind, all rows."""
    message = RunQueryRequest().query
    if kind is not None:
        message.kind.add(name=kind)
        message.filter.property_filter.property.name = "n"
        message.filter.property_filter.op = 4
        message.filter.property_filter.value.integer_value = at_least
    return Query(message, Index(PARTITION, 0.5))


@dataclass
class World:
    """Storage and transactions, and beside them a copy of every state there ever was."""

    storage: Storage = field(default_factory=Storage)
    states: dict[int, dict[EntityKey, int]] = field(default_factory=lambda: {0: {}})

    def __post_init__(self) -> None:
        self.transactions = Transactions(self.storage)

    def write(self, changes: dict[EntityKey, int | None]) -> None:
        """One commit from elsewhere; None deletes."""
        state = dict(self.states[self.storage.version])
        self.storage.version += 1
        for entity_key, number in changes.items():
            entity = None
            if number is not None:
                entity = Entity(key=entity_key.message())
                entity.properties["n"].CopyFrom(Value(integer_value=number))
                state[entity_key] = number
            else:
                state.pop(entity_key, None)
            self.storage.write(entity_key, entity, self.storage.version, 0.0)
        self.states[self.storage.version] = state
        self.storage.forget(self.transactions.oldest_read)

    def seen(self, transaction: Transaction) -> dict[EntityKey, int]:
        """What a transaction finds by a scan of everything."""
        rows = self.storage.scan(PARTITION, None, transaction.read_version)
        return {entity_key: stored.entity.properties["n"].integer_value for entity_key, stored in rows}

    def is_aborted(self, transaction: Transaction) -> bool:
        """Whether a commit is refused; the transaction is over either way."""
        self.transactions.close(transaction)
        try:
            self.transactions.check_unchanged(transaction)
        except CallError:
            return True
        finally:
            self.storage.forget(self.transactions.oldest_read)
        return False


writes = st.dictionaries(st.sampled_from(KEYS), st.one_of(st.none(), st.integers(0, 3)), min_size=1, max_size=2)


@given(st.lists(st.tuples(st.sampled_from(["begin", "write", "end"]), writes), max_size=25))
def test_transaction_sees_the_state_of_its_beginning_until_it_ends(steps: list[tuple[str, Any]]) -> None:
    world = World()
    opened: list[Transaction] = []
    for step, changes in steps:
        if step == "begin":
            opened.append(world.transactions.begin(0.0, read_only=False))
        elif step == "write":
            world.write(changes)
        elif opened:
            world.transactions.close(opened.pop(0))
            world.storage.forget(world.transactions.oldest_read)
        for transaction in opened:
            assert world.seen(transaction) == world.states[transaction.read_version]
        for entity_key in KEYS:
            stored = world.storage.get(entity_key)
            assert (stored is not None) == (entity_key in world.states[world.storage.version])


@given(
    st.lists(writes, max_size=4),
    st.lists(writes, max_size=4),
    st.sets(st.sampled_from(KEYS)),
    st.one_of(st.none(), st.tuples(st.sampled_from(["A", "B", None]), st.integers(0, 3))),
)
def test_commit_is_aborted_if_what_was_read_was_written(
    before: list[dict[EntityKey, int | None]],
    after: list[dict[EntityKey, int | None]],
    keys: set[EntityKey],
    asked: tuple[str | None, int] | None,
) -> None:
    world = World()
    for changes in before:
        world.write(changes)
    transaction = world.transactions.begin(0.0, read_only=False)
    transaction.keys |= keys
    first = world.states[world.storage.version]
    if asked is not None:
        transaction.queries.append((PARTITION, query(*asked)))
    for changes in after:
        world.write(changes)
    last = world.states[world.storage.version]
    written = {entity_key for changes in after for entity_key in changes}
    overtaken = bool(written & keys)
    if asked is not None:
        kind, at_least = asked
        for entity_key in written:
            if kind in (None, entity_key.kind):
                matches = [
                    kind is None or state[entity_key] >= at_least for state in (first, last) if entity_key in state
                ]
                overtaken = overtaken or any(matches)
    assert world.is_aborted(transaction) == overtaken


@given(st.lists(writes, max_size=20))
def test_nothing_is_kept_that_nobody_can_see(steps: list[dict[EntityKey, int | None]]) -> None:
    world = World()
    transaction = world.transactions.begin(0.0, read_only=True)
    for changes in steps:
        world.write(changes)
    world.transactions.close(transaction)
    world.storage.forget(world.transactions.oldest_read)
    assert {k: len(history) for k, history in world.storage._history.items()} == dict.fromkeys(
        world.states[world.storage.version], 1
    )


@pytest.mark.parametrize(("uses", "now"), [([], MAX_IDLE_SECONDS + 1), (range(0, 270, 50), MAX_SECONDS + 1)])
def test_transaction_expires_by_idleness_and_by_age(uses: Any, now: float) -> None:
    world = World()
    transaction = world.transactions.begin(0.0, read_only=False)
    for moment in uses:
        assert world.transactions.find(transaction.id, moment) is transaction
    with pytest.raises(CallError):
        world.transactions.find(transaction.id, now)


def test_ids_are_neither_repeated_nor_reserved_ones() -> None:
    twin = Storage()
    reserved = [twin.allocate_id() for _ in range(5)]
    storage = Storage()
    for number in reserved[1:3]:
        storage.reserve_id(number)
    assert [storage.allocate_id() for _ in range(3)] == [reserved[0], *reserved[3:]]
    assert len({storage.allocate_id() for _ in range(1_000)}) == 1_000
