"""T08: text that a user typed looks like a reference, or a signed reference names a row of another model."""

import pytest
from msgpack import ExtType, packb

from safedefer.core.wire import ExtCode
from safedefer.errors import Reason
from tests.site.shop import tasks
from tests.site.shop.models import Customer, Parcel
from tests.support.site import Site


def reference(label: str, using: str, key: object) -> ExtType:
    return ExtType(ExtCode.MODEL, packb([label, using, key]))


@pytest.mark.parametrize(
    "value",
    [
        "shop.customer:1",
        "gid://app/Customer/1",
        {"model": "shop.customer", "pk": 1},
        {"__model__": ["shop.customer", "default", 1]},
        packb(reference("shop.customer", "default", 1)),
        ["shop.customer", "default", 1],
    ],
)
def test_T08_value_that_looks_like_a_reference_stays_what_it_is(site: Site, value: object) -> None:
    Customer.objects.create(pk=1, name="Ann")
    assert site.post(site.seal(tasks.keep, value)).status == 204
    assert site.traces() == [f"keep {value!r}"]


@pytest.mark.parametrize(
    "forged",
    [
        reference("shop.parcel", "default", 1),
        reference("shop.trace", "default", 1),
        reference("contenttypes.contenttype", "default", 1),
        reference("auth.user", "default", 1),
        reference("shop.Customer", "default", 1),
        reference("shop.customer.x", "default", 1),
        reference("", "default", 1),
        reference("shop.customer", "nowhere", 1),
        ExtType(ExtCode.MODEL, packb(["shop.customer", 1])),
        ExtType(ExtCode.MODEL, packb("shop.customer")),
        ExtType(ExtCode.MODEL, packb([["shop.customer"], "default", 1])),
        reference("shop.customer", "default", [1]),
        reference("shop.customer", "default", {"pk__gt": 0}),
        reference("shop.customer", "default", "1 OR 1=1"),
        reference("shop.customer", "default", None),
    ],
    ids=repr,
)
def test_T08_reference_to_anything_but_the_annotated_model_is_refused(site: Site, forged: ExtType) -> None:
    Customer.objects.create(pk=1, name="Ann")
    Parcel.objects.create()
    reply = site.post(site.forge(site.seal(tasks.greet_or_fail, Customer.objects.get()), body=packb([[forged], {}])))
    assert reply.status in (204, 409)
    assert site.refusal(reply).reason in (
        Reason.ARGUMENTS_MISMATCH,
        Reason.BODY_MALFORMED,
        Reason.REFERENCE_MISSING,
    )


def test_T08_reference_where_the_annotation_is_any_is_refused(site: Site) -> None:
    Customer.objects.create(pk=1, name="Ann")
    body = packb([[reference("shop.customer", "default", 1)], {}])
    reply = site.post(site.forge(site.seal(tasks.keep, 1), body=body))
    assert site.refusal(reply).reason is Reason.ARGUMENTS_MISMATCH
