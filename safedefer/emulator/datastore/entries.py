"""What an entity puts into the indexes, property by property."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, final

from safedefer.emulator.datastore.keys import EntityKey, Partition
from safedefer.emulator.datastore.messages import Value
from safedefer.emulator.datastore.storage import Stored
from safedefer.emulator.datastore.values import SortKey, key_rank, sort_key

KEY: Final = "__key__"
SCATTER: Final = "__scatter__"

Row: TypeAlias = tuple[EntityKey, Stored]
Entry: TypeAlias = tuple[SortKey, Any]
"""One index entry: what it sorts by, and the value that it is made of."""
Entries: TypeAlias = Callable[[str], list[Entry]]


@final
@dataclass(frozen=True, slots=True)
class Index:
    """Reads the index entries of entities of one partition.

    Attributes:
        partition: Where the entities are.
        scatter_rate: The share of keys that have the hidden property `__scatter__`.
    """

    partition: Partition
    scatter_rate: float

    def entry(self, value: Any) -> Entry:
        """The entry of one value."""
        return sort_key(value, self.partition.project, self.partition.database), value

    def entries_of(self, row: Row) -> Entries:
        """The entries of an entity, by the name of a property; none for what it lacks or excludes."""
        key, stored = row
        known: dict[str, list[Entry]] = {}

        def entries(name: str) -> list[Entry]:
            if name not in known:
                known[name] = self._entries(key, stored, name)
            return known[name]

        return entries

    def _entries(self, key: EntityKey, stored: Stored, name: str) -> list[Entry]:
        if name == KEY:
            return [(key_rank(key), Value(key_value=key.message()))]
        if name == SCATTER:
            return self._scatter(key)
        return [self.entry(value) for value in _indexed(stored.entity.properties, name)]

    def _scatter(self, key: EntityKey) -> list[Entry]:
        """The hidden property of a part of all keys, chosen by their hash: always the same ones."""
        digest = hashlib.sha256(repr(key.path).encode()).digest()
        if int.from_bytes(digest[:4], "big") >= self.scatter_rate * (1 << 32):
            return []
        return [self.entry(Value(blob_value=digest[4:12]))]


def _indexed(properties: Any, name: str) -> Iterator[Any]:
    """The indexed values under a name, which may lead into entity values; of an array each element."""
    if name in properties:
        yield from _elements(properties[name])
    for at, letter in enumerate(name):
        # Names may contain dots themselves, so every dot can be where the outer name ends.
        if letter == "." and name[:at] in properties:
            for value in _elements(properties[name[:at]]):
                if value.WhichOneof("value_type") == "entity_value":
                    yield from _indexed(value.entity_value.properties, name[at + 1 :])


def _elements(value: Any) -> Iterator[Any]:
    if value.exclude_from_indexes:
        return
    if value.WhichOneof("value_type") != "array_value":
        yield value
        return
    yield from (part for part in value.array_value.values if not part.exclude_from_indexes)
