"""mypy plugin: the exact signature of each `defer` call, options included, and parameter types that can travel.

    [mypy]
    plugins = safedefer.mypy_plugin

It names classes of safedefer by string and imports none. What it accepts as a parameter's type is what
`safedefer.core.annotations` accepts when the program runs.
"""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Final

from mypy.plugin import (
    FunctionContext,
    FunctionSigContext,
    MethodContext,
    MethodSigContext,
    Plugin,
    ReportConfigContext,
)
from mypy.types import FunctionLike, Type

from safedefer.mypy_plugin.parameters import check_decorated
from safedefer.mypy_plugin.signatures import called, deferred, with_options

API: Final = "safedefer.api."
ITERATION: Final = "safedefer.api_iteration."
_LIKE_THE_FUNCTION: Final = tuple(f"{API}Deferrable.{name}" for name in ("defer", "adefer", "bind"))


def _digest() -> str:
    digest = sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


_DIGEST: Final = _digest()


class SafedeferPlugin(Plugin):
    """What mypy asks for each function that is called."""

    def report_config_data(self, ctx: ReportConfigContext) -> str:  # noqa: ARG002  # The same for every module.
        """What mypy keeps with each module in its cache: checked by another version of us, it is checked again.

        mypy itself looks at this file alone, and only for the modules of one run.
        """
        return _DIGEST

    def get_function_signature_hook(self, fullname: str) -> Callable[[FunctionSigContext], FunctionLike] | None:
        """Calls of `defer` and the like: the deferred function's own parameters, and the options after them."""
        if fullname in (API + "defer", API + "adefer"):
            return lambda context: with_options(context, 0, self.lookup_fully_qualified(API + "DeferOptions"))
        if fullname == ITERATION + "defer_iteration_with_finalize":
            # Its finalize has the parameters that the callback has behind the row.
            options = ITERATION + "IterationOptions"
            return lambda context: with_options(context, 2, self.lookup_fully_qualified(options))
        return None

    def get_method_signature_hook(self, fullname: str) -> Callable[[MethodSigContext], FunctionLike] | None:
        """Calls of a deferrable and of its methods: mypy alone loses a generic or overloaded function's type there."""
        if fullname == API + "Deferrable.__call__":
            return called
        return deferred if fullname in _LIKE_THE_FUNCTION else None

    def get_function_hook(self, fullname: str) -> Callable[[FunctionContext], Type] | None:
        """`@deferrable`: the types of the parameters."""
        return check_decorated if fullname == API + "deferrable" else None

    def get_method_hook(self, fullname: str) -> Callable[[MethodContext], Type] | None:
        """`@deferrable(...)`: likewise, where what it returned is called."""
        return check_decorated if fullname == API + "Registrar.__call__" else None


def plugin(version: str) -> type[Plugin]:  # noqa: ARG001  # mypy's interface.
    """What mypy loads."""
    return SafedeferPlugin
