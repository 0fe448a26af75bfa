"""T17: a few tasks that become very many."""

from dataclasses import replace
from typing import Any

import pytest

from safedefer import defer_iteration_with_finalize
from safedefer.core.claims import Storage
from safedefer.core.envelope import parse_envelope
from safedefer.core.iteration.plan import dump_plan, parse_plan
from safedefer.core.limits import MAX_SHARDS
from safedefer.core.signing import claim_body, sign_envelope, verify_body, verify_envelope
from safedefer.errors import ArgumentsRefusedError, InvalidKeyRangesError, InvalidOptionError, Reason
from tests.site.shop import tasks
from tests.site.shop.models import Customer
from tests.support.site import Site


def sealed_plan(site: Site) -> bytes:
    """The envelope of a genuine plan that waits in its queue."""
    site.pause()
    try:
        defer_iteration_with_finalize(Customer.objects.all(), tasks.visit, tasks.all_visited, "hi")
        (task,) = site.tasks()
    finally:
        site.resume()
    return bytes(task.http_request.body)


@pytest.mark.parametrize("shards", [0, -1, 1_001, 10**9, True])
def test_T17_caller_cannot_ask_for_any_number_of_shards(site: Site, shards: Any) -> None:
    with pytest.raises(InvalidOptionError, match="_shards"):
        defer_iteration_with_finalize(Customer.objects.all(), tasks.visit, tasks.all_visited, "hi", _shards=shards)


def test_T17_getter_cannot_make_any_number_of_shards(site: Site) -> None:
    def too_many(queryset: Any, shards: int) -> list[Any]:
        return [(number, number + 1) for number in range(MAX_SHARDS + 5)]

    Customer.objects.create(name="x")
    with pytest.raises(InvalidKeyRangesError):
        defer_iteration_with_finalize(
            Customer.objects.all(), tasks.visit, tasks.all_visited, "hi", key_ranges_getter=too_many
        )


def test_T17_thief_of_a_key_cannot_either(site: Site) -> None:
    wire = sealed_plan(site)
    runtime = site.runtime
    envelope = verify_envelope(parse_envelope(wire), runtime.ring, runtime.deployment)
    plan = parse_plan(verify_body(envelope).data)
    body = dump_plan(replace(plan, shards=MAX_SHARDS + 1))
    with pytest.raises(ArgumentsRefusedError):
        parse_plan(body)
    claims = replace(envelope.claims, body=claim_body(body, Storage.INLINE), task_id=b"b" * 16)  # type: ignore[arg-type]
    site.run_tasks()
    site.post(sign_envelope(claims, body, runtime.ring.primary, runtime.deployment))
    assert site.dispatches()[-1].reason is Reason.BODY_MALFORMED
    assert site.tasks() == []


def test_T17_plan_that_is_sent_again_makes_no_second_set_of_tasks(site: Site) -> None:
    Customer.objects.bulk_create(Customer(name=str(number)) for number in range(10))
    wire = sealed_plan(site)
    for _ in range(5):
        site.post(wire)
    site.run_tasks()
    assert sum(text.startswith("visit") for text in site.traces()) == 10
    assert sum(text.startswith("finalized") for text in site.traces()) == 1
