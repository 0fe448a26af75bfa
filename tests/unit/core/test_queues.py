"""What is wanted of a queue, beside what the service has."""

from datetime import timedelta

import pytest

from safedefer.core.names import QueueName
from safedefer.core.queues import (
    PresentQueue,
    QueueDifference,
    QueueField,
    QueueSpec,
    QueueValue,
    compare_queue,
)

DEFAULTS: dict[QueueField, QueueValue] = {
    QueueField.RATE_PER_SECOND: 500.0,
    QueueField.RATE_MAX_CONCURRENT: 1000,
    QueueField.RETRY_MAX_ATTEMPTS: 100,
    QueueField.RETRY_MAX_DURATION: timedelta(0),
    QueueField.RETRY_MIN_BACKOFF: timedelta(milliseconds=100),
    QueueField.RETRY_MAX_BACKOFF: timedelta(hours=1),
    QueueField.RETRY_MAX_DOUBLINGS: 16,
    QueueField.LOGGING_SAMPLING_RATIO: 0.0,
}
PRESENT = PresentQueue(name="default", state="running", values=DEFAULTS)


def spec(**values: QueueValue) -> QueueSpec:
    return QueueSpec(name=QueueName("default"), values={QueueField(name): value for name, value in values.items()})


def test_only_what_is_named_is_compared() -> None:
    assert compare_queue(spec(), PRESENT) == ()
    assert compare_queue(spec(rate_per_second=500, retry_max_duration=timedelta(0)), PRESENT) == ()


@pytest.mark.parametrize("field", QueueField)
def test_every_setting_is_compared(field: QueueField) -> None:
    value: QueueValue = timedelta(seconds=7) if isinstance(DEFAULTS[field], timedelta) else 1
    (difference,) = compare_queue(spec(**{field.value: value}), PRESENT)
    assert difference == QueueDifference(field=field, wanted=value, present=DEFAULTS[field])


@pytest.mark.parametrize(
    ("values", "gives_up"),
    [
        ({"retry_max_attempts": -1}, False),
        ({"retry_max_attempts": -1, "retry_max_duration": timedelta(0)}, False),
        ({"retry_max_attempts": 3}, True),
        ({"retry_max_attempts": 3, "retry_max_duration": timedelta(hours=1)}, True),
        ({"retry_max_attempts": -1, "retry_max_duration": timedelta(hours=1)}, True),
    ],
)
def test_queue_gives_up_where_attempts_or_a_duration_end(values: dict[str, QueueValue], gives_up: bool) -> None:
    assert spec(**values).gives_up is gives_up
