"""A value that each process makes for itself on first use: a gRPC channel used before a fork fails in the child."""

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar, final

_T = TypeVar("_T")


@final
class PerProcess(Generic[_T]):
    """Makes a value once in each process. Safe for threads."""

    def __init__(self, make: Callable[[], _T], then: Callable[[_T], None] | None = None) -> None:
        """Take how the value is made.

        Args:
            then: Called with a new value before anybody else gets it. It must not raise, and it may come to ask for the
                value itself, as where it logs and the log is sent.
        """
        self._make = make
        self._then = then
        self._lock = threading.RLock()
        self._made: tuple[int, _T] | None = None
        self._value: tuple[int, _T] | None = None
        # A fork in the middle of making would leave the child with a lock that nobody releases.
        os.register_at_fork(after_in_child=self._renew_lock)

    def get(self) -> _T:
        """The value of this process."""
        process_id = os.getpid()
        current = self._value
        if current is not None and current[0] == process_id:
            return current[1]
        with self._lock:
            if self._made is None or self._made[0] != process_id:
                self._made = made = (process_id, self._make())
                if self._then is not None:
                    self._then(made[1])
            self._value = self._made
            return self._made[1]

    def _renew_lock(self) -> None:
        self._lock = threading.RLock()
