"""The shape of every value that needs no class to come back."""

from collections.abc import Mapping
from math import isfinite
from typing import Final, final

from safedefer.core.atoms import ATOM_CODES, ATOM_TYPES
from safedefer.core.limits import MAX_DEPTH
from safedefer.core.shapes.containers import DictShape, ListShape, SetShape, TupleShape
from safedefer.core.shapes.items import explain_dict, explain_items, items_fit
from safedefer.core.shapes.plain import AtomShape
from safedefer.core.shapes.shape import STR_ONLY, Misfit, Reader, Shape, ShapeError, read_ext
from safedefer.core.wire import ExtCode

_ANY_PLAIN: Final[frozenset[type]] = frozenset({type(None), bool, int, str, bytes})


@final
class AnyShape(Shape):
    """Every value that needs no class to come back: plain values, atoms and containers of them."""

    __slots__ = ()
    plain = _ANY_PLAIN

    def render(self) -> str:
        return "Any"

    def fits(self, value: object, depth: int) -> bool:
        if depth > MAX_DEPTH:
            return False
        kind = type(value)
        if kind in _ANY_PLAIN or kind in ATOM_TYPES:
            return True
        if isinstance(value, float):
            return kind is float and isfinite(value)
        if isinstance(value, dict):
            return kind is dict and STR_ONLY.issuperset(map(type, value)) and items_fit(value.values(), self, depth)
        if isinstance(value, list | tuple | set | frozenset):
            return kind in _ANY_CONTAINERS and items_fit(value, self, depth)
        return False

    def explain(self, value: object, path: str, depth: int) -> Misfit:
        if depth <= MAX_DEPTH:
            if type(value) is dict:
                return explain_dict(value, lambda _: self, path, depth)
            if type(value) in _ANY_CONTAINERS and isinstance(value, list | tuple | set | frozenset):
                return explain_items(value, lambda _: self, path, depth)
            if type(value) is float:
                return Misfit(path, "a float that is not finite travels only where the annotation is float")
            return Misfit(
                path,
                f"a {type(value).__qualname__} cannot travel here; enum members, dataclasses and model instances "
                "travel where the annotation names their class",
            )
        return super().explain(value, path, depth)

    def decode(self, node: object, reader: Reader, depth: int) -> object:
        kind = type(node)
        if kind in _ANY_PLAIN:
            reader.enter(depth)
            return node
        if isinstance(node, float):
            reader.enter(depth)
            if not isfinite(node):
                raise ShapeError
            return node
        if isinstance(node, list):
            return _LIST_OF_ANY.decode(node, reader, depth)
        if isinstance(node, dict):
            return _DICT_OF_ANY.decode(node, reader, depth)
        code, _ = read_ext(node, *_ANY_EXT)
        return _ANY_EXT[code].decode(node, reader, depth)


ANY: Final = AnyShape()
_LIST_OF_ANY: Final = ListShape(ANY)
_DICT_OF_ANY: Final = DictShape(ANY)
_ATOM: Final = AtomShape("atom", *ATOM_TYPES, int)
_ANY_EXT: Final[Mapping[int, Shape]] = {
    ExtCode.TUPLE: TupleShape([ANY], variadic=True),
    ExtCode.SET: SetShape(set, ANY),
    ExtCode.FROZENSET: SetShape(frozenset, ANY),
    **dict.fromkeys(ATOM_CODES, _ATOM),
}
_ANY_CONTAINERS: Final[frozenset[type]] = frozenset({list, tuple, set, frozenset})
