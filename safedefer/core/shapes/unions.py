"""The shape of a union."""

from collections.abc import Iterator, Sequence
from typing import final

from safedefer.core.shapes.shape import Misfit, Reader, Shape, ShapeError


@final
class UnionShape(Shape):
    """One of several shapes; the first that accepts a node decodes it."""

    __slots__ = ("options", "plain")

    def __init__(self, options: Sequence[Shape]) -> None:
        self.options: tuple[Shape, ...] = tuple(options)
        self.plain: frozenset[type] = frozenset[type]().union(*(option.plain for option in options))

    def render(self) -> str:
        return " | ".join(option.render() for option in self.options)

    def fits(self, value: object, depth: int) -> bool:
        return any(option.fits(value, depth) for option in self.options)

    def explain(self, value: object, path: str, depth: int) -> Misfit:
        # `list[int] | None`: if one option alone has a fault inside of the value, that is where to look.
        inside = [misfit for option in self.options if (misfit := option.explain(value, path, depth)).path != path]
        return inside[0] if len(inside) == 1 else super().explain(value, path, depth)

    def decode(self, node: object, reader: Reader, depth: int) -> object:
        nodes = reader.nodes
        for option in self.options:
            try:
                return option.decode(node, reader, depth)
            except ShapeError:
                reader.step_back(nodes)
        raise ShapeError

    def children(self) -> Iterator[Shape]:
        return iter(self.options)
