"""QuerySets over Django: which may travel as they are, how they are cut, and how they are read."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, final

from django.db import DatabaseError, InterfaceError, OperationalError, router
from django.db.models import QuerySet

from safedefer.core.iteration.description import Description
from safedefer.core.iteration.ports import Place, WalkedPage
from safedefer.core.wire import WireError
from safedefer.django.descriptions import DescriptionPolicy, build_queryset, describe_queryset
from safedefer.django.estimates import estimate_rows
from safedefer.django.key_ranges.default import default_key_ranges
from safedefer.django.key_ranges.ranges import check_walk, plan_key_ranges
from safedefer.django.modelrefs import RowsUnavailableError
from safedefer.django.order_field import OrderField, resolve_order_field
from safedefer.django.pages import find_place, place_of, read_page
from safedefer.django.positions import (
    Cursor,
    KeyRange,
    decode_cursor,
    decode_key_range,
    encode_cursor,
    encode_key_range,
)
from safedefer.errors import (
    ArgumentsRefusedError,
    InvalidKeyRangesError,
    Reason,
    StoreUnavailableError,
    UnavailableError,
    UnsupportedQuerySetError,
)

_UNDECODED: Final = "Could not decode to UTF-8"
"""What SQLite says of a text, as an OperationalError."""


@final
class DjangoQuerySets:
    """Walks querysets of Django's models along an order field."""

    def __init__(self, policy: DescriptionPolicy) -> None:
        self._policy = policy

    def model_of(self, queryset: object) -> type:
        """The class of its rows."""
        return _queryset(queryset).model

    def describe(self, queryset: object) -> Description:
        """What it is, if building it anew gives the same query."""
        return describe_queryset(_queryset(queryset), self._policy)

    def build(self, description: Description) -> QuerySet[Any]:
        """The queryset of a verified description."""
        with _answering():
            return build_queryset(description, self._policy)

    def alias_of(self, queryset: object) -> str:
        """The alias that the queryset names, or the project's routers for its model."""
        rows = _queryset(queryset)
        # `db` would be the one to read from.
        named: str | None = getattr(rows, "_db", None)
        return named or router.db_for_write(rows.model, **getattr(rows, "_hints", {}))

    def check(self, queryset: object, order_field: str) -> None:
        """See that a queryset can be walked along a field."""
        rows = _queryset(queryset)
        with _answering():
            check_walk(rows, resolve_order_field(rows, order_field))

    def cut(
        self, queryset: object, order_field: str, shards: int, getter: Callable[..., Sequence[object]] | None
    ) -> Sequence[bytes]:
        """Key ranges of a queryset, encoded."""
        rows = _queryset(queryset)
        order = resolve_order_field(rows, order_field)
        with _answering():
            ranges = plan_key_ranges(rows, order, shards, default_key_ranges if getter is None else getter)
        return [encode_key_range(order, key_range) for key_range in ranges]

    def estimate(self, queryset: object) -> int | None:
        """How many rows there may be."""
        return estimate_rows(_queryset(queryset))

    def read_page(
        self, queryset: object, order_field: str, key_range: bytes, cursor: bytes | None, limit: int
    ) -> WalkedPage:
        """The next rows of a key range."""
        rows = _queryset(queryset)
        order = resolve_order_field(rows, order_field)
        within, behind = _positions(order, key_range, cursor)
        with _reaching():
            page = read_page(rows, within, behind, order, limit)
        return WalkedPage(
            rows=page.rows,
            key_of=page.key_of,
            cursor_at=lambda key: encode_cursor(order, place_of(order, key)),
            pk_of=lambda key: place_of(order, key).pk,
            ends=page.ends,
        )

    def find_place(self, queryset: object, order_field: str, key_range: bytes, cursor: bytes | None) -> Place | None:
        """The place of the row that comes next."""
        rows = _queryset(queryset)
        order = resolve_order_field(rows, order_field)
        within, behind = _positions(order, key_range, cursor)
        try:
            with _reaching():
                place = find_place(rows, within, behind, order)
            return None if place is None else Place(cursor=encode_cursor(order, place), pk=place.pk)
        except (InvalidKeyRangesError, UnavailableError):
            raise
        except Exception as error:
            # Neither the driver nor the field has to know what stands there.
            raise InvalidKeyRangesError(f"its key cannot be read ({type(error).__name__})") from error


def _positions(order: OrderField, key_range: bytes, cursor: bytes | None) -> tuple[KeyRange, Cursor | None]:
    try:
        return decode_key_range(order, key_range), None if cursor is None else decode_cursor(order, cursor)
    except WireError:
        # Who can write the store can do that; nothing else comes of it.
        raise StoreUnavailableError("a key range or a cursor of an iteration cannot be read") from None


def _queryset(value: object) -> QuerySet[Any]:
    if not isinstance(value, QuerySet):
        raise UnsupportedQuerySetError(f"an iteration walks a queryset, not a {type(value).__name__}")
    return value


@contextmanager
def _reaching() -> Iterator[None]:
    """Tell an outage from rows that cannot be made, or that the driver cannot read."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        if _UNDECODED in str(error):
            raise ValueError("a text that is not UTF-8") from None  # The message is the row's.
        raise RowsUnavailableError("the rows of an iteration could not be read") from error


@contextmanager
def _answering() -> Iterator[None]:
    try:
        with _reaching():
            yield
    except (DatabaseError, OverflowError) as error:
        # It would say the same tomorrow, and is no outage: a value that it does not take, for instance.
        problem = f"rows that the database refuses to give ({type(error).__name__})"
        raise ArgumentsRefusedError(Reason.ARGUMENTS_MISMATCH, problem) from None
