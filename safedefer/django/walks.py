"""QuerySets over Django: which may travel as they are, how they are cut, and how they are read."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, final

from django.apps import apps
from django.core.exceptions import EmptyResultSet
from django.db import DatabaseError, InterfaceError, connections
from django.db.models import QuerySet

from safedefer.core.ports import WalkedPage
from safedefer.core.wire import WireError
from safedefer.django.estimates import estimate_rows
from safedefer.django.key_ranges.default import default_key_ranges
from safedefer.django.key_ranges.ranges import plan_key_ranges
from safedefer.django.modelrefs import RowsUnavailableError
from safedefer.django.order_field import resolve_order_field
from safedefer.django.pages import cursor_of, read_page
from safedefer.django.positions import decode_cursor, decode_key_range, encode_cursor, encode_key_range
from safedefer.errors import ArgumentsRefusedError, Reason, StoreUnavailableError, UnsupportedQuerySetError

_NOT_WALKED: Final = frozenset({"auth", "sessions", "admin"})
"""Apps whose rows nobody may have walked by naming a model; a registered queryset function may."""


@final
class DjangoQuerySets:
    """Walks querysets of Django's models along an order field."""

    def describe(self, queryset: object) -> tuple[str, str]:
        """The model and alias of a queryset without any condition."""
        if not isinstance(queryset, QuerySet):
            raise UnsupportedQuerySetError(f"an iteration walks a queryset, not a {type(queryset).__name__}")
        meta, using = queryset.model._meta, queryset.db
        if meta.app_label in _NOT_WALKED:
            raise UnsupportedQuerySetError(f"rows of {meta.label} are walked through a registered function only")
        if not _is_same(queryset, QuerySet(queryset.model, using=using)):
            raise UnsupportedQuerySetError(
                f"this queryset of {meta.label} has conditions, and cannot travel as it is; write a module-level "
                "function that returns it, put @deferrable_queryset over it, and give function.bind(...)"
            )
        return meta.label_lower, using

    def all_rows(self, label: str, using: str) -> QuerySet[Any]:
        """Every row of a model, whatever its managers hide."""
        app_label, _, name = label.partition(".")
        try:
            model = apps.get_model(app_label, name)
        except (LookupError, ValueError):
            raise ArgumentsRefusedError(Reason.ARGUMENTS_MISMATCH, "an iteration over a model that is gone") from None
        if model._meta.label_lower != label or using not in connections or app_label in _NOT_WALKED:
            raise ArgumentsRefusedError(Reason.ARGUMENTS_MISMATCH, "an iteration over rows that may not be walked")
        return QuerySet(model, using=using)

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
        try:
            within = decode_key_range(order, key_range)
            behind = None if cursor is None else decode_cursor(order, cursor)
        except WireError:
            # Who can write the store can do that; nothing else comes of it.
            raise StoreUnavailableError("a key range or a cursor of an iteration cannot be read") from None
        with _answering():
            page = read_page(rows, within, behind, order, limit)
        return WalkedPage(
            rows=[(row, encode_cursor(order, cursor_of(order, row))) for row in page.rows], ends=page.ends
        )


def _queryset(value: object) -> QuerySet[Any]:
    if not isinstance(value, QuerySet):
        raise ArgumentsRefusedError(Reason.ARGUMENTS_MISMATCH, "a queryset function that returned something else")
    return value


def _is_same(queryset: QuerySet[Any], other: QuerySet[Any]) -> bool:
    """Whether both ask for the same rows, in whatever order, as the same instances."""
    if getattr(queryset, "_fields", None) is not None:
        return False
    try:
        given = queryset.order_by().query.sql_with_params()
    except (TypeError, EmptyResultSet):  # A slice; nothing at all.
        return False
    return given == other.order_by().query.sql_with_params()


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except (DatabaseError, InterfaceError) as error:
        raise RowsUnavailableError("the rows of an iteration could not be read") from error
