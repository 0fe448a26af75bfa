"""Deferrables of the tests' application; each leaves a trace."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any

from django.db import IntegrityError, connections, models
from django.utils import timezone, translation

from safedefer import (
    Drop,
    Iteration,
    Retry,
    RetryOptions,
    current_task,
    deferrable,
    deferrable_queryset,
    environment,
    get_deferred_shard_index,
)
from tests.site.shop.models import Customer, Draft, Order, Parcel, Reading, Seat, Trace


class Color(Enum):
    """An enum that travels."""

    RED = "red"
    GREEN = "green"


@dataclass(frozen=True)
class Money:
    """A dataclass that travels."""

    amount: Decimal
    currency: str = "EUR"

    def __post_init__(self) -> None:
        """Refuse a negative amount."""
        if self.amount < 0:
            raise ValueError("negative")


def trace(*parts: object) -> None:
    """Leave a trace."""
    Trace.objects.create(text=" ".join(str(part) for part in parts))


@deferrable(name="shop.note")
def note(text: str) -> None:
    """Leave a text."""
    trace("note", text)


@deferrable(name="shop.forgetful", ledger=False)
def forgetful(text: str) -> None:
    """Leave a text as often as it is told."""
    trace("forgetful", text)


@deferrable(name="shop.add")
def add(left: int, right: int = 0, *, label: str = "") -> int:
    """Leave a sum."""
    trace("add", left + right, label)
    return left + right


@deferrable(name="shop.greet")
def greet(customer: Customer, greeting: str = "Hello") -> None:
    """Leave a greeting to a row."""
    trace("greet", greeting, customer.name)


@deferrable(name="shop.greet_or_wait", missing="retry")
def greet_or_wait(customer: Customer) -> None:
    """The same; the row may still come."""
    trace("greet", customer.name)


@deferrable(name="shop.greet_or_fail", missing="fail")
def greet_or_fail(customer: Customer) -> None:
    """The same; the row must be there."""
    trace("greet", customer.name)


@deferrable(name="shop.ship")
def ship(parcel: Parcel, customers: list[Customer], price: Money | None, color: Color, when: datetime) -> None:
    """Leave a trace of values of many kinds."""
    names = ",".join(customer.name for customer in customers)
    trace("ship", parcel.pk, names, price, color.name, when.isoformat())


@deferrable(name="shop.keep")
def keep(value: Any) -> None:
    """Leave whatever was given."""
    trace("keep", repr(value))


@deferrable(name="shop.fail")
def fail(secret: str) -> None:
    """Raise with an argument in the message."""
    raise RuntimeError(f"this message holds {secret}")


@deferrable(name="shop.leave")
def leave() -> None:
    """Try to end the process."""
    raise SystemExit(3)


@deferrable(name="shop.anote")
async def anote(text: str) -> None:
    """Leave a text from a coroutine function."""
    await Trace.objects.acreate(text=f"anote {text}")


@deferrable(name="shop.chain")
def chain(left: int) -> None:
    """Defer another call."""
    trace("chain", left)
    note.defer(f"after {left}")


class Office:
    """A class with a static method that may be deferred."""

    @staticmethod
    @deferrable(name="shop.office_note")
    def note(text: str) -> None:
        """Leave a text."""
        trace("office", text)


@deferrable(name="shop.fail_twice", retry=RetryOptions(max_attempts=2, min_backoff=timedelta(milliseconds=10)))
def fail_twice(text: str) -> None:
    """Fail as often as it may."""
    trace("attempt", text)
    raise RuntimeError(text)


@deferrable(name="shop.third_time")
def third_time() -> None:
    """Leave what the queue has counted, and fail twice."""
    trace("counted", environment.task_retry_count(), environment.task_execution_count())
    if (environment.task_retry_count() or 0) < 2:
        raise RuntimeError


@deferrable(name="shop.again")
def again(text: str) -> None:
    """Ask to be called again, once."""
    task = current_task()
    assert task is not None
    trace("again", text, task.attempt, task.retry_count)
    if task.attempt == 1:
        raise Retry(after=0)


@deferrable(name="shop.pass_by")
def pass_by() -> None:
    """Find that there is nothing to do."""
    raise Drop("nothing to do")


@deferrable(name="shop.look_around")
def look_around() -> None:
    """Leave what is known of the task, and what surrounds it."""
    task = current_task()
    assert task is not None
    names = (environment.task_name(), environment.task_queue_name(), environment.task_retry_count())
    trace("task", task.function, task.attempt, environment.is_in_task(), environment.task_execution_count(), *names)
    trace("around", translation.get_language(), timezone.get_current_timezone_name(), task.traceparent)


@deferrable(name="shop.alook_around")
async def alook_around() -> None:
    """The same from a coroutine function."""
    task = current_task()
    assert task is not None
    text = f"around {translation.get_language()} {timezone.get_current_timezone_name()} {task.function}"
    await Trace.objects.acreate(text=text)


@deferrable(name="shop.look_for_transactions")
def look_for_transactions() -> None:
    """Leave the databases that a transaction is open on."""
    trace("within", *(connection.alias for connection in connections.all() if connection.in_atomic_block))


@deferrable(name="shop.show_order")
def show_order(order: Order) -> None:
    """Leave which relations an order arrives with."""
    trace("order", order.pk, sorted(order._state.fields_cache))


begun = threading.Event()
hung_up = threading.Event()


@deferrable(name="shop.wait_for_hang_up")
def wait_for_hang_up() -> None:
    """Go on after the caller is gone."""
    begun.set()
    if hung_up.wait(20):
        trace("went on")


@deferrable(name="shop.await_hang_up")
async def await_hang_up() -> None:
    """The same from a coroutine function."""
    begun.set()
    if await asyncio.get_running_loop().run_in_executor(None, hung_up.wait, 20):
        await Trace.objects.acreate(text="went on")


@deferrable(name="shop.measure_text")
def measure_text(name: str, text: str) -> None:
    """Leave the length of a text."""
    trace("measured", name, len(text))


@deferrable(name="shop.show_rows")
def show_rows(seats: list[Seat], draft: Draft) -> None:
    """Leave what has arrived."""
    trace("rows", *(f"{seat.row}{seat.number}{seat.holder}" for seat in seats), draft.pk, draft.deleted)


meeting = threading.Barrier(2)


@deferrable(name="shop.meet_in_threads")
async def meet_in_threads() -> None:
    """Meet another one, each in a thread of the event loop's own."""
    await asyncio.get_running_loop().run_in_executor(None, meeting.wait, 20)


@deferrable_queryset("shop.customers_named")
def customers_named(prefix: str) -> models.QuerySet[Customer]:
    """Customers whose name begins so."""
    if prefix in broken:
        raise LookupError(prefix)
    return Customer.objects.filter(name__startswith=prefix)


loops: set[int] = set()
"""The event loops that rows were visited in."""

broken: set[str] = set()
"""Names of the customers whose callback fails."""


@deferrable(name="shop.read")
def read(reading: Reading, last: str) -> None:
    """Leaves a trace of a reading."""
    Trace.objects.create(text=f"read {reading.label}{last}")


@deferrable(name="shop.read_far_away")
def read_far_away(reading: Reading, last: str) -> None:
    """Leave a trace of a reading, and a time zone."""
    read(reading, last)
    timezone.activate("Pacific/Kiritimati")


@deferrable(name="shop.visit")
def visit(customer: Customer, greeting: str, *, loud: bool = False) -> None:
    """Leave a visit to a row."""
    if customer.name in broken:
        raise RuntimeError(customer.name)
    trace("visit", customer.name, greeting, loud, get_deferred_shard_index() is not None)


@deferrable(name="shop.all_visited")
def all_visited(greeting: str, *, loud: bool = False) -> None:
    """Leave that every row was visited."""
    trace("finalized", greeting, loud)


tallied: Counter[int] = Counter()
"""How often each customer was counted in this process."""


@deferrable(name="shop.tally")
def tally(customer: Customer) -> None:
    """Count a row."""
    tallied[customer.pk] += 1


watchers: list[Callable[[str], None]] = []
"""Told of each moment at which a worker may be killed."""


def reach(moment: str) -> None:
    """Tell whoever watches."""
    for watcher in watchers:
        watcher(moment)


@deferrable(name="shop.pass_row")
def pass_row(customer: Customer) -> None:
    """Leave a visit to a row, if this worker lives so long."""
    reach("row")
    trace("visit", get_deferred_shard_index(), customer.name)
    reach("visited")


@deferrable(name="shop.pass_rows", batch=True)
def pass_rows(customers: list[Customer]) -> None:
    """The same for many."""
    for customer in customers:
        pass_row(customer)


@deferrable(name="shop.pass_end")
def pass_end() -> None:
    """Leave that every row was visited, likewise."""
    reach("finalize")
    trace("finalized")
    reach("finalized")


@deferrable(name="shop.visit_until_told")
def visit_until_told(customer: Customer, last: str) -> None:
    """Leave a visit, and have the iteration pause behind one of the rows."""
    trace("visit", customer.name)
    task = current_task()
    if customer.name == last and task is not None and task.parent_id is not None:
        Iteration(task.parent_id).pause()


@deferrable(name="shop.dropped_end")
def dropped_end(greeting: str, *, loud: bool = False) -> None:
    """Say that the end is not needed any more."""
    raise Drop("nobody waits for it")


@deferrable(name="shop.all_told")
def all_told(last: str) -> None:
    """Leave that every row was visited."""
    trace("finalized", last)


@deferrable(name="shop.devour")
def devour(customer: Customer, limit: int) -> None:
    """Leave a visit, and delete the row: its instance has no key then. Some have nothing to be done."""
    if customer.name in broken:
        raise RuntimeError(customer.name)
    if int(customer.name[1:]) % limit == 0:
        raise Drop("nothing to do")
    trace("visit", customer.name)
    customer.name = "zzzz"
    customer.delete()


@deferrable(name="shop.all_devoured")
def all_devoured(limit: int) -> None:
    """Leave that every row was visited."""
    trace("finalized", limit)


@deferrable(name="shop.visit_many", batch=True)
def visit_many(customers: list[Customer], greeting: str) -> None:
    """Leave a visit to each of some rows, unless one is broken."""
    if any(customer.name in broken for customer in customers):
        raise RuntimeError(greeting)
    trace("called", len(customers), greeting, get_deferred_shard_index() is not None)
    for customer in customers:
        trace("visit", customer.name)


@deferrable(name="shop.avisit_many", batch=True)
async def avisit_many(customers: list[Customer], greeting: str) -> None:
    """The same from a coroutine function."""
    await Trace.objects.abulk_create(Trace(text=f"visit {customer.name} {greeting}") for customer in customers)


@deferrable(name="shop.visit_in_part")
def visit_in_part(customer: Customer, last: str) -> None:
    """Leave a visit, then fail if the row is broken."""
    trace("visit", customer.name, last)
    if customer.name in broken:
        raise RuntimeError(last)


@deferrable(name="shop.avisit_in_part")
async def avisit_in_part(customer: Customer, last: str) -> None:
    """The same from a coroutine function."""
    await Trace.objects.acreate(text=f"visit {customer.name} {last}")
    if customer.name in broken:
        raise RuntimeError(last)


@deferrable(name="shop.visit_many_in_part", batch=True)
def visit_many_in_part(customers: list[Customer], last: str) -> None:
    """The same for many."""
    for customer in customers:
        visit_in_part(customer, last)


@deferrable(name="shop.visit_later")
def visit_later(customer: Customer, last: str) -> None:
    """Leave a visit, in an hour if the row is broken."""
    trace("asked" if customer.name in broken else "visit", customer.name, last)
    if customer.name in broken:
        raise Retry(after=3_600)


@deferrable(name="shop.visit_many_later", batch=True)
def visit_many_later(customers: list[Customer], last: str) -> None:
    """The same for many."""
    for customer in customers:
        visit_later(customer, last)


@deferrable(name="shop.all_told_later")
def all_told_later(last: str) -> None:
    """Leave that every row was visited, in an hour if the end is broken."""
    if last in broken:
        raise Retry(after=3_600)
    trace("finalized", last)


@deferrable(name="shop.order_for_nobody")
def order_for_nobody(customer: Customer, last: str) -> None:
    """Leave a visit, and of a row that is broken an order that no commit allows."""
    trace("visit", customer.name, last)
    if customer.name in broken:
        Order.objects.create(customer_id=-1)


@deferrable(name="shop.orders_for_nobody", batch=True)
def orders_for_nobody(customers: list[Customer], last: str) -> None:
    """The same for many."""
    for customer in customers:
        order_for_nobody(customer, last)


@deferrable(name="shop.visit_owner")
def visit_owner(order: Order, last: str) -> None:
    """Leave a visit to the customer of an order."""
    trace("visit", order.customer.name, last)


@deferrable(name="shop.order_and_forget")
def order_and_forget(customer: Customer, last: str) -> None:
    """The same, but an order that is refused at once, which is not said any more."""
    trace("visit", customer.name, last)
    if customer.name in broken:
        with suppress(IntegrityError):
            Order.objects.create(pk=1, customer=customer)
            Order.objects.create(pk=1, customer=customer)


@deferrable(name="shop.visit_and_hang_up")
def visit_and_hang_up(customer: Customer, last: str) -> None:
    """Leave a visit to a row, and no connection."""
    trace("visit", customer.name, last)
    if customer.name in broken:
        connections["default"].close()


@deferrable(name="shop.visit_many_and_hang_up", batch=True)
def visit_many_and_hang_up(customers: list[Customer], last: str) -> None:
    """The same for several rows."""
    for customer in customers:
        visit_and_hang_up(customer, last)


@deferrable(name="shop.greet_slowly")
def greet_slowly(customer: Customer, greeting: str) -> None:
    """Leave a visit to a row."""
    trace("visit", customer.name, greeting)


@deferrable(name="shop.all_greeted")
def all_greeted(greeting: str) -> None:
    """Leave that every row was visited."""
    trace("finalized", greeting)


@deferrable(name="shop.avisit")
async def avisit(customer: Customer) -> None:
    """Leave a visit from a coroutine function."""
    loops.add(id(asyncio.get_running_loop()))
    if customer.name in broken:
        raise RuntimeError(customer.name)
    await Trace.objects.acreate(text=f"visit {customer.name} {get_deferred_shard_index() is not None}")


@deferrable(name="shop.aall_visited")
async def aall_visited() -> None:
    """Leave that every row was visited."""
    await Trace.objects.acreate(text="finalized")
