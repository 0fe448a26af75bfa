"""What a project wants of its queues, what the service has, and how the two differ."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final, TypeAlias, final

from safedefer.core.names import QueueName

QueueValue: TypeAlias = int | float | timedelta

UNLIMITED_ATTEMPTS: Final = -1


@final
class QueueField(StrEnum):
    """A setting of a queue, as the QUEUES setting calls it.

    Left out is what would work against the library: queue-level routing replaces the handler's URL and the token of
    every task. The routing of App Engine tasks has no effect on ours, and the burst is output only.
    """

    RATE_PER_SECOND = "rate_per_second"
    RATE_MAX_CONCURRENT = "rate_max_concurrent"
    RETRY_MAX_ATTEMPTS = "retry_max_attempts"
    RETRY_MAX_DURATION = "retry_max_duration"
    RETRY_MIN_BACKOFF = "retry_min_backoff"
    RETRY_MAX_BACKOFF = "retry_max_backoff"
    RETRY_MAX_DOUBLINGS = "retry_max_doublings"
    LOGGING_SAMPLING_RATIO = "logging_sampling_ratio"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSpec:
    """A queue as the project wants it.

    Attributes:
        name: Queue id.
        values: What it has to be like. What is not here is left as it is, or to the service where the queue is new.
    """

    name: QueueName
    values: Mapping[QueueField, QueueValue]

    @property
    def gives_up(self) -> bool:
        """Whether the queue drops tasks before the service's retention of 31 days ends.

        With unlimited attempts a duration decides; without a duration the attempts do.
        """
        attempts = self.values.get(QueueField.RETRY_MAX_ATTEMPTS)
        return attempts != UNLIMITED_ATTEMPTS or bool(self.values.get(QueueField.RETRY_MAX_DURATION))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PresentQueue:
    """A queue as the service has it.

    Attributes:
        name: Queue id.
        state: running, paused or disabled.
        values: Every setting.
    """

    name: str
    state: str
    values: Mapping[QueueField, QueueValue]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDifference:
    """One setting that is not as wanted."""

    field: QueueField
    wanted: QueueValue
    present: QueueValue


def compare_queue(wanted: QueueSpec, present: PresentQueue) -> tuple[QueueDifference, ...]:
    """The settings that are named in `wanted` and have another value in `present`."""
    return tuple(
        QueueDifference(field=field, wanted=value, present=present.values[field])
        for field, value in wanted.values.items()
        if value != present.values[field]
    )
