"""Queues as the project wants them: compared with those of the service, created, updated."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final, final

from safedefer.core.limits import QUEUE_SYNC_TIME
from safedefer.core.names import QueueName
from safedefer.core.ports import QueueAdmin
from safedefer.core.queues import QueueDifference, QueueSpec, compare_queue
from safedefer.errors import ConfigurationError, QueueUnavailableError

logger: Final = logging.getLogger("safedefer.queues")


@final
class QueueOutcome(StrEnum):
    """What became of one queue; of a comparison, what would."""

    AS_WANTED = "as wanted"
    CREATED = "created"
    UPDATED = "updated"
    MISSING = "missing"
    DIFFERENT = "different"
    FAILED = "failed"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class QueueReport:
    """How one queue stands.

    Attributes:
        differences: What was found to be different, and updated where the outcome says so.
        problem: Why it failed.
    """

    name: QueueName
    outcome: QueueOutcome
    differences: tuple[QueueDifference, ...] = ()
    problem: str = ""


def synchronise_queues(
    admin: QueueAdmin,
    specs: Sequence[QueueSpec],
    *,
    within: timedelta = QUEUE_SYNC_TIME,
    now: Callable[[], float] = time.monotonic,
) -> Sequence[QueueReport]:
    """Create the queues that are missing, and update the settings that differ. Queues that are named nowhere stay.

    Args:
        within: Time for all of them together.
        now: A clock that only goes forward, in seconds.
    """
    return tuple(_visit(specs, _Deadline(within, now), lambda spec, deadline: _synchronise(admin, spec, deadline)))


def compare_queues(
    admin: QueueAdmin,
    specs: Sequence[QueueSpec],
    *,
    within: timedelta = QUEUE_SYNC_TIME,
    now: Callable[[], float] = time.monotonic,
) -> Sequence[QueueReport]:
    """Tell what `synchronise_queues` would do, and change nothing."""
    return tuple(_visit(specs, _Deadline(within, now), lambda spec, deadline: _compare(admin, spec, deadline)))


def prepare_queues(admin: QueueAdmin, specs: Sequence[QueueSpec]) -> None:
    """Synchronise the queues before a process sends its first task, and log what came of it.

    It never raises: a queue with an old rate is better than a call that is not sent, and where a queue is missing the
    service will say so to the one who sends.
    """
    try:
        reports = synchronise_queues(admin, specs)
    except Exception as error:  # noqa: BLE001  # See above; whatever it is, the call comes first.
        logger.warning("the queues were not synchronised: %s", type(error).__name__)
        return
    for report in reports:
        if report.outcome in (QueueOutcome.CREATED, QueueOutcome.UPDATED):
            fields = ", ".join(difference.field.value for difference in report.differences)
            logger.info("queue %s was %s%s", report.name, report.outcome.value, f": {fields}" if fields else "")
    failed = [report for report in reports if report.outcome is QueueOutcome.FAILED]
    if failed:
        names = ", ".join(report.name for report in failed)
        logger.warning("not synchronised: queue %s; %s", names, failed[0].problem)


@final
class _Deadline:
    """The time that is left for all queues together."""

    def __init__(self, within: timedelta, now: Callable[[], float]) -> None:
        self._now = now
        self._end = now() + within.total_seconds()

    def left(self) -> timedelta:
        """How long the next call may take.

        Raises:
            QueueUnavailableError: There is no time left.
        """
        seconds = self._end - self._now()
        if seconds <= 0:
            raise QueueUnavailableError("Cloud Tasks took too long to answer for the queues")
        return timedelta(seconds=seconds)


def _visit(
    specs: Sequence[QueueSpec], deadline: _Deadline, look: Callable[[QueueSpec, _Deadline], QueueReport]
) -> Iterator[QueueReport]:
    """Go through the queues. After a service that does not answer the rest are not tried."""
    unavailable = ""
    for spec in specs:
        if unavailable:
            yield QueueReport(name=spec.name, outcome=QueueOutcome.FAILED, problem=unavailable)
            continue
        try:
            yield look(spec, deadline)
        except ConfigurationError as error:
            yield QueueReport(name=spec.name, outcome=QueueOutcome.FAILED, problem=str(error))
        except QueueUnavailableError as error:
            unavailable = str(error)
            yield QueueReport(name=spec.name, outcome=QueueOutcome.FAILED, problem=unavailable)


def _compare(admin: QueueAdmin, spec: QueueSpec, deadline: _Deadline) -> QueueReport:
    present = admin.get(spec.name, within=deadline.left())
    if present is None:
        return QueueReport(name=spec.name, outcome=QueueOutcome.MISSING)
    differences = compare_queue(spec, present)
    outcome = QueueOutcome.DIFFERENT if differences else QueueOutcome.AS_WANTED
    return QueueReport(name=spec.name, outcome=outcome, differences=differences)


def _synchronise(admin: QueueAdmin, spec: QueueSpec, deadline: _Deadline) -> QueueReport:
    found = _compare(admin, spec, deadline)
    if found.outcome is QueueOutcome.MISSING:
        if admin.create(spec, within=deadline.left()):
            return QueueReport(name=spec.name, outcome=QueueOutcome.CREATED)
        # Another process made it in between, perhaps from older settings.
        found = _compare(admin, spec, deadline)
    if not found.differences:
        return found
    admin.update(spec, [difference.field for difference in found.differences], within=deadline.left())
    return QueueReport(name=spec.name, outcome=QueueOutcome.UPDATED, differences=found.differences)
