"""Querysets on Datastore as descriptions: what comes back finds the same rows, and no near miss is taken for it."""

import random
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.db.models import Q

from safedefer.django.descriptions.describe import _compile
from safedefer.flow.runtime import current_runtime
from tests.gcloudc.shop.models import Reading

pytestmark = pytest.mark.usefixtures("cloud")

DICE = random.Random(7)
MOMENT = datetime(2024, 1, 3, tzinfo=UTC)
CONDITIONS = [
    Q(label="a"),
    Q(level__in=[1, 2, 3]),
    Q(label="a", is_open=True) | Q(slug="x") | Q(level=4),
    Q(slug="x") & (Q(level=1) | Q(level=2)) & ~Q(pk=7),
    ~Q(pk__in=[5, 6]),
    ~Q(label="a"),
    Q(taken__isnull=True),
    Q(taken__gte=MOMENT, is_open=False),
    Q(price=Decimal("1.50")),
    Q(pk__in=[]),
]


@pytest.mark.parametrize("condition", CONDITIONS, ids=str)
def test_description_finds_the_same_rows(condition: Q) -> None:
    Reading.objects.bulk_create(
        Reading(
            pk=pk,
            level=DICE.randrange(6),
            label=DICE.choice("abc"),
            slug=DICE.choice("xyz"),
            is_open=DICE.random() < 0.5,
            taken=DICE.choice([None, MOMENT]),
            price=DICE.choice([Decimal("1.50"), Decimal(0)]),
        )
        for pk in range(1, 31)
    )
    querysets = current_runtime().querysets
    rows = Reading.objects.filter(condition)
    built: Any = querysets.build(querysets.describe(rows))
    assert sorted(row.pk for row in built) == sorted(row.pk for row in rows)


@pytest.mark.parametrize(
    ("condition", "other"),
    [(~Q(pk=5), ~Q(pk=6)), (~Q(pk=5), Q()), (Q(pk__in=[5, 6]), Q(pk__in=[5, 7])), (Q(is_open=True), Q(level=1))],
    ids=str,
)
def test_near_miss_is_another_query(condition: Q, other: Q) -> None:
    assert _compile(Reading.objects.filter(condition)) != _compile(Reading.objects.filter(other))
