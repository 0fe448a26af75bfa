"""Shapes of what stands for something that exists already: enum members, and rows of models."""

from enum import Enum
from typing import Final, final

from safedefer.core.limits import MAX_DEPTH, MAX_RELATED
from safedefer.core.references import ModelReference
from safedefer.core.shapes.anything import ANY
from safedefer.core.shapes.shape import Reader, Shape, ShapeError, read_ext_list, read_ext_pair
from safedefer.core.wire import ExtCode, WireError


@final
class EnumShape(Shape):
    """A member of one Enum class; travels by its name."""

    __slots__ = ("cls",)

    def __init__(self, cls: type[Enum]) -> None:
        self.cls: type[Enum] = cls

    def render(self) -> str:
        return f"enum {self.cls.__name__}"

    def fits(self, value: object, depth: int) -> bool:
        return type(value) is self.cls and depth <= MAX_DEPTH

    def decode(self, node: object, reader: Reader, depth: int) -> object:
        reader.enter(depth)
        name, member_name = read_ext_pair(node, ExtCode.ENUM)
        if name != self.cls.__name__ or not isinstance(member_name, str):
            raise ShapeError
        member = self.cls.__members__.get(member_name)
        if member is None or member._name_ != member_name:  # An alias is not the name that the member travels by.
            raise ShapeError
        return member


@final
class ModelShape(Shape):
    """An instance of one model class or a subclass; travels as a reference to its row."""

    __slots__ = ("cls",)

    def __init__(self, cls: type) -> None:
        self.cls: type = cls

    def render(self) -> str:
        return f"model {self.cls.__name__}"

    def fits(self, value: object, depth: int) -> bool:
        return isinstance(value, self.cls) and depth <= MAX_DEPTH

    def decode(self, node: object, reader: Reader, depth: int) -> object:
        reader.enter(depth)
        parts = read_ext_list(node, ExtCode.MODEL)
        if len(parts) < _REFERENCE_PARTS:
            raise WireError("a reference with the wrong parts")
        label, using, key_node, *rest = parts
        if not isinstance(label, str) or not isinstance(using, str) or not reader.allows(label, self.cls):
            raise ShapeError
        key = ANY.decode(key_node, reader, 1)  # A value of its own: where the row stands does not count.
        reference = ModelReference(label=label, using=using, key=key, related=_related(rest))
        if reader.rows is None:
            try:
                reader.references[reference] = None
            except TypeError:
                raise WireError("a primary key that is not hashable") from None
            return reference
        return reader.rows[reference]


def _related(rest: list[object]) -> tuple[str, ...]:
    """The relations of a reference: none, or one array of names."""
    if not rest:
        return ()
    names = rest[0]
    if len(rest) > 1 or not isinstance(names, list) or not 0 < len(names) <= MAX_RELATED:
        raise WireError("a reference with the wrong relations")
    texts = tuple(name for name in names if isinstance(name, str) and len(name) <= _MAX_RELATED_NAME)
    if len(texts) != len(names):
        raise WireError("a reference with the wrong relations")
    return texts


_REFERENCE_PARTS: Final = 3
_MAX_RELATED_NAME: Final = 250
