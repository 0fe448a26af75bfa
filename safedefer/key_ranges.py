"""Key range getters, for the `key_ranges_getter` of an iteration.

Each takes a queryset and the number of shards, with `order_by` by keyword, and returns `(start, end)` pairs.
"""

from safedefer.django.key_ranges.arithmetic import random_uuid_key_ranges, sequential_int_key_ranges
from safedefer.django.key_ranges.datastore import datastore_key_ranges
from safedefer.django.key_ranges.default import default_key_ranges
from safedefer.django.key_ranges.samples import sampled_key_ranges

__all__ = [
    "datastore_key_ranges",
    "default_key_ranges",
    "random_uuid_key_ranges",
    "sampled_key_ranges",
    "sequential_int_key_ranges",
]
