"""The functions that may run: the only thing a name from a task is ever looked up in."""

from collections.abc import Iterator
from typing import final

from safedefer.core.function import RegisteredFunction
from safedefer.core.names import FunctionName
from safedefer.core.ports import ReferenceResolver
from safedefer.errors import DuplicateFunctionError, InvalidFunctionError, Reason, UnknownFunctionError


@final
class Registry:
    """Function name and version -> registered function. Filled at start-up, then sealed."""

    __slots__ = ("_functions", "_sealed")

    def __init__(self) -> None:
        self._functions: dict[FunctionName, dict[int, RegisteredFunction]] = {}
        self._sealed = False

    @property
    def sealed(self) -> bool:
        """Whether start-up is over."""
        return self._sealed

    def register(self, function: RegisteredFunction) -> None:
        """Add a function under its name and its aliases.

        Raises:
            DuplicateFunctionError: Another function has that name and version; the message names both places.
            InvalidFunctionError: The registry is sealed.
        """
        if self._sealed:
            raise InvalidFunctionError(
                f"{function.name} at {function.where} was registered after start-up, when other processes may not know "
                'it; define or import it in a "tasks" module of an installed app, or add its module to MODULES in '
                "the SAFEDEFER setting"
            )
        for name in function.names:
            other = self._functions.get(name, {}).get(function.version)
            # A module that is loaded again brings the same functions again.
            if other is not None and other.where != function.where:
                raise DuplicateFunctionError(
                    f"two functions are registered as {name} version {function.version}: "
                    f"{other.where} and {function.where}; give one of them another name"
                )
        for name in function.names:
            self._functions.setdefault(name, {})[function.version] = function

    def seal(self, resolver: ReferenceResolver) -> None:
        """End registration, and read every annotation that named something not defined yet.

        Raises:
            InvalidFunctionError: A parameter of a function cannot travel.
        """
        for function in self:
            function.resolve(resolver)
        self._sealed = True

    def find(self, name: FunctionName, version: int) -> RegisteredFunction:
        """The function of verified claims.

        Raises:
            UnknownFunctionError: `FUNCTION_UNKNOWN` or `FUNCTION_VERSION_UNKNOWN`.
        """
        versions = self._functions.get(name)
        if versions is None:
            raise UnknownFunctionError(Reason.FUNCTION_UNKNOWN, name)
        function = versions.get(version)
        if function is None:
            raise UnknownFunctionError(Reason.FUNCTION_VERSION_UNKNOWN, f"{name} version {version}")
        return function

    def __iter__(self) -> Iterator[RegisteredFunction]:
        seen: dict[int, RegisteredFunction] = {}
        for versions in self._functions.values():
            for function in versions.values():
                seen[id(function)] = function
        return iter(seen.values())
