"""Annotation -> shape, or an error that says which part of it cannot travel."""

import types
import typing
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import InitVar, fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from typing import (
    TYPE_CHECKING,
    Annotated,
    Final,
    Literal,
    NotRequired,
    Required,
    TypeAlias,
    TypeVar,
    Union,
    Unpack,
    final,
    get_args,
    get_origin,
)
from uuid import UUID

from safedefer.core.references import is_model_class
from safedefer.core.shapes import (
    ANY,
    AtomShape,
    DataclassShape,
    DictShape,
    EnumShape,
    ListShape,
    LiteralShape,
    ModelShape,
    NamedTupleShape,
    PlainShape,
    SetShape,
    Shape,
    TupleShape,
    TypedDictShape,
    UnionShape,
)

if TYPE_CHECKING:
    _Plain: TypeAlias = None | bool | int | float | str | bytes | Decimal | date | time | timedelta | UUID
    Serializable: TypeAlias = (
        _Plain | Sequence["Serializable"] | AbstractSet["Serializable"] | Mapping[str, "Serializable"]
    )
else:
    Serializable = typing.Any
"""Any value that can travel without its class being named: for a parameter that takes whatever it is given."""


@final
class AnnotationError(Exception):
    """An annotation, or the part of it named by the message, cannot travel."""


_NONE: Final = PlainShape("None", type(None))
_SIMPLE: Final[Mapping[object, Shape]] = {
    None: _NONE,
    type(None): _NONE,
    typing.Any: ANY,
    bool: PlainShape("bool", bool),
    int: PlainShape("int", int, bool),
    float: PlainShape("float", float, int, bool),
    str: PlainShape("str", str),
    bytes: PlainShape("bytes", bytes),
    datetime: AtomShape("datetime", datetime),
    date: AtomShape("date", date, datetime),
    time: AtomShape("time", time),
    timedelta: AtomShape("timedelta", timedelta),
    Decimal: AtomShape("Decimal", Decimal),
    UUID: AtomShape("UUID", UUID),
    list: ListShape(ANY),
    tuple: TupleShape([ANY], variadic=True),
    dict: DictShape(ANY),
    set: SetShape(set, ANY),
    frozenset: SetShape(frozenset, ANY),
    Sequence: UnionShape([ListShape(ANY), TupleShape([ANY], variadic=True)]),
    AbstractSet: UnionShape([SetShape(set, ANY), SetShape(frozenset, ANY)]),
    Mapping: DictShape(ANY),
}


def compile_annotation(annotation: object) -> Shape:
    """Make the shape of an annotation whose names are all resolved.

    Raises:
        AnnotationError: A part of it cannot travel.
        NameError: A dataclass names a type that is not defined yet.
    """
    try:
        return _Compiler().compile(annotation)
    except RecursionError:
        raise AnnotationError("a type that contains itself cannot travel, unless it is a dataclass") from None


def compile_keywords(annotation: object) -> TypedDictShape | None:
    """The keywords that `**name: Unpack[SomeTypedDict]` stands for, or None for any other annotation.

    Raises:
        AnnotationError: A part of it cannot travel.
        NameError: It names a type that is not defined yet.
    """
    if get_origin(annotation) is not Unpack:
        return None
    (target,) = get_args(annotation)
    return _Compiler().typed_dict(target) if typing.is_typeddict(target) else None


@final
class _Compiler:
    """One run: remembers the dataclasses it is inside of, for those that contain themselves."""

    def __init__(self) -> None:
        self._dataclasses: dict[type, DataclassShape] = {}

    def compile(self, annotation: object) -> Shape:
        try:
            simple = _SIMPLE.get(annotation)
        except TypeError:  # An annotation with an unhashable part, such as Annotated[int, []].
            simple = None
        if simple is not None:
            return simple
        if isinstance(annotation, str | typing.ForwardRef):
            raise AnnotationError(f"{annotation!r} is not resolved")
        if isinstance(annotation, TypeVar):
            return self._type_var(annotation)
        alias_value = _alias_value(annotation)
        if alias_value is not None:
            return self.compile(alias_value)
        if get_origin(annotation) is not None:
            return self._generic(annotation)
        if isinstance(annotation, type):
            return self._class(annotation)
        raise _cannot_travel(annotation)

    def _type_var(self, variable: TypeVar) -> Shape:
        if variable.__constraints__:
            return self._union(variable.__constraints__)
        if variable.__bound__ is None:
            raise AnnotationError(f"{variable} has no bound; bind it to a type that can travel")
        return self.compile(variable.__bound__)

    def _generic(self, annotation: object) -> Shape:
        origin, arguments = get_origin(annotation), get_args(annotation)
        if not arguments and origin in _SIMPLE:
            return _SIMPLE[origin]  # typing.List without what it is a list of.
        if origin is Union or origin is types.UnionType:
            return self._union(arguments)
        if origin is Literal:
            return _literal(arguments)
        if origin in (Annotated, Required, NotRequired, typing.Final):
            return self.compile(arguments[0])
        if origin is tuple:
            return self._tuple(arguments)
        if origin in (dict, Mapping, typing.Mapping):
            if arguments[0] is not str:
                raise AnnotationError(f"{_name(annotation)}: the keys of a dict that travels are str")
            return DictShape(self.compile(arguments[1]))
        if origin is list:
            return ListShape(self.compile(arguments[0]))
        if origin is Sequence:
            item = self.compile(arguments[0])
            return UnionShape([ListShape(item), TupleShape([item], variadic=True)])
        if origin is set:
            return SetShape(set, self.compile(arguments[0]))
        if origin is frozenset:
            return SetShape(frozenset, self.compile(arguments[0]))
        if origin is AbstractSet:
            item = self.compile(arguments[0])
            return UnionShape([SetShape(set, item), SetShape(frozenset, item)])
        raise _cannot_travel(annotation)

    def _tuple(self, arguments: tuple[object, ...]) -> Shape:
        if len(arguments) == 2 and arguments[1] is ...:  # noqa: PLR2004  # tuple[X, ...]
            return TupleShape([self.compile(arguments[0])], variadic=True)
        return TupleShape([self.compile(argument) for argument in arguments])

    def _union(self, arguments: Sequence[object]) -> Shape:
        options = [self.compile(argument) for argument in arguments]
        by_name: dict[str, type] = {}
        for option in options:
            if (
                isinstance(option, EnumShape | DataclassShape)
                and by_name.setdefault(option.cls.__name__, option.cls) is not option.cls
            ):
                raise AnnotationError(f"two classes named {option.cls.__name__} in one union cannot be told apart")
        return UnionShape(options)

    def _class(self, cls: type) -> Shape:
        if is_model_class(cls):
            return ModelShape(cls)
        if issubclass(cls, Enum):
            if issubclass(cls, Flag):
                raise AnnotationError(f"{cls.__qualname__}: members of a Flag have no fixed name; send their int value")
            return EnumShape(cls)
        if typing.is_typeddict(cls):
            return self.typed_dict(cls)
        if issubclass(cls, tuple) and hasattr(cls, "_fields"):
            hints = typing.get_type_hints(cls)
            names: tuple[str, ...] = getattr(cls, "_fields", ())
            return NamedTupleShape(cls, {name: self.compile(hints.get(name, typing.Any)) for name in names})
        if is_dataclass(cls):
            return self._dataclass(cls)
        raise _cannot_travel(cls)

    def typed_dict(self, cls: type) -> TypedDictShape:
        hints = typing.get_type_hints(cls, include_extras=True)
        # A string annotation hides NotRequired from `__required_keys__` on Python 3.11: look again.
        required: frozenset[str] = getattr(cls, "__required_keys__", frozenset())
        required -= {name for name, hint in hints.items() if get_origin(hint) is NotRequired}
        required |= {name for name, hint in hints.items() if get_origin(hint) is Required}
        return TypedDictShape(cls.__name__, {name: self.compile(hint) for name, hint in hints.items()}, required)

    def _dataclass(self, cls: type) -> Shape:
        known = self._dataclasses.get(cls)
        if known is not None:
            return known
        shape = self._dataclasses[cls] = DataclassShape(cls)
        hints = typing.get_type_hints(cls, include_extras=True)
        if any(isinstance(hint, InitVar) for hint in hints.values()):
            raise AnnotationError(f"{cls.__qualname__}: an InitVar is not kept, so that the dataclass cannot travel")
        shape.fields = {item.name: self.compile(hints[item.name]) for item in fields(cls) if item.init}
        return shape


def _alias_value(annotation: object) -> object | None:
    """What a `type X = ...` of Python 3.12 stands for."""
    kind = getattr(typing, "TypeAliasType", None)
    if kind is not None and isinstance(annotation, kind):
        return getattr(annotation, "__value__", None)
    return None


def _literal(values: tuple[object, ...]) -> Shape:
    if any(isinstance(value, Enum) for value in values):
        raise AnnotationError("a Literal of enum members cannot travel; annotate with the Enum class")
    return LiteralShape(values)


def _cannot_travel(annotation: object) -> AnnotationError:
    name = _name(annotation)
    if name.rpartition(".")[2].startswith("QuerySet"):
        return AnnotationError(f"{name} cannot travel; pass what it is filtered by and build it in the function")
    return AnnotationError(f"{name} cannot travel")


def _name(annotation: object) -> str:
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation)
