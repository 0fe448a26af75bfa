"""CommitHook for tests: Django's TestCase rolls everything back, so that its own blocks are taken for none.

What decides is the outermost block that the code under test has opened. Once that has ended, the call is on its way,
as it would be after the commit in production; if the block was rolled back, or an inner one that the call was made in,
Django has forgotten it, and so it is here. Where the tests' framework opens no block, commits are real.
"""

import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
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
        self._blocks: list[_Block] = []

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
        waiting = _Waiting(action)
        # Django forgets it when a block around it is rolled back, and calls it after a real commit.
        transaction.on_commit(waiting, using=using)
        if depth > 0:
            with self._lock:
                self._block_of(connection, depth).waiting.append(waiting)

    def atomic(self, using: str) -> AbstractContextManager[None]:
        """Django's own block."""
        return self._django.atomic(using)

    def settle(self) -> None:
        """Call what waited for blocks that have ended well by now, in the order in which it came."""
        while (ready := self._take()) is not None:
            ready()

    def _block_of(self, connection: BaseDatabaseWrapper, depth: int) -> "_Block":
        for block in self._blocks:
            if block.connection is connection and block.is_open():
                return block
        self._blocks.append(_Block(connection, depth))
        return self._blocks[-1]

    def _take(self) -> "_Waiting | None":
        with self._lock:
            for block in list(self._blocks):
                if block.is_open():
                    continue
                ready = block.take()
                if ready is not None:
                    return ready
                self._blocks.remove(block)
        return None


@final
class _Waiting:
    """An action that is called once, whoever calls it: this module, Django, or a test that captures callbacks."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = action
        self._called = False

    def __call__(self) -> None:
        if not self._called:
            self._called = True
            self._action()


@final
class _Block:
    """An outermost block of the code under test, and what waits for its end.

    Attributes:
        connection: Whose block it is.
        waiting: In the order in which it came.
    """

    def __init__(self, connection: BaseDatabaseWrapper, depth: int) -> None:
        self.connection = connection
        self.waiting: deque[_Waiting] = deque()
        self._depth = depth
        self._block = connection.atomic_blocks[depth]
        self._savepoint = _savepoint(connection, depth)
        self._has_ended = False

    def is_open(self) -> bool:
        """Whether it has not ended yet. One Atomic may be used for several blocks; each has its savepoint."""
        blocks = self.connection.atomic_blocks
        return (
            len(blocks) > self._depth
            and blocks[self._depth] is self._block
            and _savepoint(self.connection, self._depth) == self._savepoint
        )

    def take(self) -> _Waiting | None:
        """The next of what waited, after the end: of that, what Django has not forgotten."""
        if not self._has_ended:
            self._has_ended = True
            self.waiting = deque(self._remembered())
        return self.waiting.popleft() if self.waiting else None

    def _remembered(self) -> list[_Waiting]:
        # Without a savepoint of its own, a block that fails can be rolled back with the test's block only.
        if self._savepoint is None and self.connection.needs_rollback:
            return []
        known = {id(entry[1]) for entry in self.connection.run_on_commit}
        return [waiting for waiting in self.waiting if id(waiting) in known]


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
