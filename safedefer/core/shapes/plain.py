"""Shapes of values that have no parts."""

from collections.abc import Sequence
from typing import final

from msgpack import ExtType

from safedefer.core.atoms import ATOM_CODES, load_atom
from safedefer.core.limits import MAX_DEPTH
from safedefer.core.shapes.shape import Reader, Shape, ShapeError, read_ext
from safedefer.core.wire import ExtCode


@final
class PlainShape(Shape):
    """None, bool, int, float, str or bytes, by exact type: an enum or a safe string is not a `str`."""

    __slots__ = ("name", "plain")

    def __init__(self, name: str, *types: type) -> None:
        self.name: str = name
        self.plain: frozenset[type] = frozenset(types)

    def render(self) -> str:
        return self.name

    def fits(self, value: object, depth: int) -> bool:
        return type(value) in self.plain and depth <= MAX_DEPTH

    def decode(self, node: object, reader: Reader, depth: int) -> object:
        reader.enter(depth)
        if type(node) in self.plain:
            return node
        if isinstance(node, ExtType) and node.code == ExtCode.BIG_INT and int in self.plain:
            return load_atom(node.code, node.data)
        raise ShapeError


@final
class AtomShape(Shape):
    """A value of `ATOM_TYPES`; a `date` parameter also takes a datetime, as its type says."""

    __slots__ = ("name", "types")

    def __init__(self, name: str, *types: type) -> None:
        self.name: str = name
        self.types: frozenset[type] = frozenset(types)

    def render(self) -> str:
        return self.name

    def fits(self, value: object, depth: int) -> bool:
        return type(value) in self.types and depth <= MAX_DEPTH

    def decode(self, node: object, reader: Reader, depth: int) -> object:
        reader.enter(depth)
        value = load_atom(*read_ext(node, *ATOM_CODES))
        if type(value) not in self.types:
            raise ShapeError
        return value


@final
class LiteralShape(Shape):
    """One of a few plain values."""

    __slots__ = ("values",)

    def __init__(self, values: Sequence[object]) -> None:
        self.values: tuple[tuple[type, object], ...] = tuple((type(value), value) for value in values)

    def render(self) -> str:
        return f"Literal[{', '.join(repr(value) for _, value in self.values)}]"

    def fits(self, value: object, depth: int) -> bool:
        return (type(value), value) in self.values and depth <= MAX_DEPTH

    def decode(self, node: object, reader: Reader, depth: int) -> object:
        reader.enter(depth)
        value = load_atom(node.code, node.data) if isinstance(node, ExtType) and node.code == ExtCode.BIG_INT else node
        if (type(value), value) not in self.values:
            raise ShapeError
        return value
