"""A shape: what one annotation accepts, able to check a value and to decode a node.

A shape checks values in `defer` (`fits`, and `explain` for the message) and directs decoding in the handler
(`decode`): a reference, an enum member or a dataclass comes into being only where a shape names its class.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple, final

from msgpack import ExtType

from safedefer.core.limits import MAX_DEPTH, MAX_NODES
from safedefer.core.references import ModelReference
from safedefer.core.wire import ExtCode, WireError, unpack

NO_TYPES: Final[frozenset[type]] = frozenset()
STR_ONLY: Final[frozenset[type]] = frozenset({str})
_MAX_IN_VAIN: Final = 4 * MAX_NODES
"""Options of unions inside of unions could otherwise be tried without end."""


class Misfit(NamedTuple):
    """Where a value does not fit, and what was expected there."""

    path: str
    problem: str


@final
class ShapeError(Exception):
    """A node does not have the shape that the annotation asks for. Says nothing about the node."""


@final
class Reader:
    """One decoding: counts what it has seen, collects references, and puts rows in their place.

    Args:
        allows: Whether a model's label stands for the class or a subclass of it.
        rows: The rows found, or None for the first pass, which checks and collects and builds no object.
    """

    __slots__ = ("_in_vain", "_nodes", "allows", "references", "rows")

    def __init__(
        self, allows: Callable[[str, type], bool], rows: Mapping[ModelReference, object] | None = None
    ) -> None:
        self.allows: Callable[[str, type], bool] = allows
        self.rows: Mapping[ModelReference, object] | None = rows
        self.references: dict[ModelReference, None] = {}
        self._nodes = 0
        self._in_vain = 0

    @property
    def nodes(self) -> int:
        """How many nodes have been counted."""
        return self._nodes

    def step_back(self, nodes: int) -> None:
        """Take back what was counted since, in an option of a union that did not fit.

        Raises:
            WireError: So much has been read in vain that the body was made for it.
        """
        self._in_vain += self._nodes - nodes
        self._nodes = nodes
        if self._in_vain > _MAX_IN_VAIN:
            raise WireError("too many values that fit no option of a union", limit=True)

    def enter(self, depth: int, count: int = 1) -> None:
        """Count nodes and check the depth they stand at.

        Raises:
            WireError: Past a bound.
        """
        self._nodes += count
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            raise WireError("too many or too deeply nested values", limit=True)


class Shape(ABC):
    """What an annotation accepts."""

    plain: frozenset[type] = NO_TYPES
    """Exact types that fit and travel as they are, so that a container of them needs no walk; may be empty."""

    @abstractmethod
    def render(self) -> str:
        """Our own text of the annotation: what the schema fingerprint is made of."""

    @abstractmethod
    def fits(self, value: object, depth: int) -> bool:
        """Whether a value is of this shape."""

    @abstractmethod
    def decode(self, node: object, reader: Reader, depth: int) -> object:
        """Turn an unpacked node into a value.

        Raises:
            ShapeError: The node is not of this shape.
            WireError: An ext value is broken, or a bound was passed.
        """

    def explain(self, value: object, path: str, depth: int) -> Misfit:
        """Say where a value that does not fit goes wrong. Only called after `fits` was False."""
        if depth > MAX_DEPTH:
            return Misfit(path, f"nested deeper than {MAX_DEPTH} levels")
        return Misfit(path, f"expected {self.render()}, got {type(value).__qualname__}")

    def children(self) -> Iterator["Shape"]:
        """The shapes directly inside this one."""
        return iter(())


def walk(shape: Shape) -> Iterator[Shape]:
    """The shape and every shape inside it, each once; a dataclass may contain itself."""
    seen: set[int] = set()
    todo = [shape]
    while todo:
        current = todo.pop()
        if id(current) not in seen:
            seen.add(id(current))
            yield current
            todo.extend(current.children())


def read_ext(node: object, *codes: int) -> tuple[int, bytes]:
    if not isinstance(node, ExtType) or node.code not in codes:
        raise ShapeError
    return node.code, node.data


def read_ext_list(node: object, code: ExtCode, *, length: int | None = None) -> list[object]:
    tree = unpack(read_ext(node, code)[1])
    if not isinstance(tree, list) or (length is not None and len(tree) != length):
        raise WireError("an ext value with the wrong parts")
    return tree


def read_ext_pair(node: object, code: ExtCode) -> tuple[object, object]:
    first, second = read_ext_list(node, code, length=2)
    return first, second
