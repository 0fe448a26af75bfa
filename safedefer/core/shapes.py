"""What a parameter accepts: one class per kind of annotation, each able to check a value and to decode a node.

A shape checks values in `defer` (`fits`, and `explain` for the message) and directs decoding in the handler
(`decode`): a reference, an enum member or a dataclass comes into being only where a shape names its class.
`safedefer.core.annotations` makes shapes from annotations, `safedefer.core.codec` uses them.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from enum import Enum
from itertools import pairwise
from math import isfinite
from typing import Final, NamedTuple, final

from msgpack import ExtType

from safedefer.core.atoms import ATOM_CODES, ATOM_TYPES, load_atom
from safedefer.core.limits import MAX_DEPTH, MAX_NODES, MAX_RELATED
from safedefer.core.references import ModelReference
from safedefer.core.wire import ExtCode, WireError, pack, unpack

_NO_TYPES: Final[frozenset[type]] = frozenset()
_STR_ONLY: Final[frozenset[type]] = frozenset({str})
_MAX_IN_VAIN: Final = 4 * MAX_NODES
"""Options of unions inside of unions could otherwise be tried without end."""
_MAX_KEY_TEXT: Final = 40


class Misfit(NamedTuple):
    """Where a value does not fit, and what was expected there."""

    path: str
    problem: str


@final
class ShapeError(Exception):
    """A node does not have the shape that the annotation asks for. Says nothing about the node."""


@final
class Reader:
    """One decoding: counts what it has seen, collects references, and puts rows in their place.

    Args:
        allows: Whether a model's label stands for the class or a subclass of it.
        rows: The rows found, or None for the first pass, which checks and collects and builds no object.
    """

    __slots__ = ("_in_vain", "_nodes", "allows", "references", "rows")

    def __init__(
        self, allows: Callable[[str, type], bool], rows: Mapping[ModelReference, object] | None = None
    ) -> None:
        self.allows: Callable[[str, type], bool] = allows
        self.rows: Mapping[ModelReference, object] | None = rows
        self.references: dict[ModelReference, None] = {}
        self._nodes = 0
        self._in_vain = 0

    @property
    def nodes(self) -> int:
        """How many nodes have been counted."""
        return self._nodes

    def step_back(self, nodes: int) -> None:
        """Take back what was counted since, in an option of a union that did not fit.

        Raises:
            WireError: So much has been read in vain that the body was made for it.
        """
        self._in_vain += self._nodes - nodes
        self._nodes = nodes
        if self._in_vain > _MAX_IN_VAIN:
            raise WireError("too many values that fit no option of a union", limit=True)

    def enter(self, depth: int, count: int = 1) -> None:
        """Count nodes and check the depth they stand at.

        Raises:
            WireError: Past a bound.
        """
        self._nodes += count
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            raise WireError("too many or too deeply nested values", limit=True)


class Shape(ABC):
    """What an annotation accepts."""

    plain: frozenset[type] = _NO_TYPES
    """Exact types that fit and travel as they are, so that a container of them needs no walk; may be empty."""

    @abstractmethod
    def render(self) -> str:
        """Our own text of the annotation: what the schema fingerprint is made of."""

    @abstractmethod
    def fits(self, value: object, depth: int) -> bool:
        """Whether a value is of this shape."""

    @abstractmethod
    def decode(self, node: object, reader: Reader, depth: int) -> object:
        """Turn an unpacked node into a value.

        Raises:
            ShapeError: The node is not of this shape.
            WireError: An ext value is broken, or a bound was passed.
        """

    def explain(self, value: object, path: str, depth: int) -> Misfit:
        """Say where a value that does not fit goes wrong. Only called after `fits` was False."""
        if depth > MAX_DEPTH:
            return Misfit(path, f"nested deeper than {MAX_DEPTH} levels")
        return Misfit(path, f"expected {self.render()}, got {type(value).__qualname__}")

    def children(self) -> Iterator["Shape"]:
        """The shapes directly inside this one."""
        return iter(())


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
        value = load_atom(*_ext(node, *ATOM_CODES))
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
            return kind is dict and _STR_ONLY.issuperset(map(type, value)) and _items_fit(value.values(), self, depth)
        if isinstance(value, list | tuple | set | frozenset):
            return kind in _ANY_CONTAINERS and _items_fit(value, self, depth)
        return False

    def explain(self, value: object, path: str, depth: int) -> Misfit:
        if depth <= MAX_DEPTH:
            if type(value) is dict:
                return _explain_dict(value, lambda _: self, path, depth)
            if type(value) in _ANY_CONTAINERS and isinstance(value, list | tuple | set | frozenset):
                return _explain_items(value, lambda _: self, path, depth)
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
        code, _ = _ext(node, *_ANY_EXT)
        return _ANY_EXT[code].decode(node, reader, depth)


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
            and _items_fit(value, self.item, depth)
        )

    def explain(self, value: object, path: str, depth: int) -> Misfit:
        if isinstance(value, list) and type(value) is list and depth <= MAX_DEPTH:
            return _explain_items(value, lambda _: self.item, path, depth)
        return super().explain(value, path, depth)

    def decode(self, node: object, reader: Reader, depth: int) -> object:
        reader.enter(depth)
        if not isinstance(node, list):
            raise ShapeError
        return _decode_items(node, self.item, reader, depth)

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
            return _explain_items(value, self._at, path, depth)
        return super().explain(value, path, depth)

    def decode(self, node: object, reader: Reader, depth: int) -> object:
        reader.enter(depth)
        parts = _ext_list(node, ExtCode.TUPLE)
        if self.variadic:
            return tuple(_decode_items(parts, self.items[0], reader, depth))
        if len(parts) != len(self.items):
            raise ShapeError
        return tuple(item.decode(part, reader, depth + 1) for item, part in zip(self.items, parts, strict=True))

    def children(self) -> Iterator[Shape]:
        return iter(self.items)


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
            return _explain_items(value, lambda index: shapes[index], path, depth)
        return super().explain(value, path, depth)

    def decode(self, node: object, reader: Reader, depth: int) -> object:
        reader.enter(depth)
        parts = _ext_list(node, ExtCode.TUPLE)
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
            and _items_fit(value, self.item, depth)
        )

    def explain(self, value: object, path: str, depth: int) -> Misfit:
        if isinstance(value, set | frozenset) and type(value) is self.cls and depth <= MAX_DEPTH:
            return _explain_items(value, lambda _: self.item, path, depth)
        return super().explain(value, path, depth)

    def decode(self, node: object, reader: Reader, depth: int) -> object:
        reader.enter(depth)
        parts = _ext_list(node, self.code)
        encoded = [pack(part) for part in parts]
        if any(left >= right for left, right in pairwise(encoded)):
            raise WireError("a set out of order")
        values = _decode_items(parts, self.item, reader, depth)
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
            and _STR_ONLY.issuperset(map(type, value))
            and _items_fit(value.values(), self.item, depth)
        )

    def explain(self, value: object, path: str, depth: int) -> Misfit:
        if isinstance(value, dict) and type(value) is dict and depth <= MAX_DEPTH:
            return _explain_dict(value, lambda _: self.item, path, depth)
        return super().explain(value, path, depth)

    def decode(self, node: object, reader: Reader, depth: int) -> object:
        reader.enter(depth)
        if not isinstance(node, dict):
            raise ShapeError
        reader.enter(depth, len(node))
        return dict(zip(node, _decode_items(node.values(), self.item, reader, depth), strict=True))

    def children(self) -> Iterator[Shape]:
        yield self.item


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
            and _STR_ONLY.issuperset(map(type, value))
            and self._has_right_keys(value)
            and all(self.fields[key].fits(part, depth + 1) for key, part in value.items())
        )

    def explain(self, value: object, path: str, depth: int) -> Misfit:
        if isinstance(value, dict) and type(value) is dict and depth <= MAX_DEPTH:
            if not self._has_right_keys(value):
                return Misfit(path, f"expected the keys of {self.name}")
            return _explain_dict(value, self.fields.__getitem__, path, depth)
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
        name, member_name = _ext_pair(node, ExtCode.ENUM)
        if name != self.cls.__name__ or not isinstance(member_name, str):
            raise ShapeError
        member = self.cls.__members__.get(member_name)
        if member is None or member._name_ != member_name:  # An alias is not the name that the member travels by.
            raise ShapeError
        return member


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
        name, parts = _ext_pair(node, ExtCode.DATACLASS)
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
        parts = _ext_list(node, ExtCode.MODEL)
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


class _Absent:
    """Stands for a field that an instance does not have; fits no shape."""


_ABSENT: Final = _Absent()
_REFERENCE_PARTS: Final = 3
_MAX_RELATED_NAME: Final = 250
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


def key_path(path: str, key: str) -> str:
    """The path of a dict's value, with a bound on how much of the key it shows."""
    return f"{path}[{json.dumps(key if len(key) <= _MAX_KEY_TEXT else key[:_MAX_KEY_TEXT] + '...')}]"


def walk(shape: Shape) -> Iterator[Shape]:
    """The shape and every shape inside it, each once; a dataclass may contain itself."""
    seen: set[int] = set()
    todo = [shape]
    while todo:
        current = todo.pop()
        if id(current) not in seen:
            seen.add(id(current))
            yield current
            todo.extend(current.children())


def _ext(node: object, *codes: int) -> tuple[int, bytes]:
    if not isinstance(node, ExtType) or node.code not in codes:
        raise ShapeError
    return node.code, node.data


def _ext_list(node: object, code: ExtCode, *, length: int | None = None) -> list[object]:
    tree = unpack(_ext(node, code)[1])
    if not isinstance(tree, list) or (length is not None and len(tree) != length):
        raise WireError("an ext value with the wrong parts")
    return tree


def _ext_pair(node: object, code: ExtCode) -> tuple[object, object]:
    first, second = _ext_list(node, code, length=2)
    return first, second


def _items_fit(parts: Collection[object], item: Shape, depth: int) -> bool:
    if item.plain.issuperset(map(type, parts)):
        return depth < MAX_DEPTH or not parts
    return all(item.fits(part, depth + 1) for part in parts)


def _decode_items(parts: Collection[object], item: Shape, reader: Reader, depth: int) -> list[object]:
    if item.plain.issuperset(map(type, parts)):
        reader.enter(depth + 1 if parts else depth, len(parts))
        return list(parts)
    return [item.decode(part, reader, depth + 1) for part in parts]


def _explain_items(
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


def _explain_dict(parts: dict[object, object], shape_at: Callable[[str], Shape], path: str, depth: int) -> Misfit:
    for key, part in parts.items():
        if not isinstance(key, str) or type(key) is not str:
            return Misfit(path, f"a dict key of type {type(key).__qualname__}; keys are str")
        shape = shape_at(key)
        if not shape.fits(part, depth + 1):
            return shape.explain(part, key_path(path, key), depth + 1)
    return Misfit(path, "changed while it was looked at")
