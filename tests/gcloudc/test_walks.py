"""Pages of walks on Datastore: whatever the filter and the order field, each row comes once and in order."""

import random
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import chain
from typing import Any
from uuid import UUID

import pytest
from django.db.models import Q, QuerySet
from django.db.models.signals import post_init

from safedefer.django.order_field import resolve_order_field
from safedefer.django.pages import find_place, place_of, read_page
from safedefer.django.positions import KeyRange
from safedefer.errors import InvalidKeyRangesError
from safedefer.key_ranges import (
    datastore_key_ranges,
    default_key_ranges,
    random_uuid_key_ranges,
    sampled_key_ranges,
)
from tests.gcloudc.shop.models import Customer, Parcel, Reading, Shelf
from tests.support.walks import walk

pytestmark = pytest.mark.usefixtures("cloud")

DICE = random.Random(5)
TEXTS = ["", "a", "A", "b", "a b", "ä", "ß", "z", "_", "-", "\uffff", "\U0001f600", "e\u0301", "%", "'"]
VALUES: dict[str, Callable[[], object]] = {
    "level": lambda: DICE.choice([DICE.randint(-5, 5), DICE.randint(-(2**62), 2**62)]),
    "label": lambda: DICE.choice(TEXTS) + DICE.choice(TEXTS),
    "slug": lambda: DICE.choice(TEXTS),
    "price": lambda: Decimal(DICE.randint(-(10**8), 10**8)) / 100,
    "ratio": lambda: DICE.choice([DICE.uniform(-1e9, 1e9), DICE.uniform(-1, 1), 0.0, -0.0, 5e-324]),
    "taken": lambda: datetime(2024, 1, 1, tzinfo=UTC) + timedelta(microseconds=DICE.randint(-(10**15), 10**15)),
    "day": lambda: date(2024, 1, 1) + timedelta(days=DICE.randint(-10_000, 10_000)),
    "at": lambda: time(DICE.randrange(24), DICE.randrange(60), microsecond=DICE.randrange(10**6)),
    "lasted": lambda: timedelta(microseconds=DICE.randint(-(10**12), 10**12)),
    "serial": lambda: UUID(int=DICE.getrandbits(128)),
    "is_open": lambda: DICE.random() < 0.5,
}


def at_every_key(queryset: QuerySet[Any], shards: int, *, order_by: str = "pk") -> Any:
    """Ranges between all keys that there are: the order in Python has to be the one in Datastore."""
    everything = [row.pk for row in queryset.model._base_manager.all()]
    return datastore_key_ranges(queryset, len(everything), order_by=order_by, random_keys_getter=lambda *_: everything)


def visits(queryset: QuerySet[Any], getter: Any, order_by: str = "pk") -> list[Any]:
    return list(chain.from_iterable(walk(queryset, getter, shards=3, order_by=order_by, limit=4)))


def in_order(queryset: QuerySet[Any], order_by: str) -> list[Any]:
    """As Python sorts them; a decimal is a text to Datastore."""

    def place(row: Any) -> tuple[Any, Any]:
        value = getattr(row, order_by)
        return f"{'-' if value < 0 else ''}{abs(value):013.2f}" if isinstance(value, Decimal) else value, row.pk

    return [row.pk for row in sorted(queryset, key=place)]


@pytest.mark.parametrize("name", VALUES)
def test_values_have_one_order_here_and_there(name: str) -> None:
    some = [VALUES[name]() for _ in range(9)]
    Reading.objects.bulk_create(Reading(**{name: DICE.choice(some)}) for _ in range(24))
    rows = Reading.objects.all()
    assert visits(rows, at_every_key, name) == in_order(rows, name)
    assert visits(rows, default_key_ranges, name) == in_order(rows, name)


def test_relation_is_walked_by_its_key() -> None:
    Customer.objects.bulk_create(Customer(name=str(number)) for number in range(4))
    owners = list(Customer.objects.all())
    Reading.objects.bulk_create(Reading(customer=owners[number % 4]) for number in range(20))
    rows = Reading.objects.all()
    assert visits(rows, at_every_key, "customer") == in_order(rows, "customer_id")


@pytest.mark.parametrize("getter", [at_every_key, default_key_ranges, random_uuid_key_ranges])
def test_keys_that_are_uuids_are_names_in_order(getter: Any) -> None:
    Parcel.objects.bulk_create(Parcel(id=VALUES["serial"]()) for _ in range(30))
    rows = Parcel.objects.all()
    assert visits(rows, getter) == in_order(rows, "pk")


@pytest.mark.parametrize(
    ("model", "name"), [(Reading, "note"), (Reading, "raw"), (Shelf, "height")], ids=["text", "bytes", "unnamed"]
)
def test_field_that_datastore_does_not_index_is_refused(model: Any, name: str) -> None:
    model.objects.create()
    with pytest.raises(InvalidKeyRangesError, match=f"{name} is in no index of Datastore"):
        visits(model.objects.all(), default_key_ranges, name)


@pytest.mark.parametrize("name", ["aisle", "depth", "owner"])
def test_field_whose_index_is_named_is_walked(name: str) -> None:
    owner = Customer.objects.create(name="Ada")
    Shelf.objects.bulk_create(Shelf(aisle=number % 3, depth=number % 4, owner=owner) for number in range(12))
    rows = Shelf.objects.all()
    assert visits(rows, at_every_key, name) == in_order(rows, f"{name}_id" if name == "owner" else name)


@pytest.mark.parametrize("order_by", ["pk", "age", "since"])
@pytest.mark.parametrize("rows", [Customer.objects.all, lambda: Customer.objects.only("name").filter(city="Graz")])
def test_place_of_the_next_row_is_found_without_making_it(order_by: str, rows: Any) -> None:
    Customer.objects.bulk_create(
        Customer(name=f"c{number}", city="Graz", age=number, since=datetime(2024, 1, 1 + number, tzinfo=UTC))
        for number in range(3)
    )
    order = resolve_order_field(rows(), order_by)
    page = read_page(rows(), KeyRange(), None, order, 3)
    places = [place_of(order, page.key_of(row)) for row in page.rows]

    def refuse(**_: object) -> None:
        raise RuntimeError

    post_init.connect(refuse, sender=Customer)
    try:
        found = [find_place(rows(), KeyRange(), cursor, order) for cursor in [None, *places]]
    finally:
        post_init.disconnect(refuse, sender=Customer)
    assert found == [*places, None]


def test_sampled_ranges_are_refused() -> None:
    with pytest.raises(InvalidKeyRangesError, match="use datastore_key_ranges"):
        sampled_key_ranges(Reading.objects.all(), 3)


FILTERS = {
    "in": Q(level__in=[1, 2, 3, 7]),
    "two in": Q(label__in=["a", "b"], slug__in=["x", "z"]),
    "or of one field": Q(label="a") | Q(label="b"),
    "or of two": Q(label="a", is_open=True) | Q(slug="x"),
    "or and more": (Q(label="a") | Q(label="b")) & Q(slug="x"),
    "equality": Q(label="a"),
    "two equalities": Q(label="a", slug="x"),
    "the other way round": Q(slug="x", label="a"),
    "no such row": Q(label="d"),
}


@pytest.mark.parametrize("order_by", ["pk", "level", "label", "taken"])
@pytest.mark.parametrize("condition", FILTERS.values(), ids=FILTERS)
def test_filter_leaves_out_nothing_else(condition: Q, order_by: str) -> None:
    populate(60)
    rows = Reading.objects.filter(condition)
    assert visits(rows, default_key_ranges, order_by) == in_order(rows, order_by)


@pytest.mark.parametrize("order_by", ["pk", "level"])
def test_rows_named_by_their_keys_are_walked(order_by: str) -> None:
    populate(60)
    some = [row.pk for row in Reading.objects.order_by("pk")][::3]
    for rows in (Reading.objects.filter(pk__in=some), Reading.objects.exclude(pk__in=some)):
        assert visits(rows, at_every_key, order_by) == in_order(rows, order_by)


def populate(count: int) -> None:
    """Readings of few values."""
    Reading.objects.bulk_create(
        Reading(
            level=DICE.randrange(10),
            label=DICE.choice("abc"),
            slug=DICE.choice("xyz"),
            is_open=DICE.random() < 0.5,
            taken=datetime(2024, 1, DICE.randint(1, 9), tzinfo=UTC),
        )
        for _ in range(count)
    )
