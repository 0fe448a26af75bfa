"""Django's ORM on the local Datastore."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from io import StringIO
from operator import attrgetter

import pytest
from django.core.management import call_command
from django.db import IntegrityError, OperationalError, connection, transaction
from django.db.models import Q

from safedefer.emulator import LocalCloud
from tests.gcloudc.shop.models import Customer

pytestmark = pytest.mark.usefixtures("cloud")

SINCE = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
PEOPLE = [("Ada", "Graz", 36), ("Bob", "Linz", 25), ("Cyd", "Graz", 52), ("Dan", "Wien", 25)]


@pytest.fixture
def people() -> list[Customer]:
    Customer.objects.bulk_create([Customer(name=name, city=city, age=age, since=SINCE) for name, city, age in PEOPLE])
    return list(Customer.objects.all())


def names(found: Iterable[Customer]) -> list[str]:
    return sorted(customer.name for customer in found)


def test_migrate_leaves_nothing_to_do() -> None:
    said = StringIO()
    call_command("migrate", stdout=said)
    assert "No migrations to apply" in said.getvalue()
    assert "django_migrations" in connection.introspection.table_names()


def test_row_comes_back_as_it_was() -> None:
    Customer.objects.create(name="Ada", balance=Decimal("9.50"), since=SINCE)
    ada = Customer.objects.get(name="Ada")
    assert (ada.balance, ada.since) == (Decimal("9.50"), SINCE)
    assert Customer.objects.get(pk=ada.pk) == ada
    with pytest.raises(Customer.DoesNotExist):
        Customer.objects.get(name="Bob")


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        (Q(city="Graz"), ["Ada", "Cyd"]),
        (Q(age__lt=36), ["Bob", "Dan"]),
        (Q(age__gte=36), ["Ada", "Cyd"]),
        (Q(age__gt=25, age__lte=36), ["Ada"]),
        (Q(city="Graz", age__gt=40), ["Cyd"]),
        (Q(name__in=["Ada", "Dan", "Eve"]), ["Ada", "Dan"]),
        (Q(city="Wien") | Q(age=52), ["Cyd", "Dan"]),
        (~Q(city="Graz"), ["Bob", "Dan"]),
        (Q(since=SINCE), ["Ada", "Bob", "Cyd", "Dan"]),
        (Q(since__isnull=True), []),
    ],
)
def test_filter_finds_what_it_says(people: list[Customer], condition: Q, found: list[str]) -> None:
    assert names(Customer.objects.filter(condition)) == found
    assert Customer.objects.filter(condition).count() == len(found)
    assert Customer.objects.filter(condition).exists() == bool(found)


def test_order_and_slices(people: list[Customer]) -> None:
    by_age = Customer.objects.order_by("age", "-name")
    assert [customer.name for customer in by_age] == ["Dan", "Bob", "Ada", "Cyd"]
    assert [customer.name for customer in by_age[1:3]] == ["Bob", "Ada"]
    by_key = list(Customer.objects.order_by("pk"))
    assert by_key == sorted(people, key=attrgetter("pk"))
    middle = by_key[1].pk
    assert list(Customer.objects.filter(pk__gt=middle).order_by("pk")[:2]) == by_key[2:]


def test_values_are_projected_and_distinct(people: list[Customer]) -> None:
    assert list(Customer.objects.order_by("city").values_list("city", flat=True).distinct()) == ["Graz", "Linz", "Wien"]
    assert sorted(Customer.objects.values_list("age", "name")) == sorted((age, name) for name, _, age in PEOPLE)
    assert set(Customer.objects.values_list("since", flat=True)) == {SINCE}
    assert len(Customer.objects.values_list("pk", flat=True)) == 4


def test_update_and_delete(people: list[Customer]) -> None:
    assert Customer.objects.filter(city="Graz").update(age=1) == 2
    assert names(Customer.objects.filter(age=1)) == ["Ada", "Cyd"]
    Customer.objects.filter(age=1).delete()
    assert names(Customer.objects.all()) == ["Bob", "Dan"]


def test_unique_name_is_unique(people: list[Customer]) -> None:
    with pytest.raises(IntegrityError):
        Customer.objects.create(name="Ada")
    assert Customer.objects.count() == 4


def act_and_fail(act: Callable[[], object]) -> None:
    with transaction.atomic():
        act()
        raise ZeroDivisionError


def test_atomic_commits_everything_or_nothing() -> None:
    with transaction.atomic():
        Customer.objects.create(name="Ada")
        with transaction.atomic():
            Customer.objects.create(name="Bob")
    assert names(Customer.objects.all()) == ["Ada", "Bob"]
    with pytest.raises(ZeroDivisionError):
        act_and_fail(lambda: Customer.objects.create(name="Cyd"))
    assert names(Customer.objects.all()) == ["Ada", "Bob"]


def test_on_commit_waits_for_the_outermost_block_and_forgets_what_was_rolled_back() -> None:
    said: list[str] = []
    with transaction.atomic():
        with transaction.atomic():
            transaction.on_commit(lambda: said.append("inner"))
        assert said == []
    assert said == ["inner"]
    with pytest.raises(ZeroDivisionError):
        act_and_fail(lambda: transaction.on_commit(lambda: said.append("never")))
    assert said == ["inner"]


def raise_age(pk: int) -> None:
    """In a thread of its own, which has its own connection."""
    try:
        Customer.objects.filter(pk=pk).update(age=1)
    finally:
        connection.close()


def save_what_was_overtaken(pk: int) -> None:
    with transaction.atomic():
        ada = Customer.objects.get(pk=pk)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(raise_age, pk).result()
        ada.age = 2
        ada.save()


def test_transaction_that_was_overtaken_fails_and_changes_nothing() -> None:
    ada = Customer.objects.create(name="Ada")
    with pytest.raises(OperationalError):
        save_what_was_overtaken(ada.pk)
    ada.refresh_from_db()
    assert ada.age == 1


def test_flush_empties_the_database(people: list[Customer], cloud: LocalCloud) -> None:
    call_command("flush", interactive=False, verbosity=0)
    assert Customer.objects.count() == 0
