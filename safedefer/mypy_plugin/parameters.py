"""Which parameter types can travel: the rule of `safedefer.core.annotations`, on mypy's types."""

from mypy.errorcodes import ErrorCode
from mypy.messages import format_type
from mypy.nodes import LambdaExpr, TypeInfo, Var
from mypy.plugin import FunctionContext, MethodContext
from mypy.typeops import erase_to_union_or_bound
from mypy.types import (
    AnyType,
    CallableType,
    FunctionLike,
    Instance,
    LiteralType,
    NoneType,
    ParamSpecType,
    TupleType,
    Type,
    TypedDictType,
    TypeVarType,
    UnionType,
    UnpackType,
    get_proper_type,
)

CANNOT_TRAVEL = ErrorCode("safedefer", "A deferrable function's parameter cannot travel", "safedefer")

_SIMPLE = frozenset(
    {
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
        "_decimal.Decimal",
        "uuid.UUID",
    }
)
_OF_ITEMS = frozenset(
    {
        "builtins.frozenset",
        "builtins.list",
        "builtins.set",
        "builtins.tuple",
        "typing.AbstractSet",
        "typing.Sequence",
    }
)
_OF_KEYS_AND_VALUES = frozenset({"builtins.dict", "typing.Mapping"})


def check_decorated(context: FunctionContext | MethodContext) -> Type:
    """Report every parameter of a decorated function that cannot travel."""
    if context.args and context.args[0]:
        if isinstance(context.args[0][0], LambdaExpr):
            context.api.fail("A lambda cannot be deferred", context.context, code=CANNOT_TRAVEL)
            return context.default_return_type
        function = get_proper_type(context.arg_types[0][0])
        if isinstance(function, FunctionLike):
            for item in function.items:
                _check_parameters(context, item)
    return context.default_return_type


def _check_parameters(context: FunctionContext | MethodContext, function: CallableType) -> None:
    for name, typ in zip(function.arg_names, function.arg_types, strict=True):
        if name and name.startswith("_"):
            message = f'Parameter "{name}" of a deferrable function: names with an underscore in front are for options'
            context.api.fail(message, context.context, code=CANNOT_TRAVEL)
        elif not can_travel(typ, frozenset()):
            shown = format_type(typ, context.api.options)
            message = f'Parameter "{name}" of a deferrable function cannot travel: {shown}'
            context.api.fail(message, context.context, code=CANNOT_TRAVEL)


def can_travel(typ: Type, inside: frozenset[str]) -> bool:
    """Whether values of a type can travel.

    Args:
        inside: The dataclasses and recursive aliases that are being looked into.
    """
    match get_proper_type(typ):
        case AnyType() | NoneType() | ParamSpecType():
            return True
        case LiteralType() as literal:
            return literal.fallback.type.fullname in _SIMPLE
        case UnionType(items=items):
            return all(can_travel(item, inside) for item in items)
        case TypedDictType() as typed_dict:
            return all(can_travel(item, inside) for item in typed_dict.items.values())
        case TupleType(items=items):
            return all(can_travel(item, inside) for item in items)
        case UnpackType(type=packed):
            return can_travel(packed, inside)
        case TypeVarType() as variable:
            bound = erase_to_union_or_bound(variable)
            return not _is_object(bound) and can_travel(bound, inside)
        case Instance() as instance:
            return _instance_can_travel(instance, inside)
        case _:
            return False


def _instance_can_travel(instance: Instance, inside: frozenset[str]) -> bool:
    info = instance.type
    if info.fullname in _SIMPLE:
        return True
    marker = repr(instance)
    if marker in inside:
        return True  # A recursive alias or dataclass: the rest of it decides.
    inside |= {marker}
    if info.fullname in _OF_ITEMS:
        return all(can_travel(argument, inside) for argument in instance.args)
    if info.fullname in _OF_KEYS_AND_VALUES:
        key, value = instance.args
        return _is_str(key) and can_travel(value, inside)
    if info.is_enum:
        return not info.has_base("enum.Flag")
    if info.has_base("django.db.models.base.Model"):
        return info.fullname != "django.db.models.base.Model"
    if "dataclass" in info.metadata:
        return all(can_travel(typ, inside) for typ in _field_types(info))
    return False


def _field_types(info: TypeInfo) -> list[Type]:
    fields = info.metadata["dataclass"]["attributes"]
    found: list[Type] = []
    for field in fields:
        node = info.get(field["name"])
        if field["is_in_init"] and node is not None and isinstance(node.node, Var) and node.node.type is not None:
            found.append(node.node.type)
    return found


def _is_str(typ: Type) -> bool:
    proper = get_proper_type(typ)
    return isinstance(proper, Instance) and proper.type.fullname == "builtins.str"


def _is_object(typ: Type) -> bool:
    proper = get_proper_type(typ)
    return isinstance(proper, Instance) and proper.type.fullname == "builtins.object"
