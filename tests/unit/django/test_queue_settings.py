"""The QUEUES setting, and the one that djangae has for it."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from safedefer.core.queues import QueueField, QueueSpec
from safedefer.django.conf import Problem, Settings, read_settings
from safedefer.django.queue_settings import parse_queues

DJANGAE = [{"name": "default", "rate_per_second": "1", "rate_max_concurrent": 10, "retry_max_attempts": -1}]


def read(queues: Any = None, **safedefer: Any) -> tuple[Settings | None, list[Problem]]:
    django_settings = SimpleNamespace(
        DEBUG=True, SECRET_KEY="s", SAFEDEFER=safedefer, **({} if queues is None else {"CLOUD_TASKS_QUEUES": queues})
    )
    settings, problems = read_settings(django_settings, {})
    return settings, [problem for problem in problems if problem.id != "W001"]


def specs(**given: Any) -> tuple[QueueSpec, ...]:
    settings, problems = read(**given)
    assert settings is not None, problems
    return settings.queues


def values(**entry: Any) -> dict[str, object]:
    (spec,), mistakes = parse_queues([{"name": "default", **entry}], "QUEUES")
    assert mistakes == []
    return {field.value: value for field, value in spec.values.items()}


def mistake(*entries: Any) -> str:
    _, mistakes = parse_queues(entries, "QUEUES")
    assert len(mistakes) == 1, mistakes
    return mistakes[0].message


def test_setting_of_djangae_is_read_as_it_is() -> None:
    (spec,) = specs(queues=DJANGAE)
    assert spec.name == "default"
    assert spec.values == {
        QueueField.RATE_PER_SECOND: 1.0,
        QueueField.RATE_MAX_CONCURRENT: 10,
        QueueField.RETRY_MAX_ATTEMPTS: -1,
    }


def test_setting_of_safedefer_wins_even_where_it_is_empty() -> None:
    assert specs(queues=DJANGAE, QUEUES=[]) == ()
    assert [spec.name for spec in specs(queues=DJANGAE, QUEUES=[{"name": "slow"}])] == ["slow"]
    assert specs() == ()


def test_queue_that_is_managed_gives_up_only_if_it_is_told_to() -> None:
    assert values() == {"retry_max_attempts": -1}
    assert values(retry_max_attempts="3") == {"retry_max_attempts": 3}


def test_every_setting_of_a_queue_is_read() -> None:
    entry = {
        "rate_per_second": 0.5,
        "rate_max_concurrent": "3",
        "retry_max_attempts": 7,
        "retry_max_duration": timedelta(hours=1),
        "retry_min_backoff": 2,
        "retry_max_backoff": "60",
        "retry_max_doublings": 4,
        "logging_sampling_ratio": "0.25",
    }
    assert entry.keys() == {field.value for field in QueueField}
    assert values(**entry) == {
        "rate_per_second": 0.5,
        "rate_max_concurrent": 3,
        "retry_max_attempts": 7,
        "retry_max_duration": timedelta(hours=1),
        "retry_min_backoff": timedelta(seconds=2),
        "retry_max_backoff": timedelta(seconds=60),
        "retry_max_doublings": 4,
        "logging_sampling_ratio": 0.25,
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rate_per_second", 0),
        ("rate_per_second", -1),
        ("rate_per_second", 500.1),
        ("rate_per_second", "1/s"),
        ("rate_per_second", "nan"),
        ("rate_per_second", True),
        ("rate_per_second", None),
        ("rate_max_concurrent", 0),
        ("rate_max_concurrent", 5_001),
        ("rate_max_concurrent", 1.5),
        ("rate_max_concurrent", "1e999"),
        ("retry_max_attempts", 0),
        ("retry_max_attempts", -2),
        ("retry_max_attempts", 2**31),
        ("retry_max_duration", -1),
        ("retry_max_duration", 0.5),
        ("retry_max_duration", timedelta(milliseconds=1)),
        ("retry_max_duration", 1e300),
        ("retry_max_duration", [1]),
        ("retry_min_backoff", 0),
        ("retry_max_backoff", timedelta(0)),
        ("retry_max_doublings", -1),
        ("retry_max_doublings", 2**31),
        ("logging_sampling_ratio", -0.1),
        ("logging_sampling_ratio", 1.1),
    ],
)
def test_value_that_the_service_would_not_take_is_named(key: str, value: object) -> None:
    assert mistake({"name": "default", key: value}).startswith(f"QUEUES[0]: {key}: expected ")


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("default", "not a dict with a name"),
        ({}, "not a dict with a name"),
        ({"name": "with_underscore"}, "letters, digits or hyphens"),
        ({"name": 5}, "letters, digits or hyphens"),
        ({"name": "a", "rate_per_secnd": 1}, "unknown key 'rate_per_secnd'; did you mean rate_per_second"),
        ({"name": "a", "colour": 1}, "unknown key 'colour'; known are name, rate_per_second"),
        ({"name": "a", "retry_min_backoff": 9, "retry_max_backoff": 8}, "retry_min_backoff is longer"),
    ],
)
def test_entry_that_is_no_queue_is_named(entry: object, text: str) -> None:
    assert text in mistake(entry)


def test_setting_that_is_no_list_and_queue_that_comes_twice_are_refused() -> None:
    assert mistake({"name": "a"}, {"name": "a"}) == "QUEUES[1]: a second queue is called a."
    for value in ({"name": "a"}, "default", 5):
        assert parse_queues(value, "QUEUES")[1][0].message == "QUEUES is not a list of queues."


@pytest.mark.parametrize(
    ("given", "where"),
    [({"queues": [{"name": "a", "b": 1}]}, "CLOUD_TASKS_QUEUES[0]"), ({"QUEUES": 5}, "SAFEDEFER['QUEUES']")],
)
def test_mistake_in_a_queue_is_an_error_that_says_where(given: dict[str, Any], where: str) -> None:
    settings, (problem,) = read(**given)
    assert settings is None
    assert problem.id == "E020"
    assert problem.message.startswith(where)


@pytest.mark.parametrize("limit", [{"retry_max_attempts": 3}, {"retry_max_duration": 60}])
def test_queue_that_gives_up_is_a_warning(limit: dict[str, int]) -> None:
    settings, (problem,) = read([{"name": "default"}, {"name": "short", **limit}])
    assert settings is not None
    assert problem.id == "W020"
    assert "queue short gives up" in problem.message


def test_synchronising_is_on_unless_it_is_turned_off() -> None:
    settings, _ = read()
    assert settings is not None
    assert settings.sync_queues
    settings, _ = read(SYNC_QUEUES=False)
    assert settings is not None
    assert not settings.sync_queues
    settings, (problem,) = read(SYNC_QUEUES="no")
    assert settings is None
    assert problem.id == "E002"
