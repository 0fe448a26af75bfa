"""defer_many through the real client: batches, their partial failures, transactions."""

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction

from safedefer import adefer_many, defer_many
from safedefer.errors import PartlyDeferredError, QueueNotFoundError, QueueUnavailableError
from tests.site.shop import tasks
from tests.site.shop.models import Customer
from tests.support.site import Site


def test_every_call_of_several_batches_runs_once(site: Site) -> None:
    handles = defer_many(tasks.forgetful.bind(str(number)) for number in range(250))
    assert len({handle.task_name for handle in handles}) == 250
    site.run_tasks()
    assert sorted(site.traces()) == sorted(f"forgetful {number}" for number in range(250))


def test_calls_of_several_functions_queues_and_options_go_together(site: Site) -> None:
    calls = [
        tasks.note.bind("plain"),
        tasks.note.options(queue="billing").bind("elsewhere"),
        tasks.note.options(countdown=3_600).bind("later"),
        tasks.add.bind(1, right=2),
        tasks.note.bind("x" * 1_200_000),
    ]
    handles = defer_many(calls)
    assert [handle.queue for handle in handles] == ["default", "billing", "default", "default", "default"]
    site.run_tasks()
    assert {trace[:12] for trace in site.traces()} == {"note plain", "note elsewhe", "add 3 ", "note xxxxxxx"}


def test_name_that_exists_is_told_for_its_call_alone(site: Site) -> None:
    first, second = defer_many([tasks.note.options(name="bulk-once").bind(text) for text in ("a", "b")])
    assert (first.created, second.created) == (True, False)
    site.run_tasks()
    assert site.traces() == ["note a"]


def test_queue_that_is_missing_fails_its_calls_alone(site: Site) -> None:
    calls = [tasks.note.options(queue=queue).bind(queue) for queue in ("default", "missing", "default")]
    with pytest.raises(PartlyDeferredError) as caught:
        defer_many(calls)
    assert list(caught.value.failed) == [calls[1]]
    assert isinstance(caught.value.results[1], QueueNotFoundError)
    site.run_tasks()
    assert site.traces() == ["note default"] * 2


def test_same_call_given_twice_is_one_task(site: Site) -> None:
    call = tasks.note.bind("x")
    defer_many([call])
    defer_many([call])
    site.run_tasks()
    assert site.traces() == ["note x"]


def roll_back() -> None:
    with transaction.atomic():
        defer_many([tasks.note.bind("never")])
        raise InterruptedError


def test_calls_of_a_transaction_are_sent_after_its_commit_and_never_after_a_rollback(site: Site) -> None:
    with transaction.atomic():
        Customer.objects.create(name="Ann")
        handles = defer_many(tasks.note.bind(str(number)) for number in range(120))
        assert {handle.created for handle in handles} == {None}
        site.run_tasks()
        assert site.traces() == []
    with pytest.raises(InterruptedError):
        roll_back()
    site.run_tasks()
    assert sorted(site.traces()) == sorted(f"note {number}" for number in range(120))


def test_coroutine_defers_many_as_well(site: Site) -> None:
    assert len(async_to_sync(adefer_many)([tasks.note.bind("a"), tasks.note.bind("b")])) == 2


def test_service_that_is_down_is_told_for_each_call(site: Site) -> None:
    from dataclasses import replace

    from safedefer.gcp.cloud_tasks import CloudTasksSender

    real = site.runtime.sender
    assert isinstance(real, CloudTasksSender)
    site.use(sender=CloudTasksSender(replace(real._target, emulator_host="127.0.0.1:1")))
    with pytest.raises(PartlyDeferredError, match="start one with safedefer-emulator") as caught:
        defer_many([tasks.note.bind("a"), tasks.note.bind("b")])
    assert {type(result) for result in caught.value.results} == {QueueUnavailableError}
