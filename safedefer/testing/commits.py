"""CommitHook for tests: Django's TestCase rolls everything back, so that its own blocks are taken for none.

What decides is the outermost block that the code under test has opened. Once that has ended, the call is on its way,
as it would be after the commit in production; if the block was rolled back, or an inner one that the call was made in,
Django has forgotten it, and so it is here. Where the tests' framework opens no block, commits are real.
"""

import threading
from collections.abc import Callable
from itertools import takewhile
from typing import final

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import Atomic

from safedefer.django.transactions import DjangoCommitHook


@final
class CommitsInTests:
    """Watches the blocks in which calls wait. Safe for threads, each of which has transactions of its own."""

    def __init__(self) -> None:
        self._django = DjangoCommitHook()
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []

    def in_transaction(self, using: str) -> bool:
        """Whether the code under test has an atomic block open on the alias."""
        self.settle()
        return self._django.in_transaction(using) and _outermost(transaction.get_connection(using)) is not None

    def on_commit(self, using: str, action: Callable[[], object]) -> None:
        """Call `action` once the outermost block of the code under test has ended well."""
        connection = transaction.get_connection(using)
        depth = _outermost(connection)
        if not connection.in_atomic_block or depth is None:
            action()
            return
        waiting = _Waiting(connection, depth, action)
        # Django forgets it when a block around it is rolled back, and calls it after a real commit.
        transaction.on_commit(waiting, using=using)
        if depth > 0:
            with self._lock:
                self._waiting.append(waiting)

    def settle(self) -> None:
        """Call what waited for blocks that have ended well by now, in the order in which it came."""
        while (ready := self._take()) is not None:
            ready()

    def _take(self) -> "_Waiting | None":
        with self._lock:
            self._waiting = [waiting for waiting in self._waiting if waiting.is_awaited()]
            for index, waiting in enumerate(self._waiting):
                if not waiting.is_open():
                    return self._waiting.pop(index)
        return None


@final
class _Waiting:
    """An action that waits for the end of a block, and is called once, whoever calls it."""

    def __init__(self, connection: BaseDatabaseWrapper, depth: int, action: Callable[[], object]) -> None:
        self._connection = connection
        self._depth = depth
        self._block = connection.atomic_blocks[depth]
        self._savepoint = _savepoint(connection, depth)
        self._action = action
        self._called = False

    def __call__(self) -> None:
        if not self._called:
            self._called = True
            self._action()

    def is_open(self) -> bool:
        """Whether the block has not ended yet. One Atomic may be used for several blocks; each has its savepoint."""
        blocks = self._connection.atomic_blocks
        return (
            len(blocks) > self._depth
            and blocks[self._depth] is self._block
            and _savepoint(self._connection, self._depth) == self._savepoint
        )

    def is_awaited(self) -> bool:
        """Whether Django has neither called nor forgotten it."""
        if self._called or not any(entry[1] is self for entry in self._connection.run_on_commit):
            return False
        # Without a savepoint of its own, a block that fails can be rolled back with the test's block only.
        return self.is_open() or self._savepoint is not None or not self._connection.needs_rollback


def _outermost(connection: BaseDatabaseWrapper) -> int | None:
    """The place of the outermost block that is not the test framework's; None if there is none."""
    blocks = connection.atomic_blocks
    depth = sum(1 for _ in takewhile(_is_of_test_case, blocks))
    return depth if depth < len(blocks) else None


def _is_of_test_case(block: Atomic) -> bool:
    # Django's own mark, by which it lets durable blocks be nested in those of TestCase.
    return bool(getattr(block, "_from_testcase", False))


def _savepoint(connection: BaseDatabaseWrapper, depth: int) -> str | None:
    """The savepoint of a block. The outermost of all has none, unless autocommit was off."""
    savepoints = connection.savepoint_ids
    index = depth - (len(connection.atomic_blocks) - len(savepoints))
    return savepoints[index] if 0 <= index < len(savepoints) else None
