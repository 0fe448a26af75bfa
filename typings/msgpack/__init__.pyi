# The part of msgpack 1.2 that safedefer uses.
from collections.abc import Callable
from typing import Final, Self

version: Final[tuple[int, int, int]]

class ExtType(tuple[int, bytes]):
    @property
    def code(self) -> int: ...
    @property
    def data(self) -> bytes: ...
    def __new__(cls, code: int, data: bytes) -> Self: ...

class Timestamp:
    def __init__(self, seconds: int, nanoseconds: int = ...) -> None: ...
    seconds: int
    nanoseconds: int

class UnpackException(Exception): ...

class Packer:
    def __init__(
        self,
        *,
        default: Callable[[object], object] | None = ...,
        use_single_float: bool = ...,
        use_bin_type: bool = ...,
        strict_types: bool = ...,
        datetime: bool = ...,
        autoreset: bool = ...,
    ) -> None: ...
    def pack(self, obj: object) -> bytes: ...
    def pack_array_header(self, size: int) -> bytes: ...

def packb(
    obj: object,
    *,
    default: Callable[[object], object] | None = ...,
    use_single_float: bool = ...,
    use_bin_type: bool = ...,
    strict_types: bool = ...,
    datetime: bool = ...,
) -> bytes: ...
def unpackb(
    packed: bytes,
    *,
    raw: bool = ...,
    timestamp: int = ...,
    strict_map_key: bool = ...,
    use_list: bool = ...,
    object_pairs_hook: Callable[[list[tuple[object, object]]], object] | None = ...,
    list_hook: Callable[[list[object]], object] | None = ...,
    ext_hook: Callable[[int, bytes], object] = ...,
    max_str_len: int = ...,
    max_bin_len: int = ...,
    max_array_len: int = ...,
    max_map_len: int = ...,
    max_ext_len: int = ...,
) -> object: ...
