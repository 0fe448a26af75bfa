"""What a commit does to entities: its mutations read, held against what is there, and carried out on copies."""

from collections.abc import Callable
from typing import Any, Final, final

import grpc

from safedefer.emulator.datastore import messages as m
from safedefer.emulator.datastore.failures import CallError, aborted, invalid
from safedefer.emulator.datastore.keys import EntityKey, is_complete, parse_key, parse_path
from safedefer.emulator.datastore.paths import find_value, masked, parse_mask, set_value
from safedefer.emulator.datastore.storage import Stored
from safedefer.emulator.datastore.transforms import transform_entity
from safedefer.emulator.datastore.values import check_entity

_FAIL: Final = 3
_FORBIDDEN: Final = frozenset({("insert", "insert"), ("update", "insert"), ("upsert", "insert"), ("delete", "update")})


@final
class Change:
    """One mutation.

    Attributes:
        entity: What is to be stored; None where it is deleted.
        allocated: Whether the id was allocated here.
        conflicts: Whether the entity that is there is to be kept, since it is not the one that was expected.
        results: What each transform came to.
    """

    def __init__(self, operation: str, key: EntityKey, entity: Any, mutation: Any, *, allocated: bool = False) -> None:
        self.operation: str = operation
        self.key: EntityKey = key
        self.entity: Any = entity
        self.allocated: bool = allocated
        self.conflicts: bool = False
        self.results: list[Any] = []
        self._mutation = mutation

    def check(self, current: Stored | None) -> None:
        """Hold it against the entity that is there.

        Raises:
            CallError: ALREADY_EXISTS, NOT_FOUND, or ABORTED for an expectation that was asked to fail.
        """
        if self.operation == "insert" and current is not None:
            raise CallError(grpc.StatusCode.ALREADY_EXISTS, "entity already exists")
        if self.operation == "update" and current is None:
            raise CallError(grpc.StatusCode.NOT_FOUND, "no entity to update")
        if self._is_as_expected(current):
            return
        if self._mutation.conflict_resolution_strategy == _FAIL:
            raise aborted()
        self.conflicts = True

    def apply(self, current: Stored | None, now: float) -> None:
        """Work out what is to be stored, by the mask and then the transforms.

        Raises:
            CallError: INVALID_ARGUMENT: the service would not take what comes out.
        """
        if self.entity is None:
            return
        if self._mutation.HasField("property_mask"):
            self.entity = _merged(self.entity, None if current is None else current.entity, self._mutation)
        self.results = transform_entity(self.entity, self._mutation.property_transforms, now)
        check_entity(self.entity, self.key.partition.project, self.key.partition.database)

    def _is_as_expected(self, current: Stored | None) -> bool:
        match self._mutation.WhichOneof("conflict_detection_strategy"):
            case "base_version":
                return bool(self._mutation.base_version == (0 if current is None else current.version))
            case "update_time":
                moment = self._mutation.update_time
                given = moment.seconds * 1_000_000 + moment.nanos // 1_000
                return current is not None and bool(given == round(current.updated * 1_000_000))
            case _:
                return True


def plan_change(request: Any, mutation: Any, allocate_id: Callable[[], int]) -> Change:
    """Read one mutation.

    Raises:
        CallError: INVALID_ARGUMENT.
    """
    project, database = request.project_id, request.database_id
    operation = mutation.WhichOneof("operation")
    if operation is None:
        raise invalid("a mutation without an operation")
    if operation == "delete":
        if mutation.property_transforms:
            raise invalid("property transforms of a delete")
        return Change(operation, parse_key(project, database, mutation.delete), None, mutation)
    entity = m.Entity()
    entity.CopyFrom(getattr(mutation, operation))
    allocated = not is_complete(entity.key)
    if allocated:
        if operation == "update":
            raise invalid("an update needs a complete key")
        parse_path(project, database, entity.key)
        entity.key.path[-1].id = allocate_id()
    key = parse_key(project, database, entity.key)
    entity.key.CopyFrom(key.message())
    check_entity(entity, project, database)
    return Change(operation, key, entity, mutation, allocated=allocated)


def check_pair(before: Change, after: Change) -> None:
    """Refuse two mutations of one entity in one transaction that do not go together.

    Raises:
        CallError: INVALID_ARGUMENT.
    """
    if (before.operation, after.operation) in _FORBIDDEN:
        raise invalid("two mutations of one entity that do not go together")


def _merged(entity: Any, current: Any, mutation: Any) -> Any:
    """What is there, with what the mask names taken from the mutation or taken away."""
    paths = parse_mask(mutation.property_mask)
    if current is None:
        return masked(entity, paths)
    merged = m.Entity()
    merged.CopyFrom(current)
    for path in paths:
        set_value(merged, path, find_value(entity.properties, path))
    return merged
