"""T08 for iterations: a thief of a key has a callback called for rows that it was not written for, or are private."""

from dataclasses import replace
from typing import Any

import pytest

from safedefer.api import Deferrable
from safedefer.core.claims import TaskType
from safedefer.core.iteration.description import Condition, Description
from safedefer.core.iteration.items import ItemPolicy
from safedefer.core.iteration.plan import Named, Plan, dump_plan
from safedefer.errors import Reason
from tests.site.shop import tasks
from tests.site.shop.models import Customer
from tests.support.site import Site

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other", "postgres"])
CUSTOMERS = Description(label="shop.customer", using="default")


def about(path: str, lookup: str = "exact", value: object = 1) -> Description:
    return replace(CUSTOMERS, filters=(Condition(path=path, lookup=lookup, value=value),))


def forged_plan(site: Site, source: Description) -> bytes:
    """A plan under the site's own key, as nobody has deferred it."""
    wire = site.seal(tasks.visit, Customer.objects.create(name="Ada"), "hi")
    plan = Plan(
        source=source,
        callback=named(tasks.visit),
        finalize=named(tasks.all_visited),
        arguments=[["hi"], {}],
        order_field="pk",
        shards=2,
        key_ranges=None,
        policy=ItemPolicy(),
        keeps=False,
        atomic=False,
    )
    return site.forge(wire, claims={"type": TaskType.PLAN}, body=dump_plan(plan))


def named(function: Deferrable[Any]) -> Named:
    return Named(name=function.registered.name, version=function.registered.version)


@pytest.mark.parametrize(
    "source",
    [
        Description(label="shop.draft", using="default"),
        Description(label="contenttypes.contenttype", using="default"),
        Description(label="auth.user", using="default"),
        replace(CUSTOMERS, label="shop.nothing"),
        replace(CUSTOMERS, using="nowhere"),
        about("password", "startswith", "x"),
        about("_connector", value="OR 1=1"),
        about("name__regex", value="(a+)+$"),
        about("nothing"),
        replace(CUSTOMERS, prefetch_related=("delete",)),
    ],
)
def test_T08_plan_of_other_rows_is_refused_and_walks_nothing(site: Site, source: Description) -> None:
    wire = forged_plan(site, source)
    assert site.post(wire).status != 204
    (event,) = site.dispatches()
    assert (event.accepted, event.reason) == (False, Reason.ARGUMENTS_MISMATCH)
    assert site.traces() == []


def test_T08_genuine_plan_is_walked(site: Site) -> None:
    wire = forged_plan(site, about("name", value="Ada"))
    assert site.post(wire).status == 204
    site.run_tasks()
    assert site.traces() == ["visit Ada hi False True", "finalized hi False"]
