"""Which types can travel: the rule of `safedefer.core.annotations`, on mypy's types."""

from collections.abc import Iterable
from typing import Any, Final, final

from mypy.nodes import TypeInfo, Var
from mypy.typeops import erase_to_union_or_bound
from mypy.types import (
    AnyType,
    Instance,
    LiteralType,
    NoneType,
    ParamSpecType,
    TupleType,
    Type,
    TypeAliasType,
    TypedDictType,
    TypeOfAny,
    TypeVarType,
    UnionType,
    UnpackType,
    flatten_nested_unions,
    get_proper_type,
)

_SERIALIZABLE: Final = "safedefer.core.annotations.Serializable"
_MODEL: Final = "django.db.models.base.Model"
_SIMPLE: Final = frozenset(
    {
        "_decimal.Decimal",
        "builtins.bool",
        "builtins.bytes",
        "builtins.float",
        "builtins.int",
        "builtins.str",
        "datetime.date",
        "datetime.datetime",
        "datetime.time",
        "datetime.timedelta",
        "decimal.Decimal",
        "uuid.UUID",
    }
)
_OF_ITEMS: Final = frozenset(
    {
        "builtins.frozenset",
        "builtins.list",
        "builtins.set",
        "builtins.tuple",
        "typing.AbstractSet",
        "typing.Sequence",
    }
)
_OF_KEYS_AND_VALUES: Final = frozenset({"builtins.dict", "typing.Mapping"})


def can_travel(annotation: Type) -> bool:
    """Whether the decorator accepts a parameter of this type when the program runs."""
    return _Reader().accepts(annotation)


@final
class _Reader:
    """One annotation: remembers the classes it has met, for those that contain themselves.

    A dataclass that was met before is accepted, since every other part decides. Anything else may contain itself only
    by way of a dataclass: the run-time rule has nothing to end the walk with.
    """

    def __init__(self) -> None:
        self._dataclasses: set[str] = set()
        self._open: dict[str, int] = {}

    def accepts(self, typ: Type) -> bool:
        if isinstance(typ, TypeAliasType) and typ.alias is not None and typ.is_recursive:
            name = typ.alias.fullname
            return name == _SERIALIZABLE or self._all_inside(f"alias {name}", [get_proper_type(typ)])
        match get_proper_type(typ):
            case AnyType() | NoneType() | ParamSpecType():
                return True
            case LiteralType() as literal:
                return literal.fallback.type.fullname in _SIMPLE
            case UnionType(items=items):
                return self._union(items)
            case TypedDictType() as typed_dict:
                return self._typed_dict(typed_dict)
            case TupleType() as row:
                return self._tuple(row)
            case UnpackType(type=packed):
                # Of keywords; an unpacked tuple has no fixed places.
                return isinstance(get_proper_type(packed), TypedDictType) and self.accepts(packed)
            case TypeVarType() as variable:
                # Without a bound it is `object`, which cannot travel.
                return self.accepts(erase_to_union_or_bound(variable))
            case Instance() as instance:
                return self._instance(instance)
            case _:
                return False

    def _all(self, types: Iterable[Type]) -> bool:
        return all(self.accepts(typ) for typ in types)

    def _all_inside(self, name: str, types: Iterable[Type]) -> bool:
        """Look into a type that may contain itself; again only if a dataclass has been met since."""
        before = self._open.get(name)
        if before == len(self._dataclasses):
            return False
        self._open[name] = len(self._dataclasses)
        accepted = self._all(types)
        if before is None:
            del self._open[name]
        else:
            self._open[name] = before
        return accepted

    def _union(self, items: list[Type]) -> bool:
        flat = [get_proper_type(item) for item in flatten_nested_unions(items)]
        by_name: dict[str, TypeInfo] = {}
        for item in flat:
            if (
                isinstance(item, Instance)
                and (item.type.is_enum or _dataclass_fields(item.type) is not None)
                and by_name.setdefault(item.type.name, item.type) is not item.type
            ):
                return False  # Two classes of one name cannot be told apart on the wire.
        return self._all(items)

    def _typed_dict(self, typed_dict: TypedDictType) -> bool:
        info = typed_dict.fallback.type
        own = info.typeddict_type or typed_dict
        return not _has_arguments(typed_dict.fallback) and self._all_inside(info.fullname, own.items.values())

    def _tuple(self, row: TupleType) -> bool:
        info = row.partial_fallback.type
        if info.fullname == "builtins.tuple":
            return self._all(row.items)
        if not any(base.is_named_tuple for base in info.mro) or _has_arguments(row.partial_fallback):
            return False
        return self._all_inside(info.fullname, (info.tuple_type or row).items)

    def _instance(self, instance: Instance) -> bool:
        info = instance.type
        if info.fullname in _SIMPLE:
            return True
        if info.fullname in _OF_ITEMS:
            return self._all(instance.args)
        if info.fullname in _OF_KEYS_AND_VALUES:
            key, value = instance.args
            return (_is_str(key) or not _has_arguments(instance)) and self.accepts(value)
        if info.is_enum:
            return not info.has_base("enum.Flag")
        if info.has_base(_MODEL):
            return info.fullname != _MODEL
        return self._dataclass(instance)

    def _dataclass(self, instance: Instance) -> bool:
        info = instance.type
        fields = _dataclass_fields(info)
        if fields is None or _has_arguments(instance) or any(field["is_init_var"] for field in fields):
            return False
        if info.fullname in self._dataclasses:
            return True
        self._dataclasses.add(info.fullname)
        return self._all(_types_of(info, fields))


def _dataclass_fields(info: TypeInfo) -> list[dict[str, Any]] | None:
    """The fields of a dataclass as mypy's own plugin notes them, or of the one that a plain class inherits from."""
    for base in info.mro:
        if "dataclass" in base.metadata:
            fields: list[dict[str, Any]] = base.metadata["dataclass"]["attributes"]
            return fields
    return None


def _types_of(info: TypeInfo, fields: list[dict[str, Any]]) -> list[Type]:
    nodes = [info.get(field["name"]) for field in fields if field["is_in_init"]]
    types = [node.node.type for node in nodes if node is not None and isinstance(node.node, Var)]
    return [typ for typ in types if typ is not None and not _is_keyword_only_mark(typ)]


def _has_arguments(instance: Instance) -> bool:
    """Whether type arguments were written; for a bare `dict` or generic class mypy puts an Any of another kind."""
    return not all(
        isinstance(argument, AnyType) and argument.type_of_any != TypeOfAny.explicit
        for argument in (get_proper_type(argument) for argument in instance.args)
    )


def _is_str(typ: Type) -> bool:
    proper = get_proper_type(typ)
    return isinstance(proper, Instance) and proper.type.fullname == "builtins.str"


def _is_keyword_only_mark(typ: Type) -> bool:
    # `_: KW_ONLY` among a dataclass's fields is not one of them.
    proper = get_proper_type(typ)
    return isinstance(proper, Instance) and proper.type.fullname == "dataclasses.KW_ONLY"
