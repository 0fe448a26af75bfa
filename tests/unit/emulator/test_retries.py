"""Retry rules as values: backoff, giving up, what counts, Retry-After."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedefer.emulator.cloud_tasks.retries import (
    Answer,
    NoResponse,
    Response,
    RetryRules,
    backoff,
    counts_as_execution,
    has_given_up,
    is_success,
    parse_retry_after,
    previous_response,
    response_status,
    retry_delay,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DEADLINE = NoResponse(reason="deadline")
UNREACHABLE = NoResponse(reason="unreachable")


def rules(
    *,
    max_attempts: int | None = 5,
    max_duration: float = 0,
    min_backoff: float = 10,
    max_backoff: float = 300,
    max_doublings: int = 3,
) -> RetryRules:
    return RetryRules(
        max_attempts=max_attempts,
        max_duration=timedelta(seconds=max_duration) or None,
        min_backoff=timedelta(seconds=min_backoff),
        max_backoff=timedelta(seconds=max_backoff),
        max_doublings=max_doublings,
    )


RULES = st.builds(
    rules,
    min_backoff=st.floats(0, 1e6),
    max_backoff=st.floats(0, 1e6),
    max_doublings=st.integers(0, 2**31 - 1),
)


@pytest.mark.parametrize(
    ("given_rules", "seconds"),
    [
        (rules(), [10, 20, 40, 80, 160, 240, 300, 300]),
        (rules(max_backoff=200, max_doublings=0), [*range(10, 210, 10), 200]),
        (rules(min_backoff=0.1, max_backoff=3600, max_doublings=16), [0.1, 0.2, 0.4, 0.8, 1.6, 3.2]),
    ],
)
def test_backoff_gives_the_documented_sequence(given_rules: RetryRules, seconds: list[float]) -> None:
    found = [backoff(given_rules, retry).total_seconds() for retry in range(1, len(seconds) + 1)]
    assert found == seconds


@given(RULES, st.integers(1, 10**9))
def test_backoff_never_shrinks_nor_exceeds_its_maximum(given_rules: RetryRules, retry: int) -> None:
    delay = backoff(given_rules, retry)
    assert delay <= backoff(given_rules, retry + 1) <= given_rules.max_backoff


@given(RULES, st.integers(1, 10**9), st.sampled_from([429, 503]), st.integers(0, 10**6))
def test_throttled_delay_is_no_shorter_than_configured_or_asked_for(
    given_rules: RetryRules, retry: int, status: int, asked: int
) -> None:
    answer = Response(status=status, retry_after=timedelta(seconds=asked))
    delay = retry_delay(given_rules, retry, answer)
    assert delay == max(2 * backoff(given_rules, retry), timedelta(seconds=asked))


@pytest.mark.parametrize("answer", [Response(status=500, retry_after=timedelta(hours=1)), DEADLINE, UNREACHABLE])
def test_other_failures_keep_the_configured_backoff(answer: Answer) -> None:
    assert retry_delay(rules(), 1, answer) == timedelta(seconds=10)


@pytest.mark.parametrize(
    ("max_attempts", "max_duration", "attempts", "age", "gives_up"),
    [
        (5, 0, 4, 10**6, False),
        (5, 0, 5, 0, True),
        (5, 3600, 5, 3599, False),
        (5, 3600, 4, 3601, False),
        (5, 3600, 5, 3600, True),
        (5, 3600, 50, 3600, True),
        (None, 3600, 1, 3600, True),
        (None, 3600, 10**6, 3599, False),
        (None, 0, 10**6, 10**6, False),
    ],
)
def test_task_is_given_up_when_both_limits_are_spent(
    *, max_attempts: int | None, max_duration: float, attempts: int, age: float, gives_up: bool
) -> None:
    given_rules = rules(max_attempts=max_attempts, max_duration=max_duration)
    now = NOW + timedelta(seconds=age)
    assert has_given_up(given_rules, attempts=attempts, first_attempt=NOW, now=now) == gives_up


@given(st.integers(100, 999))
def test_only_200_to_299_is_success(status: int) -> None:
    assert is_success(Response(status=status)) == (200 <= status <= 299)


@pytest.mark.parametrize(
    ("answer", "counts"),
    [
        (Response(status=200), True),
        (Response(status=302), True),
        (Response(status=404), True),
        (Response(status=429), True),
        (Response(status=500), False),
        (Response(status=503), False),
        (DEADLINE, False),
        (UNREACHABLE, False),
    ],
)
def test_execution_count_excludes_server_errors_and_silence(*, answer: Answer, counts: bool) -> None:
    assert counts_as_execution(answer) == counts


def test_previous_response_stands_in_for_silence() -> None:
    assert previous_response(Response(status=418)) == 418
    assert previous_response(DEADLINE) == 504
    assert previous_response(UNREACHABLE) == 503


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (200, 0),
        (302, 2),
        (400, 3),
        (401, 16),
        (403, 7),
        (404, 5),
        (409, 6),
        (418, 2),
        (429, 8),
        (499, 1),
        (500, 13),
        (501, 12),
        (502, 2),
        (503, 14),
        (504, 4),
    ],
)
def test_response_status_maps_http_to_rpc(status: int, code: int) -> None:
    assert response_status(Response(status=status)) == (code, f"HTTP status code {status}")


def test_response_status_of_silence_tells_why() -> None:
    assert response_status(DEADLINE)[0] == 4
    assert response_status(UNREACHABLE)[0] == 14


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        ("Thu, 01 Jan 2026 00:01:00 GMT", 60),
        ("Wed, 31 Dec 2025 23:00:00 GMT", 0),
        ("Thu, 01 Jan 2026 00:01:00 -0000", 60),
        ("999999999", timedelta(days=31).total_seconds()),
    ],
)
def test_retry_after_is_read_as_seconds_or_date(text: str, seconds: float) -> None:
    assert parse_retry_after(text, NOW) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "soon", "-1", "1.5", "\u0663", "9999999999"])
def test_retry_after_of_another_form_is_ignored(text: str) -> None:
    assert parse_retry_after(text, NOW) is None


@given(st.text())
def test_retry_after_survives_any_text(text: str) -> None:
    found = parse_retry_after(text, NOW)
    assert found is None or timedelta(0) <= found <= timedelta(days=31)
