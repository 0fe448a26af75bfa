"""Model instances and the references that stand for them."""

import uuid
from collections.abc import Iterable
from typing import Any

import pytest
from django.contrib.contenttypes.models import ContentType
from django.db import connection, connections
from django.db.models import Model
from django.test.utils import CaptureQueriesContext

from safedefer.core.references import ModelReference
from safedefer.django.modelrefs import DjangoReferences, RowsUnavailableError
from safedefer.errors import ArgumentsRefusedError, Reason, UnavailableError
from tests.site.shop.models import Badge, Customer, LoyalCustomer, Parcel, PremiumCustomer, Stamped

RESOLVER = DjangoReferences()


def make_reference(key: object, label: str = "shop.customer", using: str = "default") -> ModelReference:
    return ModelReference(label=label, using=using, key=key)


def round_trip(instance: Model) -> object:
    reference = RESOLVER.reference(instance)
    return RESOLVER.resolve([reference])[reference]


def resolve_counted(references: Iterable[ModelReference], alias: str = "default") -> tuple[int, int]:
    """How many rows were found, and with how many queries."""
    with CaptureQueriesContext(connections[alias]) as queries:
        rows = RESOLVER.resolve(references)
    return len(rows), len(queries)


def nothing_found(reference: ModelReference) -> bool:
    """Whether a reference finds no row, or is refused without being quoted. Never an outage."""
    try:
        return RESOLVER.resolve([reference]) == {}
    except ArgumentsRefusedError as error:
        return error.reason is Reason.ARGUMENTS_MISMATCH and str(reference.key) not in str(error)


@pytest.mark.django_db
def test_instance_comes_back_as_its_own_class() -> None:
    for instance in (
        Customer.objects.create(name="Ann"),
        PremiumCustomer.objects.create(name="Zoe", discount=5),
        LoyalCustomer.objects.create(name="Bob"),
        Parcel.objects.create(),
        Badge.objects.create(code="b-1"),
        ContentType.objects.get_for_model(Customer),
    ):
        found = round_trip(instance)
        assert type(found) is type(instance)
        assert found == instance
        assert found is not instance


@pytest.mark.django_db
def test_reference_names_the_very_class_and_the_key_as_a_plain_value() -> None:
    premium = PremiumCustomer.objects.create(name="Zoe")
    assert RESOLVER.reference(premium) == make_reference(premium.pk, "shop.premiumcustomer")
    parcel = Parcel.objects.create()
    assert RESOLVER.reference(parcel) == make_reference(parcel.pk, "shop.parcel")
    assert isinstance(RESOLVER.reference(parcel).key, uuid.UUID)
    assert RESOLVER.reference(LoyalCustomer(pk=premium.pk, name="x").__class__.objects.get()).label == (
        "shop.loyalcustomer"
    )


@pytest.mark.django_db
def test_row_is_read_as_it_is_now_and_not_as_it_was_loaded() -> None:
    customer = Customer.objects.create(name="Ann")
    partly = Customer.objects.defer("name").get()
    customer.name = "never saved"
    Customer.objects.update(name="Anna")
    for instance in (customer, partly):
        found: Any = round_trip(instance)
        assert found.name == "Anna"
        assert found.get_deferred_fields() == set()
    assert customer.name == "never saved"
    assert partly.get_deferred_fields() == {"name"}


@pytest.mark.django_db
def test_instance_that_is_no_saved_row_is_refused() -> None:
    deleted = Customer.objects.create(name="Ann")
    deleted.delete()
    for instance in (Customer(name="x"), Customer(pk=5, name="x"), Parcel(), Badge(code="x"), deleted):
        with pytest.raises(ValueError, match="not saved"):
            RESOLVER.reference(instance)
    for other in (5, "shop.customer", Customer, None):
        with pytest.raises(ValueError, match="no model instance"):
            RESOLVER.reference(other)


@pytest.mark.django_db(databases=["default", "other"])
def test_row_is_looked_for_on_its_own_alias_only() -> None:
    here = Customer.objects.create(pk=1, name="here")
    there = Customer.objects.using("other").create(pk=1, name="there")
    references = [RESOLVER.reference(here), RESOLVER.reference(there)]
    assert [reference.using for reference in references] == ["default", "other"]
    rows: Any = RESOLVER.resolve(references)
    assert [rows[reference].name for reference in references] == ["here", "there"]
    here.delete()
    assert list(RESOLVER.resolve(references)) == [references[1]]
    assert resolve_counted(references, "other") == (1, 1)


@pytest.mark.django_db
def test_rows_of_one_model_take_one_query_and_another_for_each_five_hundred() -> None:
    Customer.objects.bulk_create(Customer(name=f"c{number}") for number in range(1_001))
    references = [RESOLVER.reference(customer) for customer in Customer.objects.all()]
    assert resolve_counted(references[:500]) == (500, 1)
    assert resolve_counted(references[:501]) == (501, 2)
    assert resolve_counted(references) == (1_001, 3)
    assert resolve_counted([]) == (0, 0)
    assert resolve_counted(references[:1] * 700) == (1, 1)


@pytest.mark.django_db
def test_each_model_takes_one_query() -> None:
    references = [
        RESOLVER.reference(model.objects.create()) for model in (Customer, Parcel, PremiumCustomer, Customer, Parcel)
    ]
    assert resolve_counted(references) == (5, 3)


@pytest.mark.django_db
def test_rows_that_are_gone_are_left_out() -> None:
    customer = Customer.objects.create(name="Ann")
    references = [make_reference(customer.pk), make_reference(customer.pk + 1)]
    assert list(RESOLVER.resolve(references)) == references[:1]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("label", "key"),
    [
        ("shop.customer", "one"),
        ("shop.customer", (1, 2)),
        ("shop.customer", b"1"),
        ("shop.customer", "1) OR (1=1"),
        ("shop.parcel", "no uuid"),
        ("shop.parcel", "zz" * 16),
        ("shop.badge", (1,)),
    ],
)
def test_key_that_the_model_cannot_have_is_a_mismatch_and_finds_nothing(label: str, key: object) -> None:
    Customer.objects.create(pk=1, name="Ann")
    assert nothing_found(make_reference(key, label))


@pytest.mark.django_db
@pytest.mark.parametrize("key", [1 << 70, -(1 << 70), None])
def test_key_beyond_every_column_finds_nothing(key: object) -> None:
    assert nothing_found(make_reference(key))


@pytest.mark.django_db
def test_key_of_another_type_that_sql_would_take_for_the_same_finds_nothing() -> None:
    Customer.objects.create(pk=1, name="Ann")
    assert RESOLVER.resolve([make_reference("1")]) == {}


@pytest.mark.django_db(databases=["default", "postgres"])
def test_text_that_the_database_cannot_hold_is_a_mismatch_and_no_outage() -> None:
    with pytest.raises(ArgumentsRefusedError) as caught:
        RESOLVER.resolve([make_reference("a\x00b", "shop.badge", "postgres")])
    assert caught.value.reason is Reason.ARGUMENTS_MISMATCH


@pytest.mark.parametrize(
    ("label", "using"),
    [("shop.customer", "nowhere"), ("shop.customer", ""), ("shop.gone", "default"), ("gone.customer", "default")],
)
def test_alias_or_model_that_is_gone_is_a_mismatch(label: str, using: str) -> None:
    with pytest.raises(ArgumentsRefusedError) as caught:
        RESOLVER.resolve([make_reference(1, label, using)])
    assert caught.value.reason is Reason.ARGUMENTS_MISMATCH


@pytest.mark.django_db(transaction=True)
def test_database_that_fails_is_unavailable() -> None:
    with connection.schema_editor() as editor:
        editor.execute("ALTER TABLE shop_badge RENAME TO shop_badge_away")
    try:
        with pytest.raises(RowsUnavailableError) as caught:
            RESOLVER.resolve([make_reference("x", "shop.badge")])
    finally:
        with connection.schema_editor() as editor:
            editor.execute("ALTER TABLE shop_badge_away RENAME TO shop_badge")
    assert isinstance(caught.value, UnavailableError)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("label", "cls", "allowed"),
    [
        ("shop.customer", Customer, True),
        ("shop.premiumcustomer", Customer, True),
        ("shop.loyalcustomer", Customer, True),
        ("shop.badge", Stamped, True),
        ("shop.badge", Model, True),
        ("shop.customer", PremiumCustomer, False),
        ("shop.customer", LoyalCustomer, False),
        ("shop.customer", Parcel, False),
        ("shop.customer", Stamped, False),
        ("shop.stamped", Stamped, False),
        ("contenttypes.contenttype", Customer, False),
        ("shop", Customer, False),
        ("", Customer, False),
        (".", Customer, False),
        ("shop.", Customer, False),
        (".customer", Customer, False),
        ("shop.customer.x", Customer, False),
        ("shop.customer ", Customer, False),
        ("tests.site.shop.models.Customer", Customer, False),
        ("shop.customer\x00", Customer, False),
    ],
)
def test_label_stands_for_an_installed_model_and_its_subclasses(label: str, cls: type, allowed: bool) -> None:
    assert RESOLVER.allows(label, cls) is allowed


@pytest.mark.parametrize(
    ("cls", "is_model"),
    [(Customer, True), (LoyalCustomer, True), (Stamped, True), (Model, False), (int, False), (type, False)],
)
def test_models_are_told_from_other_classes(cls: type, is_model: bool) -> None:
    assert RESOLVER.is_model(cls) is is_model
