"""The parameters of a function below `@deferrable`: which of them are errors."""

from typing import Final

from mypy.errorcodes import ErrorCode
from mypy.messages import format_type
from mypy.nodes import FuncDef, LambdaExpr
from mypy.options import Options
from mypy.plugin import FunctionContext, MethodContext
from mypy.types import AnyType, CallableType, FunctionLike, Type, TypeOfAny, get_proper_type

from safedefer.mypy_plugin.annotations import can_travel

CANNOT_TRAVEL: Final = ErrorCode("safedefer", "A deferrable function's parameter cannot travel", "safedefer")


def check_decorated(context: FunctionContext | MethodContext) -> Type:
    """Report every parameter of a decorated function that cannot travel."""
    if context.args and context.args[0]:
        if isinstance(context.args[0][0], LambdaExpr):
            context.api.fail("A lambda cannot be deferred", context.context, code=CANNOT_TRAVEL)
            return context.default_return_type
        function = get_proper_type(context.arg_types[0][0])
        if isinstance(function, FunctionLike):
            for item in function.items:
                for message in _problems(item, context.api.options):
                    context.api.fail(message, context.context, code=CANNOT_TRAVEL)
    return context.default_return_type


def _problems(function: CallableType, options: Options) -> list[str]:
    found: list[str] = []
    for name, typ in zip(_names(function), function.arg_types, strict=True):
        parameter = f'Parameter "{name}" of a deferrable function'
        if name.startswith("_"):
            found.append(f"{parameter}: names with an underscore in front are for options")
        elif _is_unannotated(typ):
            found.append(f"{parameter} has no annotation")
        elif not can_travel(typ):
            found.append(f"{parameter} cannot travel: {format_type(typ, options)}")
    return found


def _names(function: CallableType) -> list[str]:
    """The parameters' names; mypy's type leaves out those of positional-only ones, its definition does not."""
    definition = function.definition
    if isinstance(definition, FuncDef) and len(definition.arguments) == len(function.arg_names):
        return [argument.variable.name for argument in definition.arguments]
    return [name or str(position) for position, name in enumerate(function.arg_names, 1)]


def _is_unannotated(typ: Type) -> bool:
    proper = get_proper_type(typ)
    return isinstance(proper, AnyType) and proper.type_of_any == TypeOfAny.unannotated
