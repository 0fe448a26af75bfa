"""What an iteration needs of whatever holds its rows, as Protocols."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

from safedefer.core.iteration.description import Description


@final
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class WalkedPage:
    """Rows of one key range.

    Attributes:
        rows: In the order of the walk; read already, and to be gone through once. Raises whatever the application's
            code raises as a row is made, and InvalidKeyRangesError at one that has no place: after it there are none.
        key_of: Reads the key off a row, before anybody could change it. Called for every row.
        cursor_at: The cursor that stands at a row, by its key.
        pk_of: The primary key, by the key that was read off.
        ends: Whether there was nothing behind them, by how many there were.
    """

    rows: Iterator[object]
    key_of: Callable[[Any], object]
    cursor_at: Callable[[object], bytes]
    pk_of: Callable[[object], object]
    ends: Callable[[int], bool]


@final
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Place:
    """Where a row is in a walk.

    Attributes:
        cursor: The cursor that stands at it.
        pk: Its primary key.
    """

    cursor: bytes
    pk: object


class QuerySets(Protocol):
    """Walks querysets: cut into key ranges, read by pages. Ranges and cursors are opaque outside of it."""

    def model_of(self, queryset: object) -> type:
        """The class of its rows.

        Raises:
            UnsupportedQuerySetError: It is no queryset.
        """
        ...

    def describe(self, queryset: object) -> Description:
        """What a queryset is, without its ordering.

        Raises:
            UnsupportedQuerySetError: It cannot be described; the message says what to do.
        """
        ...

    def build(self, description: Description) -> object:
        """The queryset of a verified description.

        Raises:
            ArgumentsRefusedError: There is no such model, alias or field, or its rows may not be walked so.
        """
        ...

    def alias_of(self, queryset: object) -> str:
        """The alias of the database that rows of the queryset are written to.

        Raises:
            ArgumentsRefusedError: It is no queryset.
        """
        ...

    def check(self, queryset: object, order_field: str) -> None:
        """See that a queryset can be walked along a field.

        Raises:
            InvalidKeyRangesError: It cannot; the message says why.
        """
        ...

    def cut(
        self, queryset: object, order_field: str, shards: int, getter: Callable[..., Sequence[object]] | None
    ) -> Sequence[bytes]:
        """Cut a queryset into key ranges.

        Raises:
            InvalidKeyRangesError: It cannot be walked along that field, or the getter returned no key ranges.
        """
        ...

    def estimate(self, queryset: object) -> int | None:
        """How many rows there may be; None where that would take long."""
        ...

    def read_page(
        self, queryset: object, order_field: str, key_range: bytes, cursor: bytes | None, limit: int
    ) -> WalkedPage:
        """The rows of a key range behind a cursor.

        Raises:
            UnavailableError: The database did not answer.
            Exception: Of the application's code, which makes the rows.
        """
        ...

    def find_place(self, queryset: object, order_field: str, key_range: bytes, cursor: bytes | None) -> Place | None:
        """The place of the first row behind a cursor, which is not made for it; None where there is no row.

        Raises:
            InvalidKeyRangesError: It has none: its key cannot be a cursor.
            UnavailableError: The database did not answer.
        """
        ...
