"""The default: a strategy by the database and the order field, so that no distribution of keys starves shards."""

from typing import Any, Final
from uuid import UUID, uuid4

from django.db.models import QuerySet

from safedefer.django.datastore_pages import is_datastore
from safedefer.django.estimates import estimate_rows
from safedefer.django.key_ranges.arithmetic import equal_steps, first_and_last, random_uuid_key_ranges
from safedefer.django.key_ranges.datastore import datastore_key_ranges
from safedefer.django.key_ranges.ranges import Pair, resolve
from safedefer.django.key_ranges.samples import sampled_key_ranges

_DENSE: Final = 0.5
"""Above this share of integers in use, no equal step holds more than twice the average."""


def default_key_ranges(queryset: QuerySet[Any], shards: int, *, order_by: str = "pk") -> list[Pair]:
    """Key ranges by what suits the database and the order field.

    Datastore: random keys. Integers without large gaps: equal steps. Everything else: a sample. Random UUIDs where no
    sample can be had: equal parts.
    """
    order = resolve(queryset, shards, order_by)
    if shards == 1:
        return [(None, None)]
    if is_datastore(queryset.db):
        return datastore_key_ranges(queryset, shards, order_by=order_by)
    if order.key_type is int and order.unique:
        found = first_and_last(queryset, order)
        if found is None:
            return []
        rows = estimate_rows(queryset)
        if rows is not None and rows > _DENSE * (found[1] + 1 - found[0]):
            return equal_steps(*found, shards)
    ranges = sampled_key_ranges(queryset, shards, order_by=order_by)
    if len(ranges) == 1 and order.key_type is UUID and order.field.default is uuid4:
        return random_uuid_key_ranges(queryset, shards, order_by=order_by)
    return ranges
