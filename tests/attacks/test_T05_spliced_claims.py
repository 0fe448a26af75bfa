"""T05: parts of two genuine envelopes are put together, so that one's arguments run as the other's function."""

from dataclasses import fields, replace
from datetime import timedelta

import pytest
from django.utils import translation

from safedefer import RetryOptions
from safedefer.core.claims import Claims, dump_claims, parse_claims
from safedefer.core.envelope import make_preamble, parse_envelope
from safedefer.errors import Reason
from tests.site.shop import tasks
from tests.support.site import Site

# The two envelopes agree in the others, so that there is nothing to splice.
DIFFERENT = sorted({field.name for field in fields(Claims)} - {"type", "producer", "issued_at"})


@pytest.mark.parametrize("name", DIFFERENT)
def test_T05_claim_taken_from_another_genuine_envelope_is_refused(site: Site, name: str) -> None:
    first = parse_envelope(site.seal(tasks.note, "x"))
    other = tasks.greet_or_fail.options(
        countdown=60,
        queue="billing",
        deadline=60,
        expires=timedelta(hours=2),
        name="spliced",
        retry_options=RetryOptions(max_attempts=1),
    )
    with translation.override("de"):
        second = parse_envelope(site.seal(other, _customer()))
    donor = getattr(parse_claims(second.claims), name)
    ours = parse_claims(first.claims)
    assert donor != getattr(ours, name)
    claims = dump_claims(replace(ours, **{name: donor}))
    preamble = make_preamble(first.suite, first.key_id, claims_size=len(claims), body_size=len(first.body))
    reply = site.post(preamble + claims + first.tag + first.body)
    assert reply.status == 204
    assert site.refusal(reply).reason is Reason.TAG_INVALID


def test_T05_body_of_another_genuine_envelope_is_refused(site: Site) -> None:
    first = parse_envelope(site.seal(tasks.note, "one"))
    second = parse_envelope(site.seal(tasks.note, "two"))
    assert len(first.body) == len(second.body)
    reply = site.post(first.preamble + first.claims + first.tag + second.body)
    assert reply.status == 204
    assert site.refusal(reply).reason is Reason.BODY_DIGEST


def test_T05_genuine_envelope_in_another_queue_is_refused(site: Site) -> None:
    reply = site.post(site.seal(tasks.note, "x"), headers={"X-CloudTasks-QueueName": "billing"})
    assert reply.status == 204
    assert site.refusal(reply).reason is Reason.QUEUE_MISMATCH


def test_T05_dispatch_without_a_queue_is_refused(site: Site) -> None:
    reply = site.post(site.seal(tasks.note, "x"), headers={"X-CloudTasks-QueueName": None})
    assert site.refusal(reply).reason is Reason.QUEUE_MISMATCH


def test_T05_nothing_in_the_url_or_in_headers_changes_what_runs(site: Site) -> None:
    wire = site.seal(tasks.note, "signed")
    headers = {"X-Function": "shop.fail", "X-CloudTasks-TaskName": "shop.fail", "X-HTTP-Method-Override": "DELETE"}
    assert site.post(wire, headers=headers, path="/_safedefer/?fn=shop.fail&args=evil").status == 204
    assert site.traces() == ["note signed"]


def _customer() -> object:
    from tests.site.shop.models import Customer

    return Customer.objects.create(name="Ann")
