"""Iterations over customers who are visited, what they leave, and a queue that is worked off by hand."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http.client import RemoteDisconnected
from typing import Any, Final

from google.api_core.exceptions import NotFound
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from safedefer import Iteration, defer_iteration_with_finalize
from safedefer.flow.ledger import Ledger
from tests.site.shop import tasks
from tests.site.shop.models import Customer
from tests.support.builders import ManualClock
from tests.support.channels import open_channel
from tests.support.site import Site

MOST_TASKS: Final = 200


def populate(count: int, using: str = "default") -> list[str]:
    """Customers, by their names in the order of their keys."""
    names = [f"c{number:04d}" for number in range(count)]
    Customer.objects.using(using).bulk_create(Customer(name=name) for name in names)
    return names


def visits(site: Site) -> Counter[str]:
    """How often each customer was visited."""
    return Counter(text.split()[1] for text in site.traces() if text.startswith("visit "))


def finalized(site: Site) -> int:
    """How often the end was told."""
    return sum(text.startswith("finalized") for text in site.traces())


def begin(queryset: Any, *args: Any, **options: Any) -> Iteration:
    """An iteration that visits each row."""
    return defer_iteration_with_finalize(queryset, tasks.visit, tasks.all_visited, *(args or ("hi",)), **options)


def run_by_hand(site: Site) -> None:
    """Deliver what waits in place of the queue, whose clock is not the site's."""
    site.pause()
    while site.tasks():
        run_next(site)


def run_next(site: Site) -> None:
    """Deliver what waits longest in place of the queue."""
    site.pause()
    task = site.tasks()[0]
    assert site.post(task.http_request.body).status == 204
    delete(site, task.name)


def run_in_time(site: Site, between: Callable[[], object] = lambda: None) -> None:
    """Deliver what waits in place of the queue, each task when it is due: the site's clock goes on to it.

    Args:
        between: Called behind each delivery.
    """
    clock = ManualClock(site.runtime.clock.time())
    site.use(clock=clock, ledger=Ledger(site.runtime.records, clock))
    site.pause()
    for _ in range(MOST_TASKS):
        waiting = sorted(site.tasks(), key=_due)
        if not waiting:
            return
        clock.now = max(clock.now + 0.01, _due(waiting[0]))
        # A worker that was stopped says nothing.
        with suppress(RemoteDisconnected, ConnectionResetError):
            if site.post(waiting[0].http_request.body).status == 204:
                delete(site, waiting[0].name)
        between()
    raise AssertionError("there is always another task")


def _due(task: Any) -> float:
    moment: float = task.schedule_time.timestamp()
    return moment


def delete(site: Site, name: str) -> None:
    """Take a task that was dispatched by hand out of its queue."""
    with open_channel(site.cloud.tasks.address) as channel:
        client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
        with suppress(NotFound):
            client.delete_task(name=name)
