"""T25: the row that a reference names is gone, was replaced, or lives where the caller did not mean."""

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from safedefer.errors import Reason
from tests.site.shop import tasks
from tests.site.shop.models import Customer, PremiumCustomer
from tests.support.site import Site


@pytest.mark.parametrize(
    ("function", "status"),
    [(tasks.greet, 204), (tasks.greet_or_wait, 409), (tasks.greet_or_fail, 204)],
    ids=["drop", "retry", "fail"],
)
def test_T25_row_that_is_gone_is_dropped_retried_or_refused(site: Site, function: Any, status: int) -> None:
    customer = Customer.objects.create(name="Ann")
    wire = site.seal(function, customer)
    Customer.objects.all().delete()
    reply = site.post(wire)
    assert reply.status == status
    assert site.refusal(reply).reason is Reason.REFERENCE_MISSING


def test_T25_dropped_task_stays_dropped(site: Site) -> None:
    customer = Customer.objects.create(pk=1, name="Ann")
    wire = site.seal(tasks.greet, customer)
    customer.delete()
    assert site.post(wire).status == 204
    Customer.objects.create(pk=1, name="Somebody else")
    assert site.post(wire).status == 204
    assert site.traces() == []


def test_T25_row_that_comes_back_runs_when_it_was_waited_for(site: Site) -> None:
    customer = Customer.objects.create(pk=1, name="Ann")
    wire = site.seal(tasks.greet_or_wait, customer)
    customer.delete()
    assert site.post(wire).status == 409
    Customer.objects.create(pk=1, name="Ann again")
    assert site.post(wire).status == 204
    assert site.traces() == ["greet Ann again"]


def test_T25_parent_where_a_child_was_meant_is_missing(site: Site) -> None:
    premium = PremiumCustomer.objects.create(name="Zoe")
    wire = site.seal(tasks.greet_or_fail, premium)
    premium.delete(keep_parents=True)
    assert Customer.objects.count() == 1
    assert site.refusal(site.post(wire)).reason is Reason.REFERENCE_MISSING


def test_T25_rows_of_one_model_are_loaded_in_one_query(site: Site) -> None:
    customers = [Customer.objects.create(name=f"c{number}") for number in range(20)]
    resolver = site.runtime.resolver
    references = [resolver.reference(customer) for customer in customers]
    with CaptureQueriesContext(connection) as queries:
        rows = resolver.resolve(references)
    assert len(rows) == 20
    assert len(queries) == 1
