"""Names of properties that may lead into entity values: `a.b` is the property b inside the entity value a."""

import re
from collections.abc import Iterable
from typing import Any, Final, TypeAlias

from safedefer.emulator.datastore.failures import invalid
from safedefer.emulator.datastore.messages import Entity, Value

PropertyPath: TypeAlias = tuple[str, ...]

_PART: Final = re.compile(r"((?:[^.\\]|\\[.\\])+)(\.|$)")
_ESCAPED: Final = re.compile(r"\\(.)")


def parse_property_path(text: str) -> PropertyPath:
    """Read a path; a dot or backslash that belongs to a name is escaped by a backslash.

    Raises:
        CallError: INVALID_ARGUMENT: empty, an empty name in it, or a stray backslash.
    """
    parts: list[str] = []
    at = 0
    while at < len(text) or not parts or text[at - 1] == ".":
        found = _PART.match(text, at)
        if found is None:
            raise invalid(f"the property path {text!r}")
        parts.append(_ESCAPED.sub(r"\1", found.group(1)))
        at = found.end()
    return tuple(parts)


def find_value(properties: Any, path: PropertyPath) -> Any:
    """The value at a path, or None."""
    for name in path[:-1]:
        if name not in properties or properties[name].WhichOneof("value_type") != "entity_value":
            return None
        properties = properties[name].entity_value.properties
    return properties.get(path[-1])


def set_value(entity: Any, path: PropertyPath, value: Any) -> None:
    """Put a value at a path, making the entity values that lead there; None takes it away."""
    for name in path[:-1]:
        if value is None and find_value(entity.properties, (name,)) is None:
            return
        inner = entity.properties[name]
        if inner.WhichOneof("value_type") != "entity_value":
            if value is None:
                return
            inner.CopyFrom(Value(entity_value=Entity()))
        entity = inner.entity_value
    if value is not None:
        entity.properties[path[-1]].CopyFrom(value)
    elif path[-1] in entity.properties:
        del entity.properties[path[-1]]


def parse_mask(mask: Any) -> list[PropertyPath]:
    """Read a property mask. `__key__` is allowed, and stands for nothing: the key is always there."""
    return [parse_property_path(text) for text in mask.paths if text != "__key__"]


def masked(entity: Any, paths: Iterable[PropertyPath]) -> Any:
    """A copy of an entity with nothing but what the paths name."""
    left = Entity(key=entity.key)
    for path in paths:
        value = find_value(entity.properties, path)
        if value is not None:
            set_value(left, path, value)
    return left
