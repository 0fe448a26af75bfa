"""The main job: a call is deferred to the local cloud, comes back over HTTP, is verified and runs."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connections, transaction

from safedefer import adefer, defer
from safedefer.errors import (
    InvalidCallError,
    InvalidNameError,
    InvalidOptionError,
    PayloadTooLargeError,
    QueueNotFoundError,
    Reason,
    TaskExistsError,
    UnencodableArgumentError,
    UnregisteredFunctionError,
)
from tests.site.shop import tasks
from tests.site.shop.models import Customer, Parcel, PremiumCustomer
from tests.support.site import Site


def test_deferred_call_is_executed_with_its_arguments(site: Site) -> None:
    handle = defer(tasks.add, 2, right=3, label="sum")
    site.run_tasks()
    assert site.traces() == ["add 5 sum"]
    assert handle.created is True
    assert [event.reason for event in site.events] == [Reason.DEFERRED, Reason.ACCEPTED, Reason.EXECUTED]
    assert {event.task_id for event in site.events} == {handle.task_id}


def test_values_of_every_kind_arrive_as_they_were(site: Site) -> None:
    customers = [Customer.objects.create(name=name) for name in ("Ann", "Bob")]
    parcel = Parcel.objects.create()
    when = datetime(2030, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    defer(tasks.ship, parcel, customers, tasks.Money(Decimal("9.50")), tasks.Color.GREEN, when)
    site.run_tasks()
    money = "Money(amount=Decimal('9.50'), currency='EUR')"
    assert site.traces() == [f"ship {parcel.pk} Ann,Bob {money} GREEN {when.isoformat()}"]


def test_model_instance_is_loaded_as_it_is_when_the_task_runs(site: Site) -> None:
    customer = Customer.objects.create(name="Ann")
    wire = site.seal(tasks.greet, customer)
    Customer.objects.update(name="Anna")
    assert site.post(wire).status == 204
    assert site.traces() == ["greet Hello Anna"]


def test_child_of_an_annotated_model_travels_as_the_child(site: Site) -> None:
    defer(tasks.greet, PremiumCustomer.objects.create(name="Zoe"))
    site.run_tasks()
    assert site.traces() == ["greet Hello Zoe"]


def test_no_transaction_is_around_a_task_whatever_atomic_requests_says(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for alias in connections:
        monkeypatch.setitem(connections.settings[alias], "ATOMIC_REQUESTS", True)
    defer(tasks.look_for_transactions)
    site.run_tasks()
    assert site.traces() == ["within"]


def test_coroutine_function_and_static_method_run(site: Site) -> None:
    defer(tasks.anote, "one")
    tasks.Office.note.defer("two")
    site.run_tasks()
    assert sorted(site.traces()) == ["anote one", "office two"]


@pytest.mark.django_db(transaction=True)
async def _adefer_twice() -> list[bool | None]:
    first = await adefer(tasks.note, "async", _queue="billing")
    second = await tasks.note.options(queue="billing").adefer("async too")
    return [first.created, second.created]


def test_adefer_sends_from_a_coroutine(site: Site) -> None:
    import asyncio

    assert asyncio.run(_adefer_twice()) == [True, True]
    site.run_tasks()
    assert sorted(site.traces()) == ["note async", "note async too"]


def test_task_deferred_by_a_task_names_its_parent(site: Site) -> None:
    parent = defer(tasks.chain, 1)
    site.run_tasks()
    assert site.traces() == ["chain 1", "note after 1"]
    children = {event.task_id for event in site.events} - {parent.task_id}
    assert len(children) == 1


def test_second_task_of_a_name_is_not_created(site: Site) -> None:
    assert defer(tasks.note, "one", _name="once").created is True
    assert defer(tasks.note, "two", _name="once").created is False
    with pytest.raises(TaskExistsError, match="once"):
        defer(tasks.note, "three", _name="once", _raise_if_exists=True)
    site.run_tasks()
    assert site.traces() == ["note one"]


def test_countdown_wins_over_eta_and_past_eta_runs_now(site: Site) -> None:
    past = datetime.now(UTC) - timedelta(days=400)
    defer(tasks.note, "past", _eta=past)
    defer(tasks.note, "later", _eta=past, _countdown=600)
    site.run_tasks()
    assert site.traces() == ["note past"]


def test_naive_eta_is_read_in_the_current_time_zone(site: Site) -> None:
    from zoneinfo import ZoneInfo

    vienna = datetime.now(ZoneInfo("Europe/Vienna")).replace(tzinfo=None)
    defer(tasks.note, "an hour ago in Vienna", _eta=vienna - timedelta(minutes=1))
    defer(tasks.note, "in a minute in Vienna", _eta=vienna + timedelta(minutes=1))
    site.run_tasks()
    assert site.traces() == ["note an hour ago in Vienna"]


def _defer_and_roll_back() -> None:
    with transaction.atomic():
        defer(tasks.note, "rolled back")
        raise InterruptedError


def test_call_inside_atomic_is_sent_after_commit_and_never_after_rollback(site: Site) -> None:
    with transaction.atomic():
        handle = defer(tasks.note, "committed")
        assert handle.created is None
        site.run_tasks()
        assert site.traces() == []
        with pytest.raises(InterruptedError):
            _defer_and_roll_back()
    site.run_tasks()
    assert site.traces() == ["note committed"]


def test_using_names_the_transaction_that_is_waited_for(site: Site) -> None:
    with transaction.atomic():
        assert defer(tasks.note, "now", _using="other").created is True
    with pytest.raises(InvalidOptionError, match="alias"):
        defer(tasks.note, "never", _using="nowhere")


unchecked: Any = defer
"""`defer` for calls that a type checker would refuse."""


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: unchecked(tasks.add, "2"), UnencodableArgumentError, r"args\[0\]: parameter 'left': expected int"),
        (lambda: unchecked(tasks.add), InvalidCallError, "left"),
        (lambda: unchecked(tasks.add, 1, wrong=2), InvalidCallError, "wrong"),
        (lambda: unchecked(tasks.keep, {"a": [1, object()]}), UnencodableArgumentError, r'args\[0\]\["a"\]\[1\]'),
        (lambda: unchecked(tasks.greet, Customer(name="x")), UnencodableArgumentError, "not saved"),
        (lambda: unchecked(print, "x"), UnregisteredFunctionError, "@deferrable"),
        (lambda: unchecked(lambda: None), UnregisteredFunctionError, "lambda"),
        (lambda: unchecked(tasks.note, "x", _qeue="a"), InvalidOptionError, "did you mean _queue"),
        (lambda: unchecked(tasks.note, "x", _retry_options={}), InvalidOptionError, "expected RetryOptions"),
        (lambda: unchecked(tasks.note, "x", _service="a.b"), InvalidOptionError, "lower case"),
        (lambda: unchecked(tasks.note, "x", _queue="no_underscores"), InvalidNameError, "queue"),
        (lambda: unchecked(tasks.note, "x", _name="a/b"), InvalidNameError, "task name"),
        (lambda: unchecked(tasks.note, "x", _deadline=5), InvalidOptionError, "15 seconds"),
        (lambda: unchecked(tasks.note, "x", _countdown="5"), InvalidOptionError, "countdown"),
        (lambda: unchecked(tasks.note, "x", _countdown=31 * 86_400), InvalidOptionError, "30 days"),
        (
            lambda: unchecked(tasks.note, "x", _countdown=60, _expires=timedelta(seconds=5)),
            InvalidOptionError,
            "expires",
        ),
        (lambda: unchecked(tasks.note, "x" * 1_000_000, _small_task=True), PayloadTooLargeError, "1,000,000"),
        (lambda: unchecked(tasks.note, "x" * 9_000_000), PayloadTooLargeError, "cap"),
        (lambda: unchecked(tasks.note, "x", _queue="missing"), QueueNotFoundError, "queues/missing"),
    ],
)
def test_bad_call_names_the_error_and_sends_nothing(site: Site, call: object, error: type, message: str) -> None:
    before = len(site.cloud.tasks.attempts)
    assert callable(call)
    with pytest.raises(error, match=message):
        call()
    site.run_tasks()
    assert site.events == []
    assert site.traces() == []
    assert len(site.cloud.tasks.attempts) == before
