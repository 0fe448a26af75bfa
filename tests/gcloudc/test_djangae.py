"""What djangae's documentation shows of iterations works as it is written there."""

import pytest
from django.db import transaction
from google.cloud import datastore

from safedefer import defer_iteration_with_finalize
from safedefer.emulator import LocalCloud
from tests.gcloudc.shop.iterations import callback, custom_datastore_key_ranges, finalize
from tests.gcloudc.shop.models import Counter, Seat

WAIT_SECONDS = 20.0


@pytest.fixture
def seats(cloud: LocalCloud) -> None:
    Seat.objects.bulk_create(Seat(number=number, row="AB"[number % 2]) for number in range(1, 201))


def counts(cloud: LocalCloud) -> dict[str, int]:
    """The counters, once nothing is left to be done."""
    assert cloud.tasks.wait_idle(WAIT_SECONDS)
    return {counter.name: counter.count for counter in Counter.objects.all()}


def shards_left() -> int:
    return len(list(datastore.Client(project="local").query(kind="SafedeferShard").fetch()))


@pytest.mark.usefixtures("seats")
def test_sharded_counters_are_summed_by_finalize(cloud: LocalCloud) -> None:
    defer_iteration_with_finalize(Seat.objects.all(), callback, finalize, 2, label="seats ", _shards=4)
    found = counts(cloud)
    assert found.pop("total") == 400
    assert sorted(found) == ["seats 0", "seats 1", "seats 2", "seats 3"]
    assert sum(found.values()) == 400
    assert shards_left() == 0


@pytest.mark.usefixtures("seats")
def test_random_keys_of_a_filtered_queryset_cut_it(cloud: LocalCloud) -> None:
    with transaction.atomic():
        defer_iteration_with_finalize(
            Seat.objects.filter(row="A"),
            callback,
            finalize,
            1,
            key_ranges_getter=custom_datastore_key_ranges,
            _queue="default",
            _shards=3,
            _delete_marker=False,
            _transactional=True,
        )
        assert cloud.tasks.wait_idle(WAIT_SECONDS)
        assert shards_left() == 0
    found = counts(cloud)
    assert found.pop("total") == 100
    assert sorted(found) == ["0", "1", "2"]
    assert max(found.values()) < 50
    assert shards_left() == 3
