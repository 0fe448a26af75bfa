"""Keys as plain values: hashable, and in the order in which the service sorts them."""

import re
from typing import Any, Final, NamedTuple, TypeAlias

from safedefer.emulator.datastore.failures import MAX_NAME_BYTES, MAX_PATH, invalid
from safedefer.emulator.datastore.messages import Key

_DIMENSION: Final = re.compile(r"[A-Za-z0-9.\-_]{0,100}")
_RESERVED: Final = re.compile(r"__.*__")

Element: TypeAlias = tuple[bytes, int, int, bytes]
"""Kind, 0 for an id or 1 for a name, the id, the name: element by element as the service compares them."""


class Partition(NamedTuple):
    """What keeps entities apart: nothing sees from one into another."""

    project: str
    database: str
    namespace: str


class EntityKey(NamedTuple):
    """A complete key."""

    partition: Partition
    path: tuple[Element, ...]

    @property
    def kind(self) -> str:
        """Kind of the last element."""
        return self.path[-1][0].decode()

    def message(self) -> Any:
        """The key as protobuf."""
        key = Key()
        key.partition_id.project_id = self.partition.project
        key.partition_id.database_id = self.partition.database
        key.partition_id.namespace_id = self.partition.namespace
        for kind, is_name, number, name in self.path:
            element = key.path.add(kind=kind.decode())
            if is_name:
                element.name = name.decode()
            else:
                element.id = number
        return key


def parse_partition(project: str, database: str, partition: Any) -> Partition:
    """Read a partition; what it leaves out comes from the request.

    Raises:
        CallError: INVALID_ARGUMENT: another project or database than the request's, or a name that cannot be one.
    """
    found = Partition(partition.project_id or project, partition.database_id or database, partition.namespace_id)
    if found.project != project or found.database != database:
        raise invalid("a key of another project or database than the request's")
    if database == "(default)":
        raise invalid('the default database is named ""')
    if not all(_DIMENSION.fullmatch(part) and not _RESERVED.fullmatch(part) for part in found[1:]):
        raise invalid("a database or namespace that cannot be one")
    return found


def parse_key(project: str, database: str, message: Any, *, allow_reserved: bool = False) -> EntityKey:
    """Read a complete key.

    Args:
        allow_reserved: Take kinds and names of the form `__.*__`: in what is only compared with keys.

    Raises:
        CallError: INVALID_ARGUMENT: incomplete, empty, too long, or with a reserved kind or name.
    """
    key = parse_path(project, database, message, allow_reserved=allow_reserved)
    if not is_complete(message):
        raise invalid("a key that is not complete")
    return key


def is_complete(message: Any) -> bool:
    """Whether the last element has an id or a name."""
    return bool(message.path) and message.path[-1].WhichOneof("id_type") is not None


def parse_path(project: str, database: str, message: Any, *, allow_reserved: bool = False) -> EntityKey:
    """Read a key whose last element may be incomplete; it then has the id 0."""
    partition = parse_partition(project, database, message.partition_id)
    if not 0 < len(message.path) <= MAX_PATH:
        raise invalid(f"a key has 1 to {MAX_PATH} path elements")
    path: list[Element] = []
    for index, element in enumerate(message.path):
        kind, name = element.kind.encode(), element.name.encode()
        given = element.WhichOneof("id_type")
        if not kind or len(kind) > MAX_NAME_BYTES or len(name) > MAX_NAME_BYTES:
            raise invalid("a kind or name that is empty or too long")
        if not allow_reserved and (_RESERVED.fullmatch(element.kind) or _RESERVED.fullmatch(element.name)):
            raise invalid("a kind or name of the form __.*__ is reserved")
        if (given == "name" and not name) or (given == "id" and element.id == 0):
            raise invalid("a name that is empty, or the id 0")
        if given is None and index + 1 < len(message.path):
            raise invalid("a key whose parent is not complete")
        path.append((kind, int(given == "name"), element.id, name))
    return EntityKey(partition, tuple(path))
