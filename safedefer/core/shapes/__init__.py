"""What a parameter accepts: one class for each kind of annotation.

`safedefer.core.annotations` makes shapes from annotations, `safedefer.core.codec` uses them.
"""

from safedefer.core.shapes.anything import ANY, AnyShape
from safedefer.core.shapes.classes import EnumShape, ModelShape
from safedefer.core.shapes.containers import DictShape, ListShape, SetShape, TupleShape
from safedefer.core.shapes.items import key_path
from safedefer.core.shapes.plain import AtomShape, LiteralShape, PlainShape
from safedefer.core.shapes.records import DataclassShape, NamedTupleShape, TypedDictShape
from safedefer.core.shapes.shape import Misfit, Reader, Shape, ShapeError, walk
from safedefer.core.shapes.unions import UnionShape

__all__ = [
    "ANY",
    "AnyShape",
    "AtomShape",
    "DataclassShape",
    "DictShape",
    "EnumShape",
    "ListShape",
    "LiteralShape",
    "Misfit",
    "ModelShape",
    "NamedTupleShape",
    "PlainShape",
    "Reader",
    "SetShape",
    "Shape",
    "ShapeError",
    "TupleShape",
    "TypedDictShape",
    "UnionShape",
    "key_path",
    "walk",
]
