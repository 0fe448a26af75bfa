"""mypy plugin: the exact signature of each `defer` call, options included, and parameter types that can travel.

    [mypy]
    plugins = safedefer.mypy_plugin

It names classes of safedefer by string and imports none. What it accepts as a parameter's type is what
`safedefer.core.annotations` accepts when the program runs.
"""

from collections.abc import Callable

from mypy.plugin import FunctionContext, FunctionSigContext, MethodContext, MethodSigContext, Plugin
from mypy.types import FunctionLike, Type

from safedefer.mypy_plugin.parameters import check_decorated
from safedefer.mypy_plugin.signatures import function_of, with_options

API = "safedefer.api."


class SafedeferPlugin(Plugin):
    """What mypy asks for each function that is called."""

    def get_function_signature_hook(self, fullname: str) -> Callable[[FunctionSigContext], FunctionLike] | None:
        """Calls of `defer` and `adefer`: the deferred function's own parameters, and the options after them."""
        if fullname in (API + "defer", API + "adefer"):
            return lambda context: with_options(context, self.lookup_fully_qualified(API + "DeferOptions"))
        return None

    def get_method_signature_hook(self, fullname: str) -> Callable[[MethodSigContext], FunctionLike] | None:
        """Calls of a deferrable itself: mypy alone loses a generic or overloaded function's type here."""
        if fullname == API + "Deferrable.__call__":
            return lambda context: function_of(context.type) or context.default_signature
        return None

    def get_function_hook(self, fullname: str) -> Callable[[FunctionContext], Type] | None:
        """`@deferrable`: the types of the parameters."""
        return check_decorated if fullname == API + "deferrable" else None

    def get_method_hook(self, fullname: str) -> Callable[[MethodContext], Type] | None:
        """`@deferrable(...)`: likewise, where what it returned is called."""
        return check_decorated if fullname == API + "Registrar.__call__" else None


def plugin(version: str) -> type[Plugin]:  # noqa: ARG001  # mypy's interface.
    """What mypy loads."""
    return SafedeferPlugin
