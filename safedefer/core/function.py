"""A function that has been registered: its fixed name, its parameters and the options of its tasks."""

import inspect
from collections.abc import Callable
from typing import Final, final

from safedefer.core.claims import FunctionRef
from safedefer.core.names import FunctionName, parse_function_name
from safedefer.core.options import Missing, TaskOptions
from safedefer.core.parameters import Parameters, read_parameters
from safedefer.core.ports import ReferenceResolver
from safedefer.core.shapes import AnyShape, ListShape, ModelShape, walk
from safedefer.errors import InvalidFunctionError

_MISSING: Final = ("drop", "retry", "fail")
_MAX_VERSION: Final = 1_000_000


@final
class RegisteredFunction:
    """One function under one name and version.

    Attributes:
        function: The plain function.
        name: Its function name: the one it has on the wire, not an import path.
        version: Its major version.
        aliases: Names it had before; tasks under them still run.
        options: What its tasks have unless a call says otherwise.
        missing: What becomes of a task when a row that it refers to is gone.
        ledger: Whether a task that was executed is kept from being executed again.
        batch: Whether an iteration calls it for several rows at once, with a list of them.
        where: File and line, for messages.
    Raises:
        InvalidFunctionError: It is not a module-level function or static method, or a parameter cannot travel.
        InvalidNameError: The name, or an alias, cannot be one.
    """

    __slots__ = (
        "_parameters",
        "_ref",
        "aliases",
        "batch",
        "function",
        "ledger",
        "missing",
        "name",
        "options",
        "version",
        "where",
    )

    def __init__(
        self,
        function: Callable[..., object],
        *,
        name: str | None = None,
        version: int = 1,
        aliases: tuple[str, ...] = (),
        options: TaskOptions | None = None,
        missing: Missing = "drop",
        ledger: bool = True,
        batch: bool = False,
    ) -> None:
        check_function(function)
        if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= _MAX_VERSION:
            raise InvalidFunctionError(f"{_path(function)}: version is an int from 1 to {_MAX_VERSION}")
        if missing not in _MISSING:
            raise InvalidFunctionError(f"{_path(function)}: missing is one of {', '.join(_MISSING)}")
        self.function: Callable[..., object] = function
        self.name: FunctionName = parse_function_name(_path(function) if name is None else name)
        self.version: int = version
        self.aliases: tuple[FunctionName, ...] = tuple(parse_function_name(alias) for alias in aliases)
        self.options: TaskOptions = TaskOptions() if options is None else options
        self.missing = missing
        self.ledger: bool = ledger
        self.batch: bool = batch
        code = inspect.unwrap(function).__code__
        self.where: str = f"{code.co_filename}:{code.co_firstlineno}"
        self._parameters: Parameters | None = None
        self._ref: FunctionRef | None = None
        try:
            self._parameters = read_parameters(function)
        except NameError:
            return  # An annotation names what is defined further down; `resolve` reads it again.
        self._check_batch(self._parameters)

    @property
    def names(self) -> tuple[FunctionName, ...]:
        """The function name and its aliases."""
        return (self.name, *self.aliases)

    @property
    def parameters(self) -> Parameters:
        """Its parameters.

        Raises:
            InvalidFunctionError: An annotation names something that does not exist yet.
        """
        if self._parameters is None:
            self._parameters = self._read_parameters()
        return self._parameters

    @property
    def ref(self) -> FunctionRef:
        """What the claims say of it."""
        if self._ref is None:
            fingerprint = self.parameters.fingerprint(self.name, self.version)
            self._ref = FunctionRef(name=self.name, version=self.version, fingerprint=fingerprint)
        return self._ref

    def resolve(self, resolver: ReferenceResolver) -> None:
        """Read what could not be read at the decorator, and have the models confirmed.

        Raises:
            InvalidFunctionError: An annotation cannot be read, or names a class that only looks like a model.
        """
        self._check_batch(self.parameters)
        for parameter in self.parameters.all:
            for shape in walk(parameter.shape):
                if isinstance(shape, ModelShape) and not resolver.is_model(shape.cls):
                    raise InvalidFunctionError(
                        f"{_path(self.function)}: parameter {parameter.name!r}: {shape.cls.__qualname__} is no model"
                    )

    def _check_batch(self, parameters: Parameters) -> None:
        if not self.batch:
            return
        in_order = [parameter for parameter in parameters.all if parameter.kind in {"positional", "any"}]
        if not in_order or not isinstance(in_order[0].shape, ListShape | AnyShape):
            raise InvalidFunctionError(
                f"{_path(self.function)}: with batch=True the first parameter takes a list of rows: list[TheModel]"
            )

    def _read_parameters(self) -> Parameters:
        try:
            return read_parameters(self.function)
        except NameError as error:
            raise InvalidFunctionError(
                f"{_path(self.function)}: an annotation names {error.name!r}, which its module does not have; "
                "what is imported under TYPE_CHECKING cannot be read when the program runs"
            ) from None

    def __repr__(self) -> str:
        return f"<RegisteredFunction {self.name} v{self.version}>"


def check_function(function: object) -> None:
    """Refuse what cannot be found again under a fixed name.

    Raises:
        InvalidFunctionError: A method, a lambda, a nested function, or no function at all.
    """
    if not inspect.isfunction(function):
        raise InvalidFunctionError(f"{function!r} is not a function; @deferrable takes a module-level function")
    path = _path(function)
    if function.__name__ == "<lambda>":
        raise InvalidFunctionError(f"{path}: a lambda cannot be deferred; write a module-level function")
    if "<locals>" in function.__qualname__:
        raise InvalidFunctionError(
            f"{path}: a function inside a function cannot be deferred; move it to the module and pass what it uses"
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidFunctionError(f"{path}: a generator cannot be deferred; nothing would run its body")
    first = next(iter(inspect.signature(function).parameters), None)
    if "." in function.__qualname__ and first in ("self", "cls"):
        raise InvalidFunctionError(
            f"{path}: a method cannot be deferred; write a function that takes the instance, "
            "or put @staticmethod over @deferrable"
        )


def _path(function: Callable[..., object]) -> str:
    return f"{function.__module__}.{function.__qualname__}"
