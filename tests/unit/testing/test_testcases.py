"""Inside Django's TestCase, where nothing ever commits: calls go when the code's own block has ended."""

import unittest
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import IntegrityError, transaction
from django.test import SimpleTestCase, TestCase, TransactionTestCase

from safedefer import adefer, defer_many
from safedefer.errors import InvalidOptionError, TaskExistsError
from safedefer.testing import TaskFailedBehaviour, TaskFailedError, TaskTestMixin
from tests.site.shop.models import Badge, Customer, Trace
from tests.site.shop.tasks import anote, fail, greet, note

reused = transaction.atomic()


@transaction.atomic
def place_order(text: str, *, error: Exception | None = None) -> None:
    """What an application does in one transaction."""
    note.defer(text)
    if error is not None:
        raise error


def traces() -> list[str]:
    return list(Trace.objects.order_by("pk").values_list("text", flat=True))


class Waiting(TaskTestMixin, TestCase):
    """The calls of atomic blocks."""

    databases = {"default", "other"}  # noqa: RUF012  # As Django spells it.

    def notes(self) -> list[Any]:
        return [call.args[0] for call in self.deferred_tasks.calls]

    def test_call_outside_of_blocks_is_there_at_once(self) -> None:
        assert note.defer("x").created is True
        self.assertNumTasksEquals(1)

    def test_call_waits_for_the_end_of_its_block_and_not_of_the_test(self) -> None:
        with transaction.atomic():
            assert note.defer("x").created is None
            self.assertNumTasksEquals(0)
            assert self.process_task_queues() == []
        self.assertNumTasksEquals(1)
        self.process_task_queues()
        assert traces() == ["note x"]

    def test_call_waits_for_the_outermost_block_of_the_code(self) -> None:
        with transaction.atomic():
            with transaction.atomic():
                note.defer("inner")
            assert self.notes() == []
            note.defer("outer")
        assert self.notes() == ["inner", "outer"]

    def test_call_of_a_block_that_is_rolled_back_never_goes(self) -> None:
        with pytest.raises(LookupError):
            place_order("never", error=LookupError())
        place_order("kept")
        assert self.notes() == ["kept"]
        self.process_task_queues()
        assert traces() == ["note kept"]

    def test_inner_block_that_is_rolled_back_takes_its_calls_alone(self) -> None:
        with transaction.atomic():
            note.defer("before")
            with pytest.raises(LookupError):
                place_order("never", error=LookupError())
            place_order("kept")
        assert self.notes() == ["before", "kept"]

    def test_outer_block_that_is_rolled_back_takes_the_calls_of_ended_inner_ones(self) -> None:
        with pytest.raises(LookupError), transaction.atomic():  # noqa: PT012  # It ends the block.
            place_order("never")
            assert self.notes() == []
            raise LookupError
        assert self.notes() == []

    def test_database_error_in_a_block_takes_its_calls(self) -> None:
        Badge.objects.create(code="a")
        with pytest.raises(IntegrityError), transaction.atomic():  # noqa: PT012  # It ends the block.
            note.defer("never")
            Badge.objects.create(code="a")
        assert self.notes() == []

    def test_rollback_that_is_asked_for_takes_the_calls(self) -> None:
        with transaction.atomic():
            note.defer("never")
            transaction.set_rollback(True)
        assert self.notes() == []

    def test_block_without_savepoint_is_waited_for(self) -> None:
        with transaction.atomic(savepoint=False):
            note.defer("x")
            assert self.notes() == []
        with transaction.atomic(savepoint=False):
            assert self.notes() == ["x"]

    def test_inner_block_without_savepoint_takes_the_outer_one_along(self) -> None:
        with pytest.raises(LookupError), transaction.atomic():  # noqa: PT012  # It ends the block.
            note.defer("never")
            with transaction.atomic(savepoint=False):
                raise LookupError
        assert self.notes() == []

    def test_block_without_savepoint_that_is_rolled_back_takes_its_calls(self) -> None:
        with pytest.raises(LookupError), transaction.atomic(savepoint=False):  # noqa: PT012  # It ends the block.
            note.defer("never")
            raise LookupError
        assert self.notes() == []
        transaction.set_rollback(False)

    def test_durable_block_is_waited_for(self) -> None:
        with transaction.atomic(durable=True):
            note.defer("x")
        assert self.notes() == ["x"]

    def test_block_object_that_is_used_again_is_another_block(self) -> None:
        with reused:
            note.defer("first")
        with reused:
            note.defer("second")
            assert self.notes() == ["first"]
        assert self.notes() == ["first", "second"]

    def test_calls_go_in_the_order_of_a_real_commit(self) -> None:
        place_order("1")
        note.defer("2")
        with transaction.atomic():
            note.defer("3")
        place_order("4")
        assert self.notes() == ["1", "2", "3", "4"]

    def test_named_call_of_an_ended_block_has_taken_the_name(self) -> None:
        with transaction.atomic():
            note.options(name="once").defer("1")
        assert note.options(name="once").defer("2").created is False
        assert self.notes() == ["1"]

    def test_many_calls_wait_for_their_block(self) -> None:
        with transaction.atomic():
            defer_many(note.bind(str(number)) for number in range(3))
            assert self.notes() == []
        assert self.notes() == ["0", "1", "2"]

    def test_thousand_calls_in_one_block_are_no_matter(self) -> None:
        with transaction.atomic():
            for number in range(1_000):
                note.defer(str(number))
        assert self.notes() == [str(number) for number in range(1_000)]

    def test_error_of_sending_keeps_the_next_calls(self) -> None:
        note.options(name="once").defer("1")
        with transaction.atomic():
            note.options(name="once", raise_if_exists=True).defer("2")
            note.defer("3")
        with pytest.raises(TaskExistsError):
            self.notes()
        assert self.notes() == ["1", "3"]

    def test_each_alias_has_blocks_of_its_own(self) -> None:
        with transaction.atomic(using="other"):
            note.defer("default")
            note.options(using="other").defer("other")
            assert self.notes() == ["default"]
        assert self.notes() == ["default", "other"]
        with transaction.atomic():
            note.defer("outer")
            with transaction.atomic(using="other"):
                note.options(using="other").defer("inner")
            assert self.notes() == ["default", "other", "inner"]
        assert self.notes() == ["default", "other", "inner", "outer"]

    def test_alias_that_there_is_not_is_named(self) -> None:
        with pytest.raises(InvalidOptionError, match="nowhere"):
            note.options(using="nowhere").defer("x")

    def test_call_is_sent_once_beside_captured_callbacks(self) -> None:
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            with transaction.atomic():
                note.options(name="once", raise_if_exists=True).defer("1")
            assert self.notes() == ["1"]
            place_order("2")
        assert len(callbacks) == 2
        assert self.notes() == ["1", "2"]

    def test_call_of_a_callback_goes_with_it(self) -> None:
        with self.captureOnCommitCallbacks(execute=True), transaction.atomic():
            transaction.on_commit(lambda: note.defer("x"))
        assert self.notes() == ["x"]

    def test_row_of_the_transaction_is_seen_by_the_function(self) -> None:
        with transaction.atomic():
            greet.defer(Customer.objects.create(name="Ada"))
        self.process_task_queues()
        assert traces() == ["greet Hello Ada"]

    def test_flushed_queues_are_empty(self) -> None:
        place_order("x")
        self.flush_task_queues()
        self.assertNumTasksEquals(0, "default")
        assert self.notes() == []

    def test_failure_behaviours_are_those_of_djangae(self) -> None:
        fail.defer("x")
        self.process_task_queues(failure_behaviour=TaskFailedBehaviour.DO_NOTHING)
        with pytest.raises(TaskFailedError):
            self.process_task_queues(failure_behaviour=TaskFailedBehaviour.RAISE_ERROR)

    async def test_coroutine_waits_for_its_block(self) -> None:
        await sync_to_async(place_order)("in a block")
        await adefer(anote, "outside")
        assert self.notes() == ["in a block", "outside"]
        await self.deferred_tasks.aprocess_task_queues()
        assert await Trace.objects.acount() == 2


class BeforeTheTests(TaskTestMixin, TestCase):
    """What the class's data defers."""

    @classmethod
    def setUpTestData(cls) -> None:
        assert note.defer("data").created is True

    def test_calls_of_the_data_are_none_of_the_tests(self) -> None:
        self.assertNumTasksEquals(0)


class WithoutDatabase(TaskTestMixin, SimpleTestCase):
    """Where no database may be asked."""

    def test_calls_are_captured(self) -> None:
        note.defer("x")
        self.assertNumTasksEquals(1)


class RealTransactions(TaskTestMixin, TransactionTestCase):
    """Where blocks commit."""

    def test_call_waits_for_the_commit(self) -> None:
        with transaction.atomic():
            note.defer("x")
            self.assertNumTasksEquals(0)
        self.assertNumTasksEquals(1)
        with pytest.raises(LookupError):
            place_order("never", error=LookupError())
        self.process_task_queues()
        assert traces() == ["note x"]


class Plain(TaskTestMixin, unittest.TestCase):
    """Without Django's test cases."""

    def test_calls_are_captured(self) -> None:
        note.defer("x")
        self.assertNumTasksEquals(1)
