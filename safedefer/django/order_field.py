"""The field along which a queryset is walked: which fields can be one, and the values it has as keys."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from math import isnan
from typing import Any, Final, final
from uuid import UUID

from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import connections
from django.db.models import Field, Model, QuerySet
from django.db.models.query import ModelIterable

from safedefer.core.iteration.description import PRIVATE_FIELDS
from safedefer.errors import InvalidKeyRangesError

_KEY_TYPES: Final[dict[str, type]] = {
    "AutoField": int,
    "BigAutoField": int,
    "SmallAutoField": int,
    "IntegerField": int,
    "BigIntegerField": int,
    "SmallIntegerField": int,
    "PositiveIntegerField": int,
    "PositiveBigIntegerField": int,
    "PositiveSmallIntegerField": int,
    "CharField": str,
    "SlugField": str,
    "TextField": str,
    "UUIDField": UUID,
    "DecimalField": Decimal,
    "DateTimeField": datetime,
    "DateField": date,
    "TimeField": time,
    "DurationField": timedelta,
    "FloatField": float,
    "BinaryField": bytes,
    "BooleanField": bool,
}
"""The type of a key, by the internal type of its field."""

_SQLITE_DIGITS: Final = 15
"""SQLite keeps decimals as floats, which return no more digits than these unchanged."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class OrderField:
    """A field that a queryset can be walked along.

    Attributes:
        name: What filters, orderings and instances call it: `pk`, or the name of its attribute.
        column: Its column in the table.
        field: Where its values come from: of a relation, the field at its end.
        key_type: The one type of its keys.
        unique: Whether no two rows share a value.
        nullable: Whether rows may have none.
        pk_field: Where the values of the primary key come from.
        pk_name: What instances call the primary key.
    """

    name: str
    column: str
    field: "Field[Any, Any]"
    key_type: type
    unique: bool
    nullable: bool
    pk_field: "Field[Any, Any]"
    pk_name: str

    @property
    def is_pk(self) -> bool:
        """Whether it is the primary key itself."""
        return self.name == "pk"


def resolve_order_field(queryset: QuerySet[Any], name: str = "pk") -> OrderField:
    """Find the order field and see that this queryset can be walked along it.

    Args:
        queryset: Rows of a model, as instances.
        name: The name of a field of the model itself.
    Raises:
        InvalidKeyRangesError: Says which property of the queryset or the field is in the way.
    """
    _check_queryset(queryset)
    meta = queryset.model._meta
    label = f"{meta.object_name}.{name}"
    if name in PRIVATE_FIELDS:
        raise InvalidKeyRangesError(f"{label} orders no walk: its key ranges would tell of its values")
    if len(meta.pk_fields) > 1:
        raise InvalidKeyRangesError(f"{meta.object_name} has a composite primary key, along which no walk is possible")
    field = meta.pk if name == "pk" else _find_field(queryset.model, name, label)
    terminal = _terminal(field)
    key_type = _key_type(terminal, label)
    _check_field(terminal, label, queryset.db)
    return OrderField(
        name="pk" if field is meta.pk else field.attname,
        column=field.column,
        field=terminal,
        key_type=key_type,
        unique=field.primary_key or field.unique,
        nullable=field.null,
        pk_field=_terminal(meta.pk),
        pk_name=meta.pk.attname,
    )


def to_key(field: "Field[Any, Any]", value: object) -> Any:
    """The value of a field as a key: of the one plain type that its keys have.

    Raises:
        InvalidKeyRangesError: It is no value of that field.
    """
    wanted = _key_type(field, str(field))
    if isinstance(value, memoryview | bytearray):
        value = bytes(value)
    try:
        prepared = None if value is None else field.get_prep_value(value)
    except (TypeError, ValueError, OverflowError, ValidationError) as error:
        raise InvalidKeyRangesError(f"a key of type {type(value).__name__} is no value of {field}") from error
    plain = _plain(prepared, wanted)
    if plain is None or _is_nan(plain):
        raise InvalidKeyRangesError(f"a key of type {type(value).__name__} cannot bound the values of {field}")
    return plain


def may_have_no_key(order: OrderField) -> bool:
    """Whether a row may have a value that is no key: a text or a number of any length, or no number."""
    types = {order.key_type, _key_type(order.pk_field, "pk")}
    return bool(types & {str, bytes, float, Decimal})


def is_key(field: "Field[Any, Any]", value: object) -> bool:
    """Whether a value is a key of the field as `to_key` returns it."""
    wanted = _key_type(field, str(field))
    if type(value) is not wanted or _is_nan(value):
        return False
    return not isinstance(value, datetime) or value.tzinfo in {None, UTC}


def _is_nan(value: object) -> bool:
    return isinstance(value, float | Decimal) and isnan(value)


def _plain(value: object, wanted: type) -> Any:
    """A subclass instance as its plain type: an instant has one form, and no subclass could be encoded."""
    if wanted is datetime and isinstance(value, datetime):
        whole = datetime.combine(value.date(), value.timetz())
        return whole if whole.tzinfo is None else whole.astimezone(UTC)
    if type(value) is wanted:
        return value
    if wanted is str and isinstance(value, str):
        return str.__str__(value)
    if wanted is int and isinstance(value, int):
        return int(value)
    return None


def _find_field(model: type[Model], name: str, label: str) -> Any:
    try:
        field = model._meta.get_field(name)
    except FieldDoesNotExist:
        advice = "; a walk needs a field of the model itself" if "__" in name else ""
        raise InvalidKeyRangesError(f"{label} does not exist{advice}") from None
    if not getattr(field, "concrete", False) or field.many_to_many or field.one_to_many:
        raise InvalidKeyRangesError(f"{label} has several values or no column; a walk needs one value in each row")
    return field


def _terminal(field: Any) -> Any:
    while field.is_relation:
        field = field.target_field
    return field


def _key_type(field: "Field[Any, Any]", label: str) -> type:
    key_type = _KEY_TYPES.get(field.get_internal_type())
    if key_type is None:
        raise InvalidKeyRangesError(
            f"{label} is a {type(field).__name__}, whose values are not ordered in a way that can be resumed"
        )
    return key_type


def _check_field(field: Any, label: str, using: str) -> None:
    if getattr(field, "auto_now", False):
        raise InvalidKeyRangesError(
            f"{label} changes with every save (auto_now): a row that the callback saves would come again, without end"
        )
    if field.get_internal_type() == "DecimalField" and connections[using].vendor == "sqlite":
        # None is any number of them, from Django 6.1 on.
        digits = getattr(field, "max_digits", None)
        if digits is None or digits > _SQLITE_DIGITS:
            raise InvalidKeyRangesError(
                f"{label} has {'any number of' if digits is None else digits} digits, and SQLite keeps only "
                f"{_SQLITE_DIGITS}: rows could be skipped"
            )


def _check_queryset(queryset: QuerySet[Any]) -> None:
    query = queryset.query
    has_values = getattr(queryset, "_fields", None) is not None
    # Such a class may leave rows out, so that a short page would be taken for the last one.
    made = getattr(queryset, "_iterable_class", ModelIterable)
    obstacles = {
        "is sliced": query.is_sliced,
        "is a union, intersection or difference": bool(query.combinator),
        "uses values()": has_values,
        f"makes its rows in a way of its own ({made.__name__})": made is not ModelIterable and not has_values,
        "uses select_for_update(), which holds no lock between two pages": query.select_for_update,
        "filters by a window function, which each page would compute anew": query.where.contains_over_clause,
        "uses distinct() with fields": bool(query.distinct_fields),
    }
    found = [words for words, there in obstacles.items() if there]
    if found:
        raise InvalidKeyRangesError(f"a queryset that {' and '.join(found)} cannot be walked in key ranges")
