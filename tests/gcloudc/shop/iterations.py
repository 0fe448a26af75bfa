"""What djangae's documentation shows of iterations, with other imports, with decorators, and nothing else changed."""

import functools
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from safedefer import deferrable, get_deferred_shard_index
from safedefer.key_ranges import datastore_key_ranges
from tests.gcloudc.shop.models import Counter, Seat


@deferrable(name="shop.count_seat")
def callback(instance: Seat, step: int, *, label: str = "") -> None:
    """A sharded counter: no two workers write the one of a shard."""
    shard_index = get_deferred_shard_index()
    with transaction.atomic():
        counter, _ = Counter.objects.get_or_create(name=f"{label}{shard_index}")
        counter.count += step
        counter.save()


@deferrable(name="shop.sum_counters")
def finalize(step: int, *, label: str = "") -> None:
    """Add up what the shards have counted."""
    counters = [counter for counter in Counter.objects.all() if counter.name.startswith(label)]
    Counter.objects.create(name="total", count=sum(counter.count for counter in counters))


def custom_find_random_keys(queryset: QuerySet[Any], shard_count: int) -> list[object]:
    """Random keys of a queryset with filters, which no index of `__scatter__` can give."""
    return [instance.pk for instance in queryset.order_by("pk")[: shard_count * 32]]


custom_datastore_key_ranges = functools.partial(
    datastore_key_ranges,
    random_keys_getter=custom_find_random_keys,
)
