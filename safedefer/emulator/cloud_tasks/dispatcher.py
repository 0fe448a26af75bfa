"""The threads that move tasks: one that watches the clock, and one for each attempt in flight."""

import logging
import threading
import time
import urllib.parse
from datetime import datetime

from safedefer.emulator.cloud_tasks.attempts import Attempt
from safedefer.emulator.cloud_tasks.delivery import Call, Delivery
from safedefer.emulator.cloud_tasks.engine import Engine
from safedefer.emulator.cloud_tasks.names import short_id
from safedefer.emulator.cloud_tasks.retries import Answer, NoResponse
from safedefer.emulator.cloud_tasks.schedule import Schedule
from safedefer.emulator.cloud_tasks.state import Dispatch
from safedefer.emulator.cloud_tasks.task_forms import encoded_url

logger: logging.Logger = logging.getLogger("safedefer.emulator.dispatch")

_MOST_AT_ONCE = 64
"""Attempts begun in one go. A thread starts quickly, but ten thousand would keep deadlines waiting."""


class Dispatcher:
    """Starts attempts when they are due, cuts them off when their deadline passes, and hands in their answers."""

    def __init__(self, engine: Engine, delivery: Delivery, *, max_threads: int) -> None:
        """Prepare; nothing is sent before `start`.

        Args:
            engine: Where attempts come from and answers go to.
            delivery: Sends one attempt.
            max_threads: How many attempts may be in flight over all queues.
        """
        self._engine = engine
        self._delivery = delivery
        self._max_threads = max_threads
        self._watcher = threading.Thread(target=self._watch, name="cloud-tasks-dispatcher", daemon=True)
        # All of the following is guarded by engine.changed.
        self._is_stopping = False
        self._calls: dict[int, Call] = {}
        self._deadlines: Schedule[int] = Schedule()
        self._workers: set[threading.Thread] = set()
        self._ending: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to dispatch."""
        self._watcher.start()

    def stop(self, timeout: float) -> None:
        """Stop dispatching, cut off what is in flight, and wait for the threads, `timeout` seconds at most."""
        give_up_at = time.monotonic() + timeout
        with self._engine.changed:
            self._is_stopping = True
            for call in self._calls.values():
                call.cancel()
            threads = [self._watcher, *self._workers, *self._ending]
            self._engine.changed.notify_all()
        for thread in threads:
            thread.join(max(give_up_at - time.monotonic(), 0))

    def _watch(self) -> None:
        changed = self._engine.changed
        while True:
            with changed:
                if self._is_stopping:
                    return
                self._cancel_overdue()
                begun = self._engine.take_due(room=self._max_threads, most=_MOST_AT_ONCE)
                for dispatch in begun:
                    self._launch(dispatch)
                if not begun:
                    self._engine.clock.wait(changed, until=self._next_event())

    def _next_event(self) -> datetime | None:
        times = (self._engine.next_dispatch_at(room=self._max_threads), self._deadlines.next_due())
        return min((time for time in times if time is not None), default=None)

    def _cancel_overdue(self) -> None:
        now = self._engine.clock.now()
        while (number := self._deadlines.pop_due(now)) is not None:
            self._calls[number].cancel()

    def _launch(self, dispatch: Dispatch) -> None:
        call = Call()
        worker = threading.Thread(
            target=self._work, args=(dispatch, call), name=f"cloud-tasks-attempt-{dispatch.number}", daemon=True
        )
        self._calls[dispatch.number] = call
        self._deadlines.put(dispatch.number, dispatch.deadline)
        self._workers.add(worker)
        try:
            worker.start()
        except RuntimeError:
            # The machine has no thread to give. The task is to be tried again; this thread must not end over it.
            logger.exception("No thread for an attempt")
            self._workers.discard(worker)
            self._conclude(dispatch, NoResponse(reason="unreachable"))

    def _work(self, dispatch: Dispatch, call: Call) -> None:
        # What is assumed until the delivery says otherwise: an error nobody foresaw must not end as a success,
        # and must not leave the task in flight for ever.
        answer: Answer = NoResponse(reason="unreachable")
        try:
            answer = self._delivery.deliver(dispatch, call)
        finally:
            attempt = self._hand_in(dispatch, answer)
        if attempt is not None:
            _log(attempt)

    def _hand_in(self, dispatch: Dispatch, answer: Answer) -> Attempt | None:
        with self._engine.changed:
            self._retire(threading.current_thread())
            return self._conclude(dispatch, answer)

    def _conclude(self, dispatch: Dispatch, answer: Answer) -> Attempt | None:
        del self._calls[dispatch.number]
        self._deadlines.discard(dispatch.number)
        if self._is_stopping:
            self._engine.abandon(dispatch)
            return None
        return self._engine.finish(dispatch, answer)

    def _retire(self, worker: threading.Thread) -> None:
        # It still has a log line to write. Until it has ended, `stop` must be able to wait for it.
        self._workers.discard(worker)
        self._ending = [*(thread for thread in self._ending if thread.is_alive()), worker]


def _log(attempt: Attempt) -> None:
    url = urllib.parse.urlsplit(encoded_url(attempt.url))
    logger.info(
        "%s %s%s queue=%s task=%s status=%s attempt=%d",
        attempt.method,
        url.netloc.rpartition("@")[2],
        url.path,
        short_id(attempt.queue),
        short_id(attempt.task),
        attempt.status or attempt.outcome,
        attempt.attempt,
    )
