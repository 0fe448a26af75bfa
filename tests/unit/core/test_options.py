"""Options: unknown ones, wrong values, and what merging keeps."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from safedefer.core.options import OPTION_NAMES, TaskOptions, split_options
from safedefer.core.retries import RetryOptions
from safedefer.errors import InvalidNameError, InvalidOptionError


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"queue": "under_score"}, InvalidNameError),
        ({"queue": ""}, InvalidNameError),
        ({"queue": 5}, InvalidNameError),
        ({"queue": "projects/p/locations/l/queues/q"}, InvalidNameError),
        ({"name": "a/b"}, InvalidNameError),
        ({"service": "Shop"}, InvalidOptionError),
        ({"service": "a.b"}, InvalidOptionError),
        ({"version": "one-dot-two"}, InvalidOptionError),
        ({"instance": 3}, InvalidOptionError),
        ({"retry_options": {"max_attempts": 3}}, InvalidOptionError),
        ({"wipe_related_caches": 0}, InvalidOptionError),
        ({"name": "x" * 501}, InvalidNameError),
        ({"eta": "tomorrow"}, InvalidOptionError),
        ({"eta": 5}, InvalidOptionError),
        ({"countdown": "5"}, InvalidOptionError),
        ({"countdown": True}, InvalidOptionError),
        ({"countdown": float("inf")}, InvalidOptionError),
        ({"countdown": float("nan")}, InvalidOptionError),
        ({"deadline": 14.9}, InvalidOptionError),
        ({"deadline": 1_801}, InvalidOptionError),
        ({"deadline": timedelta(hours=1)}, InvalidOptionError),
        ({"expires": 60}, InvalidOptionError),
        ({"transactional": 1}, InvalidOptionError),
        ({"small_task": "yes"}, InvalidOptionError),
        ({"raise_if_exists": "yes"}, InvalidOptionError),
        ({"using": 5}, InvalidOptionError),
        ({"colour": "red"}, InvalidOptionError),
    ],
)
def test_wrong_option_is_refused(given: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        TaskOptions().merged(given)


def test_unknown_option_names_the_near_match() -> None:
    with pytest.raises(InvalidOptionError, match="did you mean _countdown"):
        split_options({"_count_down": 5})
    with pytest.raises(InvalidOptionError, match="known are"):
        split_options({"_zzz": 5})


def test_options_are_taken_out_and_arguments_stay() -> None:
    kwargs: dict[str, object] = {"_queue": "q", "text": "x", "_eta": None}
    assert split_options(kwargs) == {"queue": "q", "eta": None}
    assert kwargs == {"text": "x"}


def test_merging_keeps_what_is_not_given_again() -> None:
    first = TaskOptions().merged({"queue": "q", "countdown": 5, "deadline": timedelta(seconds=15)})
    second = first.merged({"queue": "r", "countdown": None})
    assert (second.queue, second.countdown, second.deadline) == ("r", timedelta(seconds=5), timedelta(seconds=15))
    assert first.queue == "q"
    assert first.merged({}) is first


def test_every_option_can_be_given() -> None:
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    given = {
        "queue": "q",
        "eta": moment,
        "countdown": 1.5,
        "name": "n",
        "service": "shop",
        "version": "v1",
        "instance": "i-1",
        "expires": moment,
        "deadline": 60,
        "transactional": True,
        "using": "other",
        "small_task": True,
        "wipe_related_caches": False,
        "retry_options": RetryOptions(max_attempts=3),
        "raise_if_exists": True,
    }
    assert given.keys() == OPTION_NAMES
    options = TaskOptions().merged(given)
    assert options.countdown == timedelta(seconds=1.5)
    assert options.deadline == timedelta(minutes=1)
