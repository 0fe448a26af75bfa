"""What the shapes of containers have in common: their items, checked, decoded and explained."""

import json
from collections.abc import Callable, Collection, Sequence
from typing import Final

from safedefer.core.limits import MAX_DEPTH
from safedefer.core.shapes.shape import Misfit, Reader, Shape

_MAX_KEY_TEXT: Final = 40


def key_path(path: str, key: str) -> str:
    """The path of a dict's value, with a bound on how much of the key it shows."""
    return f"{path}[{json.dumps(key if len(key) <= _MAX_KEY_TEXT else key[:_MAX_KEY_TEXT] + '...')}]"


def items_fit(parts: Collection[object], item: Shape, depth: int) -> bool:
    if item.plain.issuperset(map(type, parts)):
        return depth < MAX_DEPTH or not parts
    return all(item.fits(part, depth + 1) for part in parts)


def decode_items(parts: Collection[object], item: Shape, reader: Reader, depth: int) -> list[object]:
    if item.plain.issuperset(map(type, parts)):
        reader.enter(depth + 1 if parts else depth, len(parts))
        return list(parts)
    return [item.decode(part, reader, depth + 1) for part in parts]


def explain_items(
    parts: Sequence[object] | set[object] | frozenset[object],
    shape_at: Callable[[int], Shape],
    path: str,
    depth: int,
) -> Misfit:
    for index, part in enumerate(parts):
        shape = shape_at(index)
        if not shape.fits(part, depth + 1):
            place = f"{path}{{item}}" if isinstance(parts, set | frozenset) else f"{path}[{index}]"
            return shape.explain(part, place, depth + 1)
    return Misfit(path, "changed while it was looked at")


def explain_dict(parts: dict[object, object], shape_at: Callable[[str], Shape], path: str, depth: int) -> Misfit:
    for key, part in parts.items():
        if not isinstance(key, str) or type(key) is not str:
            return Misfit(path, f"a dict key of type {type(key).__qualname__}; keys are str")
        shape = shape_at(key)
        if not shape.fits(part, depth + 1):
            return shape.explain(part, key_path(path, key), depth + 1)
    return Misfit(path, "changed while it was looked at")
