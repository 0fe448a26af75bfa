"""The signature of one call: of `defer` the function's own parameters in place of P, then the options."""

from mypy.expandtype import expand_type
from mypy.nodes import ARG_NAMED_OPT, ARG_STAR2, CallExpr, SymbolTableNode, TypeInfo
from mypy.plugin import FunctionSigContext, MethodSigContext
from mypy.types import (
    CallableType,
    FunctionLike,
    Instance,
    Overloaded,
    Parameters,
    ParamSpecType,
    Type,
    UnionType,
    get_proper_type,
)

DEFERRABLE = "safedefer.api.Deferrable"


def function_of(typ: Type | None) -> FunctionLike | None:
    """F of a Deferrable[F]; of a union, the first's, with which the others are then compared."""
    proper = get_proper_type(typ)
    if isinstance(proper, UnionType):
        proper = get_proper_type(proper.items[0])
    if isinstance(proper, Instance) and proper.type.fullname == DEFERRABLE:
        target = get_proper_type(proper.args[0])
        return target if isinstance(target, FunctionLike) else None
    return None


def with_options(context: FunctionSigContext, position: int, symbol: SymbolTableNode | None) -> FunctionLike:
    """The signature of a call that takes a deferrable, or the default one where the function's type is not known.

    Args:
        position: Which argument the deferrable is.
        symbol: The options.
    """
    target = _argument(context, position)
    spec = context.default_signature.param_spec()
    if target is None or spec is None or symbol is None:
        return context.default_signature
    options = _items(symbol)
    variants = [_expanded(context, item.with_unpacked_kwargs(), spec, options) for item in target.items]
    return variants[0] if len(variants) == 1 else Overloaded(variants)


def called(context: MethodSigContext) -> FunctionLike:
    """The signature of a call of a deferrable itself: the function's."""
    return function_of(context.type) or context.default_signature


def deferred(context: MethodSigContext) -> FunctionLike:
    """The signature of a call of its `defer` or `adefer`: the function's, less what it returns."""
    target = function_of(context.type)
    if target is None:
        return context.default_signature
    result, name = context.default_signature.ret_type, context.default_signature.name
    variants = [item.copy_modified(ret_type=result, name=name) for item in target.items]
    return variants[0] if len(variants) == 1 else Overloaded(variants)


def _argument(context: FunctionSigContext, position: int) -> FunctionLike | None:
    if len(context.args) > position and len(context.args[position]) == 1:
        return function_of(context.api.get_expression_type(context.args[position][0]))
    return None


def _items(symbol: SymbolTableNode) -> dict[str, Type]:
    if not isinstance(symbol.node, TypeInfo) or symbol.node.typeddict_type is None:
        return {}
    # Sorted: from mypy's cache they come in another order, and messages would change between two runs.
    return dict(sorted(symbol.node.typeddict_type.items.items()))


def _expanded(
    context: FunctionSigContext, item: CallableType, spec: ParamSpecType, options: dict[str, Type]
) -> CallableType:
    signature = context.default_signature
    own = Parameters(item.arg_types, item.arg_kinds, item.arg_names, is_ellipsis_args=item.is_ellipsis_args)
    full = expand_type(signature, {spec.id: own})
    types, kinds, names = list(full.arg_types), list(full.arg_kinds), list(full.arg_names)
    if item.param_spec():
        # A wrapper passes its own **kwargs on: mypy would match them with every option.
        given = context.context.arg_names if isinstance(context.context, CallExpr) else []
        options = {name: typ for name, typ in options.items() if name in given}
    at = kinds.index(ARG_STAR2) if ARG_STAR2 in kinds else len(kinds)
    types[at:at], kinds[at:at], names[at:at] = options.values(), [ARG_NAMED_OPT] * len(options), options
    variables = [v for v in signature.variables if not isinstance(v, ParamSpecType)] + list(item.variables)
    return full.copy_modified(arg_types=types, arg_kinds=kinds, arg_names=names, variables=variables)
