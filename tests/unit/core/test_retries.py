"""RetryOptions: what may be asked, and when a call is given up."""

from datetime import timedelta
from typing import Any

import pytest

from safedefer import RetryOptions
from safedefer.errors import InvalidOptionError

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    "given",
    [
        {"max_attempts": 0},
        {"max_attempts": True},
        {"max_attempts": 1.5},
        {"max_attempts": 1_000_001},
        {"max_doublings": -1},
        {"max_doublings": "3"},
        {"min_backoff": 5},
        {"min_backoff": timedelta(0)},
        {"max_backoff": -SECOND},
        {"max_duration": timedelta(days=32)},
        {"min_backoff": HOUR, "max_backoff": SECOND},
    ],
)
def test_policy_that_cannot_work_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError, match="RetryOptions"):
        RetryOptions(**given)


@pytest.mark.parametrize(
    ("options", "attempts", "age", "spent"),
    [
        (RetryOptions(), 1_000_000, timedelta(days=30), False),
        (RetryOptions(max_attempts=3), 2, HOUR, False),
        (RetryOptions(max_attempts=3), 3, timedelta(0), True),
        (RetryOptions(max_duration=HOUR), 99, HOUR - SECOND, False),
        (RetryOptions(max_duration=HOUR), 1, HOUR, True),
        # As in Cloud Tasks, both have to be spent.
        (RetryOptions(max_attempts=3, max_duration=HOUR), 9, HOUR - SECOND, False),
        (RetryOptions(max_attempts=3, max_duration=HOUR), 2, 2 * HOUR, False),
        (RetryOptions(max_attempts=3, max_duration=HOUR), 3, HOUR, True),
    ],
)
def test_call_is_given_up_when_its_policy_is_spent(
    options: RetryOptions, attempts: int, age: timedelta, spent: bool
) -> None:
    assert options.is_spent(attempts=attempts, age=age) is spent


@pytest.mark.parametrize(
    ("options", "shortest", "longest", "doublings"),
    [
        (RetryOptions(), timedelta(seconds=0.1), HOUR, 16),
        (RetryOptions(min_backoff=2 * HOUR), 2 * HOUR, 2 * HOUR, 16),
        (RetryOptions(max_backoff=timedelta(milliseconds=5)), timedelta(milliseconds=5), timedelta(milliseconds=5), 16),
        (RetryOptions(min_backoff=SECOND, max_backoff=HOUR, max_doublings=0), SECOND, HOUR, 0),
    ],
)
def test_backoff_that_was_not_given_is_the_services_default(
    options: RetryOptions, shortest: timedelta, longest: timedelta, doublings: int
) -> None:
    assert (options.shortest, options.longest, options.doublings) == (shortest, longest, doublings)
