"""The parameters of a registered function: their shapes, their fingerprint, and whether a call fits them."""

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, final

from safedefer.core.annotations import AnnotationError, compile_annotation, compile_keywords
from safedefer.core.pae import encode_pieces
from safedefer.core.shapes import ANY, DataclassShape, ModelShape, Shape, walk
from safedefer.errors import InvalidCallError, InvalidFunctionError, UnencodableArgumentError

FINGERPRINT_BYTES: Final = 16
_KINDS: Final[Mapping[inspect._ParameterKind, str]] = {  # The enum's class has no public name.
    inspect.Parameter.POSITIONAL_ONLY: "positional",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "any",
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.KEYWORD_ONLY: "keyword",
    inspect.Parameter.VAR_KEYWORD: "**",
}


@final
@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter, its kind in our own word, and what it accepts."""

    name: str
    kind: str
    shape: Shape
    required: bool


@final
class Parameters:
    """All parameters of one function.

    `place` puts arguments to parameters as Python would, without building anything: the common call takes no longer
    than a few dict look-ups.
    """

    __slots__ = (
        "_by_keyword",
        "_in_order",
        "_indexes",
        "_quick",
        "_required_in_order",
        "_required_keywords",
        "_rest",
        "_rest_by_keyword",
        "all",
        "has_models",
        "signature",
    )

    def __init__(self, parameters: list[Parameter], signature: inspect.Signature) -> None:
        self.all: tuple[Parameter, ...] = tuple(parameters)
        self.signature: inspect.Signature = signature
        self._in_order = tuple(p for p in parameters if p.kind in ("positional", "any"))
        self._indexes = {p.name: i for i, p in enumerate(self._in_order) if p.kind == "any"}
        self._by_keyword = {p.name: p for p in parameters if p.kind in ("any", "keyword")}
        self._rest = next((p for p in parameters if p.kind == "*"), None)
        self._rest_by_keyword = next((p for p in parameters if p.kind == "**"), None)
        self._required_in_order = tuple(p.name for p in self._in_order if p.required)
        self._required_keywords = frozenset(p.name for p in parameters if p.kind == "keyword" and p.required)
        # The common call gives every parameter by position; it is then checked without placing anything.
        named = any(p.kind in ("keyword", "*", "**") for p in parameters)
        self._quick = None if named else tuple((p.shape.plain, p.shape) for p in self._in_order)
        self.has_models: bool = any(isinstance(s, ModelShape) for p in parameters for s in walk(p.shape))

    def place(self, args: tuple[object, ...] | list[object], kwargs: Mapping[str, object]) -> list[Parameter] | None:
        """The parameter of each argument, positional ones first, then keywords in the order given.

        Returns:
            None where the call does not fit; `check_call` then says why.
        """
        count = len(args)
        if count <= len(self._in_order):
            placed = list(self._in_order[:count])
        elif self._rest is not None:
            placed = [*self._in_order, *[self._rest] * (count - len(self._in_order))]
        else:
            return None
        for name in kwargs:
            parameter = self._by_keyword.get(name)
            if parameter is None:
                parameter = self._rest_by_keyword
                if parameter is None:
                    return None
            elif self._indexes.get(name, count) < count:
                return None
            placed.append(parameter)
        if any(name not in kwargs for name in self._required_in_order[count:]):
            return None
        # A positional-only parameter cannot be given by name, even where **kwargs takes that name.
        if any(p.kind == "positional" and p.required for p in self._in_order[count:]):
            return None
        return placed if self._required_keywords <= kwargs.keys() else None

    def check_call(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        """Refuse a call whose arguments do not fit, saying where.

        Raises:
            InvalidCallError: An argument is missing, surplus or unexpected.
            UnencodableArgumentError: A value is not of its parameter's type, or cannot travel at all.
        """
        if self._quick is not None and not kwargs and len(args) == len(self._quick):
            for (plain, shape), value in zip(self._quick, args, strict=False):
                if type(value) not in plain and not shape.fits(value, 1):
                    break
            else:
                return
        placed = self.place(args, kwargs)
        if placed is None:
            try:
                self.signature.bind(*args, **kwargs)
            except TypeError as error:
                raise InvalidCallError(str(error)) from None
            raise InvalidCallError("the arguments do not fit the function's parameters")
        for parameter, value in zip(placed, (*args, *kwargs.values()), strict=True):
            if not parameter.shape.fits(value, 1):
                self._explain(placed, args, kwargs)

    def _explain(
        self, placed: list[Parameter], args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> typing.NoReturn:
        paths = [f"args[{index}]" for index in range(len(args))] + [f'kwargs["{name}"]' for name in kwargs]
        for parameter, path, value in zip(placed, paths, (*args, *kwargs.values()), strict=True):
            if not parameter.shape.fits(value, 1):
                place, problem = parameter.shape.explain(value, path, 1)
                raise UnencodableArgumentError(place, f"parameter {parameter.name!r}: {problem}")
        raise UnencodableArgumentError("args", "an argument changed while it was looked at")

    def without_first(self) -> "Parameters":
        """All but the first, which an iteration gives the row to.

        Raises:
            InvalidCallError: There is none that takes a positional argument.
        """
        if not self._in_order:
            raise InvalidCallError("a callback takes the row as its first positional argument")
        rest = [parameter for parameter in self.all if parameter is not self._in_order[0]]
        signature = self.signature.replace(
            parameters=[p for name, p in self.signature.parameters.items() if name != self._in_order[0].name]
        )
        return Parameters(rest, signature)

    def takes_rows_of(self, model: type) -> bool:
        """Whether the first parameter names a model that rows of this one are instances of, or nothing at all."""
        first = self._in_order[0].shape
        named = [shape.cls for shape in walk(first) if isinstance(shape, ModelShape)]
        return any(issubclass(model, cls) for cls in named) or first is ANY

    def fingerprint(self, name: str, version: int) -> bytes:
        """16 bytes of what the function takes: name, version, and each parameter's name, kind, type and need.

        Rendered by us, not from typing's reprs, which differ between Python versions.
        """
        pieces = [name.encode(), str(version).encode()]
        for parameter in self.all:
            need = "required" if parameter.required else "optional"
            pieces.append(encode_pieces(*(text.encode() for text in (parameter.name, parameter.kind, need))))
            pieces.append(parameter.shape.render().encode())
        pieces.extend(_definitions(self.all))
        return sha256(encode_pieces(b"safedefer.schema", *pieces)).digest()[:FINGERPRINT_BYTES]


def _definitions(parameters: tuple[Parameter, ...]) -> list[bytes]:
    """The fields of each dataclass in use, which its own rendering leaves out since it may contain itself."""
    found: dict[str, bytes] = {}
    for parameter in parameters:
        for shape in walk(parameter.shape):
            if isinstance(shape, DataclassShape):
                parts = [f"{name}: {field.render()}".encode() for name, field in shape.fields.items()]
                found[shape.render()] = encode_pieces(shape.render().encode(), *parts)
    return [found[name] for name in sorted(found)]


def read_parameters(function: Callable[..., object]) -> Parameters:
    """Read a function's parameters from its annotations.

    Raises:
        InvalidFunctionError: A parameter has no annotation, one that cannot travel, or a name that starts with `_`.
        NameError: An annotation names something that is not defined yet.
    """
    signature = inspect.signature(function)
    where = f"{function.__module__}.{function.__qualname__}"
    hints = typing.get_type_hints(function, include_extras=True)
    parameters: list[Parameter] = []
    for name, parameter in signature.parameters.items():
        if name.startswith("_"):
            raise InvalidFunctionError(
                f"{where}: parameter {name!r} starts with an underscore; such names are for the options of defer()"
            )
        if name not in hints:
            raise InvalidFunctionError(
                f"{where}: parameter {name!r} has no annotation; annotate it with a type that can travel"
            )
        try:
            parameters.extend(_read_parameter(parameter, hints[name]))
        except AnnotationError as error:
            raise InvalidFunctionError(f"{where}: parameter {name!r}: {error}") from None
    return Parameters(parameters, signature)


def _read_parameter(parameter: inspect.Parameter, annotation: object) -> list[Parameter]:
    kind = _KINDS[parameter.kind]
    if kind == "**":
        keywords = compile_keywords(annotation)
        if keywords is not None:
            if any(name.startswith("_") for name in keywords.fields):
                raise AnnotationError("a key that starts with an underscore; such names are for the options of defer()")
            return [Parameter(n, "keyword", shape, n in keywords.required) for n, shape in keywords.fields.items()]
    required = parameter.default is parameter.empty and kind not in ("*", "**")
    return [Parameter(parameter.name, kind, compile_annotation(annotation), required)]
