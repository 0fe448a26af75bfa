"""Shapes of lists, tuples, sets and dicts."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import final

from safedefer.core.limits import MAX_DEPTH
from safedefer.core.shapes.items import decode_items, explain_dict, explain_items, items_fit
from safedefer.core.shapes.shape import STR_ONLY, Misfit, Reader, Shape, ShapeError, read_ext_list
from safedefer.core.wire import ExtCode, WireError, pack


@final
class ListShape(Shape):
    """A list of one shape."""

    __slots__ = ("item",)

    def __init__(self, item: Shape) -> None:
        self.item: Shape = item

    def render(self) -> str:
        return f"list[{self.item.render()}]"

    def fits(self, value: object, depth: int) -> bool:
        return (
            isinstance(value, list)
            and type(value) is list
            and depth <= MAX_DEPTH
            and items_fit(value, self.item, depth)
        )

    def explain(self, value: object, path: str, depth: int) -> Misfit:
        if isinstance(value, list) and type(value) is list and depth <= MAX_DEPTH:
            return explain_items(value, lambda _: self.item, path, depth)
        return super().explain(value, path, depth)

    def decode(self, node: object, reader: Reader, depth: int) -> object:
        reader.enter(depth)
        if not isinstance(node, list):
            raise ShapeError
        return decode_items(node, self.item, reader, depth)

    def children(self) -> Iterator[Shape]:
        yield self.item


@final
class TupleShape(Shape):
    """A tuple: a fixed shape for each place, or one shape for any number of places."""

    __slots__ = ("items", "variadic")

    def __init__(self, items: Sequence[Shape], *, variadic: bool = False) -> None:
        self.items: tuple[Shape, ...] = tuple(items)
        self.variadic: bool = variadic

    def render(self) -> str:
        inside = ", ".join(item.render() for item in self.items)
        return f"tuple[{inside}{', ...' if self.variadic else ''}]"

    def _at(self, index: int) -> Shape:
        return self.items[0 if self.variadic else index]

    def fits(self, value: object, depth: int) -> bool:
        return (
            isinstance(value, tuple)
            and type(value) is tuple
            and depth <= MAX_DEPTH
            and (self.variadic or len(value) == len(self.items))
            and all(self._at(index).fits(part, depth + 1) for index, part in enumerate(value))
        )

    def explain(self, value: object, path: str, depth: int) -> Misfit:
        fits = isinstance(value, tuple) and type(value) is tuple and (self.variadic or len(value) == len(self.items))
        if fits and isinstance(value, tuple) and depth <= MAX_DEPTH:
            return explain_items(value, self._at, path, depth)
        return super().explain(value, path, depth)

    def decode(self, node: object, reader: Reader, depth: int) -> object:
        reader.enter(depth)
        parts = read_ext_list(node, ExtCode.TUPLE)
        if self.variadic:
            return tuple(decode_items(parts, self.items[0], reader, depth))
        if len(parts) != len(self.items):
            raise ShapeError
        return tuple(item.decode(part, reader, depth + 1) for item, part in zip(self.items, parts, strict=True))

    def children(self) -> Iterator[Shape]:
        return iter(self.items)


@final
class SetShape(Shape):
    """A set or a frozenset of one shape."""

    __slots__ = ("cls", "code", "item")

    def __init__(self, cls: type[set[object]] | type[frozenset[object]], item: Shape) -> None:
        self.cls: type[set[object] | frozenset[object]] = cls
        self.code = ExtCode.SET if cls is set else ExtCode.FROZENSET
        self.item: Shape = item

    def render(self) -> str:
        return f"{self.cls.__name__}[{self.item.render()}]"

    def fits(self, value: object, depth: int) -> bool:
        return (
            isinstance(value, set | frozenset)
            and type(value) is self.cls
            and depth <= MAX_DEPTH
            and items_fit(value, self.item, depth)
        )

    def explain(self, value: object, path: str, depth: int) -> Misfit:
        if isinstance(value, set | frozenset) and type(value) is self.cls and depth <= MAX_DEPTH:
            return explain_items(value, lambda _: self.item, path, depth)
        return super().explain(value, path, depth)

    def decode(self, node: object, reader: Reader, depth: int) -> object:
        reader.enter(depth)
        parts = read_ext_list(node, self.code)
        encoded = [pack(part) for part in parts]
        if any(left >= right for left, right in pairwise(encoded)):
            raise WireError("a set out of order")
        values = decode_items(parts, self.item, reader, depth)
        try:
            result = self.cls(values)
        except Exception:  # noqa: BLE001  # A `__hash__` or `__eq__` of a class's own may raise anything.
            raise WireError("a set with a value that cannot be hashed") from None
        if len(result) != len(parts) and reader.rows is not None:
            raise WireError("a set with equal values")
        return result

    def children(self) -> Iterator[Shape]:
        yield self.item


@final
class DictShape(Shape):
    """A dict with str keys."""

    __slots__ = ("item",)

    def __init__(self, item: Shape) -> None:
        self.item: Shape = item

    def render(self) -> str:
        return f"dict[str, {self.item.render()}]"

    def fits(self, value: object, depth: int) -> bool:
        return (
            isinstance(value, dict)
            and type(value) is dict
            and depth <= MAX_DEPTH
            and STR_ONLY.issuperset(map(type, value))
            and items_fit(value.values(), self.item, depth)
        )

    def explain(self, value: object, path: str, depth: int) -> Misfit:
        if isinstance(value, dict) and type(value) is dict and depth <= MAX_DEPTH:
            return explain_dict(value, lambda _: self.item, path, depth)
        return super().explain(value, path, depth)

    def decode(self, node: object, reader: Reader, depth: int) -> object:
        reader.enter(depth)
        if not isinstance(node, dict):
            raise ShapeError
        reader.enter(depth, len(node))
        return dict(zip(node, decode_items(node.values(), self.item, reader, depth), strict=True))

    def children(self) -> Iterator[Shape]:
        yield self.item
