"""Relations that instances hold: they never travel; named, they are loaded anew with the row."""

import pytest
from django.db import connection
from django.db.models import Model
from django.test.utils import CaptureQueriesContext
from msgpack import ExtType, packb

from safedefer import defer
from safedefer.core.references import ModelReference
from safedefer.core.wire import ExtCode
from safedefer.django.modelrefs import DjangoReferences
from safedefer.errors import Reason
from tests.site.shop import tasks
from tests.site.shop.models import Customer, Draft, Invoice, LoyalCustomer, Order, PremiumCustomer, Reminder, Seat
from tests.support.site import Site

RESOLVER = DjangoReferences()


def load(instance: Model, *, with_related: bool = True) -> tuple[Model, int]:
    """The instance as a function would get it, and how many queries that took."""
    reference = RESOLVER.reference(instance, with_related=with_related)
    with CaptureQueriesContext(connection) as queries:
        row = RESOLVER.resolve([reference])[reference]
    assert isinstance(row, Model)
    return row, len(queries)


@pytest.fixture
def reminder(transactional_db: None) -> Reminder:
    customer = PremiumCustomer.objects.create(name="Ann", discount=5)
    order = Order.objects.create(customer=customer, referrer=None)
    invoice = Invoice.objects.create(order=order)
    return Reminder.objects.get(pk=Reminder.objects.create(invoice=invoice).pk)


def test_relations_that_were_loaded_are_loaded_with_the_row(reminder: Reminder) -> None:
    assert reminder.invoice.order.customer.name == "Ann"
    row, queries = load(reminder)
    assert queries == 1
    assert isinstance(row, Reminder)
    with CaptureQueriesContext(connection) as more:
        assert row.invoice.order.customer.name == "Ann"
    assert len(more) == 0


def test_relations_that_were_not_loaded_are_not(reminder: Reminder) -> None:
    assert reminder.invoice.pk
    row, _ = load(reminder)
    assert set(row._state.fields_cache) == {"invoice"}
    assert isinstance(row, Reminder)
    assert set(row.invoice._state.fields_cache) == set()


def test_by_default_an_instance_arrives_bare(reminder: Reminder) -> None:
    assert reminder.invoice.order.pk
    row, _ = load(reminder, with_related=False)
    assert row._state.fields_cache == {}


def test_rows_come_fresh_and_not_from_the_callers_cache(reminder: Reminder) -> None:
    assert reminder.invoice.order.customer.name == "Ann"
    Customer.objects.update(name="Zoe")
    row, _ = load(reminder)
    assert isinstance(row, Reminder)
    assert row.invoice.order.customer.name == "Zoe"
    assert reminder.invoice.order.customer.name == "Ann"


def test_reverse_one_to_one_relation_is_one_as_well(reminder: Reminder) -> None:
    order = Order.objects.get()
    assert getattr(order, "invoice").pk  # noqa: B009  # Unknown to pyright.
    row, queries = load(order)
    assert queries == 1
    assert set(row._state.fields_cache) == {"invoice"}


def test_relation_to_nothing_is_no_relation(reminder: Reminder) -> None:
    order = Order.objects.get()
    assert order.referrer is None
    assert RESOLVER.reference(order, with_related=True).related == ()


def test_parents_of_inheritance_are_no_relations(reminder: Reminder) -> None:
    premium = PremiumCustomer.objects.get()
    assert getattr(premium, "customer_ptr").pk == premium.pk  # noqa: B009  # Unknown to the stubs.
    assert RESOLVER.reference(premium, with_related=True).related == ()
    customer = Customer.objects.get()
    assert getattr(customer, "premiumcustomer").discount == 5  # noqa: B009
    assert RESOLVER.reference(customer, with_related=True).related == ()


def test_one_query_for_each_model_whatever_the_number_of_rows(reminder: Reminder) -> None:
    customers = [Customer.objects.create(name=str(number)) for number in range(20)]
    references = [RESOLVER.reference(customer) for customer in customers]
    references += [RESOLVER.reference(LoyalCustomer.objects.get(pk=customers[0].pk)), RESOLVER.reference(reminder)]
    with CaptureQueriesContext(connection) as queries:
        assert len(RESOLVER.resolve(references)) == 22
    assert len(queries) == 3


def test_deferred_fields_come_whole(reminder: Reminder) -> None:
    partial = Customer.objects.only("pk").get()
    row, _ = load(partial)
    assert row.get_deferred_fields() == set()


@pytest.mark.parametrize(
    "path", ["nothing", "customer__nothing", "__class__", "customer__premiumcustomer", "pk", "customer__" * 5 + "x", ""]
)
def test_name_that_is_no_relation_loads_nothing(reminder: Reminder, path: str) -> None:
    order = Order.objects.get()
    reference = ModelReference(label="shop.order", using="default", key=order.pk, related=(path,))
    row = RESOLVER.resolve([reference])[reference]
    assert isinstance(row, Order)
    assert row._state.fields_cache == {}


def test_option_brings_the_relations_to_the_function_and_leaves_the_callers_alone(site: Site) -> None:
    order = Order.objects.create(customer=Customer.objects.create(name="Ann"))
    assert set(order._state.fields_cache) == {"customer"}
    defer(tasks.show_order, order, _wipe_related_caches=False)
    tasks.show_order.options(wipe_related_caches=False).defer(order)
    defer(tasks.show_order, order)
    assert set(order._state.fields_cache) == {"customer"}
    site.run_tasks()
    assert sorted(site.traces()) == [f"order {order.pk} ['customer']"] * 2 + [f"order {order.pk} []"]


@pytest.mark.parametrize(
    "related",
    [[], "customer", [1], ["x" * 251], ["customer"] * 17, [["customer"]], {"customer": 1}, None],
)
def test_relations_of_another_form_are_refused(site: Site, related: object) -> None:
    order = Order.objects.create(customer=Customer.objects.create(name="Ann"))
    reference = ExtType(ExtCode.MODEL, packb(["shop.order", "default", order.pk, related]))
    wire = site.forge(site.seal(tasks.show_order, order), body=packb([[reference], {}]))
    assert site.refusal(site.post(wire)).reason is Reason.BODY_MALFORMED


def test_rows_of_composite_keys_and_of_managers_that_hide_them_travel(site: Site) -> None:
    seats = [Seat.objects.create(row=row, number=number) for row, number in (("A", 1), ("A", 2), ("B", 1))]
    draft = Draft.objects.create()
    wire = site.seal(tasks.show_rows, [seats[2], seats[0]], draft)
    Seat.objects.filter(row="B").update(holder="x")
    Draft.objects.update(deleted=True)
    assert site.post(wire).status == 204
    assert site.traces() == [f"rows B1x A1 {draft.pk} True"]
