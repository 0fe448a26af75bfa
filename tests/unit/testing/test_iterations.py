"""Iterations in users' tests: walked to their end without any server."""

from collections.abc import Iterator

import pytest

from safedefer import defer_iteration_with_finalize
from safedefer.testing import CapturedTasks, TaskFailedBehaviour, TaskFailedError, capture_tasks
from tests.site.shop import tasks
from tests.site.shop.models import Customer, Trace

pytestmark = pytest.mark.django_db


@pytest.fixture
def captured() -> Iterator[CapturedTasks]:
    with capture_tasks() as captured:
        yield captured
    tasks.broken.clear()


def begin() -> None:
    Customer.objects.bulk_create(Customer(name=f"c{number}") for number in range(30))
    defer_iteration_with_finalize(Customer.objects.filter(name__startswith="c1"), tasks.visit, tasks.all_visited, "hi")


def traces() -> list[str]:
    return list(Trace.objects.order_by("pk").values_list("text", flat=True))


def test_iteration_is_walked_and_finalized(captured: CapturedTasks) -> None:
    begin()
    captured.assert_num_tasks(1)
    captured.process_task_queues()
    assert len(traces()) == 12
    assert traces()[-1] == "finalized hi False"
    captured.assert_num_tasks(0)


def test_plan_is_a_call_of_its_callback_with_the_arguments_behind_the_row(captured: CapturedTasks) -> None:
    begin()
    (call,) = captured.calls_of(tasks.visit)
    assert (call.args, call.kwargs) == (("hi",), {})


def test_row_that_fails_is_told(captured: CapturedTasks) -> None:
    tasks.broken.add("c15")
    begin()
    with pytest.raises(TaskFailedError, match=r"shop\.visit") as caught:
        captured.process_task_queues()
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_row_that_fails_is_left_or_tried_again(captured: CapturedTasks) -> None:
    tasks.broken.add("c15")
    begin()
    captured.process_task_queues(failure_behaviour=TaskFailedBehaviour.DO_NOTHING)
    assert not any(text.startswith("finalized") for text in traces())
    tasks.broken.clear()
    captured.process_task_queues()
    assert len(traces()) == 12
