"""Shapes of what has named parts: named tuples, typed dicts, dataclasses."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final, final

from safedefer.core.limits import MAX_DEPTH
from safedefer.core.shapes.items import explain_dict, explain_items
from safedefer.core.shapes.shape import STR_ONLY, Misfit, Reader, Shape, ShapeError, read_ext_list, read_ext_pair
from safedefer.core.wire import ExtCode


@final
class NamedTupleShape(Shape):
    """A `typing.NamedTuple` class; travels as a tuple."""

    __slots__ = ("cls", "fields", "make")

    def __init__(self, cls: type[tuple[object, ...]], fields: Mapping[str, Shape]) -> None:
        self.cls: type[tuple[object, ...]] = cls
        self.make: Callable[..., object] = cls
        self.fields: Mapping[str, Shape] = fields

    def render(self) -> str:
        inside = ", ".join(f"{name}: {shape.render()}" for name, shape in self.fields.items())
        return f"{self.cls.__name__}({inside})"

    def fits(self, value: object, depth: int) -> bool:
        return (
            isinstance(value, self.cls)
            and type(value) is self.cls
            and depth <= MAX_DEPTH
            and all(shape.fits(part, depth + 1) for shape, part in zip(self.fields.values(), value, strict=True))
        )

    def explain(self, value: object, path: str, depth: int) -> Misfit:
        if type(value) is self.cls and isinstance(value, tuple) and depth <= MAX_DEPTH:
            shapes = list(self.fields.values())
            return explain_items(value, lambda index: shapes[index], path, depth)
        return super().explain(value, path, depth)

    def decode(self, node: object, reader: Reader, depth: int) -> object:
        reader.enter(depth)
        parts = read_ext_list(node, ExtCode.TUPLE)
        if len(parts) != len(self.fields):
            raise ShapeError
        shapes = zip(self.fields.values(), parts, strict=True)
        values = [shape.decode(part, reader, depth + 1) for shape, part in shapes]
        if reader.rows is None:
            return None
        try:
            return self.make(*values)
        except Exception:  # noqa: BLE001  # A `__new__` of the class's own may raise anything; it means no.
            raise ShapeError from None

    def children(self) -> Iterator[Shape]:
        return iter(self.fields.values())


@final
class TypedDictShape(Shape):
    """A TypedDict: a dict with known keys, some of which may be absent."""

    __slots__ = ("fields", "name", "required")

    def __init__(self, name: str, fields: Mapping[str, Shape], required: frozenset[str]) -> None:
        self.name: str = name
        self.fields: Mapping[str, Shape] = fields
        self.required: frozenset[str] = required

    def render(self) -> str:
        inside = ", ".join(
            f"{key}{'' if key in self.required else '?'}: {shape.render()}" for key, shape in self.fields.items()
        )
        return f"{self.name}{{{inside}}}"

    def _has_right_keys(self, value: Mapping[str, object]) -> bool:
        return self.required <= value.keys() <= self.fields.keys()

    def fits(self, value: object, depth: int) -> bool:
        return (
            isinstance(value, dict)
            and type(value) is dict
            and depth <= MAX_DEPTH
            and STR_ONLY.issuperset(map(type, value))
            and self._has_right_keys(value)
            and all(self.fields[key].fits(part, depth + 1) for key, part in value.items())
        )

    def explain(self, value: object, path: str, depth: int) -> Misfit:
        if isinstance(value, dict) and type(value) is dict and depth <= MAX_DEPTH:
            if not self._has_right_keys(value):
                return Misfit(path, f"expected the keys of {self.name}")
            return explain_dict(value, self.fields.__getitem__, path, depth)
        return super().explain(value, path, depth)

    def decode(self, node: object, reader: Reader, depth: int) -> object:
        reader.enter(depth)
        if not isinstance(node, dict) or not self._has_right_keys(node):
            raise ShapeError
        reader.enter(depth, len(node))
        return {key: self.fields[key].decode(part, reader, depth + 1) for key, part in node.items()}

    def children(self) -> Iterator[Shape]:
        return iter(self.fields.values())


@final
class DataclassShape(Shape):
    """An instance of one dataclass; travels as its fields. `fields` is filled in once known: it may name itself."""

    __slots__ = ("cls", "fields")

    def __init__(self, cls: type) -> None:
        self.cls: type = cls
        self.fields: Mapping[str, Shape] = {}

    def render(self) -> str:
        return f"dataclass {self.cls.__name__}"

    def fits(self, value: object, depth: int) -> bool:
        return (
            type(value) is self.cls
            and depth <= MAX_DEPTH
            and all(shape.fits(getattr(value, name, _ABSENT), depth + 1) for name, shape in self.fields.items())
        )

    def explain(self, value: object, path: str, depth: int) -> Misfit:
        if type(value) is self.cls and depth <= MAX_DEPTH:
            for name, shape in self.fields.items():
                part = getattr(value, name, _ABSENT)
                if not shape.fits(part, depth + 1):
                    return shape.explain(part, f"{path}.{name}", depth + 1)
        return super().explain(value, path, depth)

    def decode(self, node: object, reader: Reader, depth: int) -> object:
        reader.enter(depth)
        name, parts = read_ext_pair(node, ExtCode.DATACLASS)
        if name != self.cls.__name__ or not isinstance(parts, dict) or list(parts) != list(self.fields):
            raise ShapeError
        values = {key: shape.decode(parts[key], reader, depth + 1) for key, shape in self.fields.items()}
        if reader.rows is None:
            return None
        try:
            return self.cls(**values)
        except Exception:  # noqa: BLE001  # The class's own check may raise anything; it means no.
            raise ShapeError from None

    def children(self) -> Iterator[Shape]:
        return iter(self.fields.values())


class _Absent:
    """Stands for a field that an instance does not have; fits no shape."""


_ABSENT: Final = _Absent()
