"""Arguments <-> body: `[positional, keywords]` in strict msgpack, decoded only along a function's annotations.

Encoding is directed by the values, which `Parameters.check_call` has held against the annotations; decoding by the
annotations. A body comes in as `VerifiedBody`, so that nothing unsigned is ever parsed here.
"""

from collections.abc import Hashable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from itertools import pairwise
from typing import NamedTuple, final

from msgpack import ExtType

from safedefer.core.atoms import dump_atom
from safedefer.core.limits import MAX_NODES
from safedefer.core.parameters import Parameters
from safedefer.core.ports import ReferenceResolver
from safedefer.core.references import ModelReference, is_model_class
from safedefer.core.shapes import ANY, Reader, ShapeError, key_path
from safedefer.core.signing import VerifiedBody
from safedefer.core.wire import ExtCode, WireError, pack, pack_array, unpack
from safedefer.errors import ArgumentsRefusedError, Reason, UnencodableArgumentError


@final
class Arguments(NamedTuple):
    """What a function is called with."""

    args: tuple[object, ...]
    kwargs: dict[str, object]

    def __repr__(self) -> str:
        return f"<Arguments: {len(self.args)} by position, {len(self.kwargs)} by name>"


@final
class _CannotEncodeError(Exception):
    def __init__(self, value: object, problem: str) -> None:
        super().__init__(problem)
        self.value = value


def encode_arguments(
    parameters: Parameters,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    resolver: ReferenceResolver,
    *,
    with_related: bool = False,
) -> bytes:
    """Check a call against the function's parameters and encode its arguments.

    Args:
        with_related: Model instances take along the names of the relations that they hold loaded rows of.
    Raises:
        InvalidCallError: An argument is missing, surplus or unexpected.
        UnencodableArgumentError: A value cannot travel; its `path` says where it stands.
    """
    parameters.check_call(args, kwargs)
    encoder = _Encoder(resolver, with_related=with_related)
    try:
        body = pack([list(args), kwargs], encoder.encode)
    except _CannotEncodeError as error:
        path = _find(error.value, args, kwargs)
        raise UnencodableArgumentError(path, str(error)) from error.__cause__
    except UnicodeEncodeError as error:
        raise UnencodableArgumentError(_find(error.object, args, kwargs), "a text with half a surrogate pair") from None
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UnencodableArgumentError("args", f"cannot be encoded ({type(error).__name__})") from None
    # A body has no more values than bytes, so that only a large one needs counting.
    if len(body) > MAX_NODES:
        _check_bounds(parameters, body, resolver)
    return body


@final
class _Encoder:
    """What msgpack asks for each value that is not plain."""

    __slots__ = ("_resolver", "_with_related")

    def __init__(self, resolver: ReferenceResolver, *, with_related: bool) -> None:
        self._resolver = resolver
        self._with_related = with_related

    def encode(self, value: object) -> ExtType:
        try:
            atom = dump_atom(value)
        except ValueError as error:
            raise _CannotEncodeError(value, str(error)) from None
        if atom is not None:
            return atom
        # Before the containers: a member may be one of those, too.
        if isinstance(value, Enum):
            return ExtType(ExtCode.ENUM, pack([type(value).__name__, value._name_]))
        if isinstance(value, tuple):
            return ExtType(ExtCode.TUPLE, pack(list(value), self.encode))
        if isinstance(value, set | frozenset):
            code = ExtCode.SET if isinstance(value, set) else ExtCode.FROZENSET
            parts = sorted(pack(item, self.encode) for item in value)
            if any(left == right for left, right in pairwise(parts)):
                raise _CannotEncodeError(value, "a set with two values that are alike once they travel")
            return ExtType(code, pack_array(parts))
        if is_model_class(type(value)):
            return self._encode_model(value)
        if is_dataclass(value):
            named = {item.name: getattr(value, item.name) for item in fields(value) if item.init}
            return ExtType(ExtCode.DATACLASS, pack([type(value).__name__, named], self.encode))
        raise _CannotEncodeError(value, f"a {type(value).__qualname__} cannot travel")

    def _encode_model(self, value: object) -> ExtType:
        try:
            reference = self._resolver.reference(value, with_related=self._with_related)
        except ValueError as error:
            raise _CannotEncodeError(value, str(error)) from error
        if not ANY.fits(reference.key, 1) or not isinstance(reference.key, Hashable):
            raise _CannotEncodeError(value, f"a primary key of type {type(reference.key).__qualname__} cannot travel")
        parts = [reference.label, reference.using, reference.key]
        if reference.related:
            parts.append(list(reference.related))
        return ExtType(ExtCode.MODEL, pack(parts, self.encode))


def _check_bounds(parameters: Parameters, body: bytes, resolver: ReferenceResolver) -> None:
    try:
        _read(parameters, unpack(body), Reader(resolver.allows))
    except WireError:
        raise UnencodableArgumentError("args", f"more than {MAX_NODES} values in one call") from None


def _find(target: object, args: tuple[object, ...], kwargs: Mapping[str, object]) -> str:
    """The path of an object inside the arguments."""
    todo: list[tuple[str, object]] = [(key_path("kwargs", name), value) for name, value in kwargs.items()]
    todo += [(f"args[{index}]", value) for index, value in enumerate(args)]
    while todo:
        path, value = todo.pop()
        if value is target:
            return path
        if isinstance(value, dict):
            if any(key is target for key in value):
                return path
            todo += [(key_path(path, key), part) for key, part in value.items()]
        elif isinstance(value, list | tuple):
            todo += [(f"{path}[{index}]", part) for index, part in enumerate(value)]
        elif isinstance(value, set | frozenset):
            todo += [(f"{path}{{item}}", part) for part in value]
        elif is_dataclass(value) and not isinstance(value, type):
            # What does not travel is left out: it may lead back to where we are.
            todo += [(f"{path}.{item.name}", getattr(value, item.name, None)) for item in fields(value) if item.init]
    return "args"


@final
class DecodedArguments:
    """Arguments that fit their parameters, before the rows they refer to are loaded.

    Attributes:
        references: The rows to load, each once.
    """

    __slots__ = ("_allows", "_parameters", "_ready", "_tree", "references")

    def __init__(self, parameters: Parameters, tree: object, resolver: ReferenceResolver) -> None:
        self._parameters = parameters
        self._tree = tree
        self._allows = resolver.allows
        # Without references the first reading builds the values at once.
        reader = Reader(self._allows, None if parameters.has_models else {})
        self._ready = _read_or_refuse(parameters, tree, reader)
        self.references: tuple[ModelReference, ...] = tuple(reader.references)

    def build(self, rows: Mapping[ModelReference, object]) -> Arguments:
        """The arguments, with a row in place of each reference.

        Raises:
            ArgumentsRefusedError: A dataclass refused its values.
            KeyError: A row is missing from `rows`.
        """
        if not self._parameters.has_models:
            return self._ready
        return _read_or_refuse(self._parameters, self._tree, Reader(self._allows, rows))


def decode_arguments(parameters: Parameters, body: VerifiedBody, resolver: ReferenceResolver) -> DecodedArguments:
    """Decode a verified body along the parameters of the function it was signed for.

    Raises:
        ArgumentsRefusedError: `BODY_MALFORMED`, `BODY_LIMITS` or `ARGUMENTS_MISMATCH`.
    """
    try:
        tree = unpack(body.data)
    except WireError as error:
        raise _refused(error) from None
    return DecodedArguments(parameters, tree, resolver)


def _read_or_refuse(parameters: Parameters, tree: object, reader: Reader) -> Arguments:
    try:
        return _read(parameters, tree, reader)
    except WireError as error:
        raise _refused(error) from None


def _read(parameters: Parameters, tree: object, reader: Reader) -> Arguments:
    if not isinstance(tree, list) or len(tree) != 2:  # noqa: PLR2004  # [positional, keywords]
        raise WireError("not a pair of positional and keyword arguments")
    args, kwargs = tree
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise WireError("not a pair of positional and keyword arguments")
    placed = parameters.place(args, kwargs)
    if placed is None:
        raise ArgumentsRefusedError(Reason.ARGUMENTS_MISMATCH, "the function's parameters are others now")
    values: list[object] = []
    for parameter, node in zip(placed, (*args, *kwargs.values()), strict=True):
        try:
            values.append(parameter.shape.decode(node, reader, 1))
        except ShapeError:
            raise ArgumentsRefusedError(Reason.ARGUMENTS_MISMATCH, f"parameter {parameter.name!r}") from None
    count = len(args)
    return Arguments(tuple(values[:count]), dict(zip(kwargs, values[count:], strict=True)))


def _refused(error: WireError) -> ArgumentsRefusedError:
    return ArgumentsRefusedError(Reason.BODY_LIMITS if error.limit else Reason.BODY_MALFORMED)
