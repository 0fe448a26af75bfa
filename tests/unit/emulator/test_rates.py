"""The token bucket as values."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedefer.emulator.cloud_tasks.rates import (
    RateLimits,
    TokenBucket,
    burst_for,
    full_bucket,
    next_token_at,
    refill,
    take_token,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RATES = st.floats(0.001, 500)


def limits(per_second: float, burst: int = 10) -> RateLimits:
    return RateLimits(per_second=per_second, burst=burst, concurrent=1)


def taken(bucket: TokenBucket, given_limits: RateLimits, now: datetime) -> TokenBucket:
    left = take_token(bucket, given_limits, now)
    assert left is not None
    return left


def test_full_bucket_gives_its_burst_and_no_more() -> None:
    bucket = full_bucket(limits(1), NOW)
    for _ in range(10):
        bucket = taken(bucket, limits(1), NOW)
    assert take_token(bucket, limits(1), NOW) is None


@given(RATES)
def test_token_is_there_at_the_announced_time_and_not_before(rate: float) -> None:
    empty = TokenBucket(tokens=0, filled_at=NOW)
    at = next_token_at(empty, limits(rate), NOW)
    assert take_token(empty, limits(rate), at) is not None
    assert take_token(empty, limits(rate), at - timedelta(microseconds=2)) is None


@given(RATES, st.lists(st.floats(0, 100), max_size=50))
def test_rate_is_never_exceeded(rate: float, pauses: list[float]) -> None:
    bucket = full_bucket(limits(rate), NOW)
    now, count = NOW, 0
    for pause in pauses:
        now += timedelta(seconds=pause)
        while (left := take_token(bucket, limits(rate), now)) is not None:
            bucket, count = left, count + 1
    assert count <= 10 + (now - NOW).total_seconds() * rate + 1e-3


@given(RATES, st.integers(0, 20))
def test_following_the_announced_times_keeps_the_rate(rate: float, extra: int) -> None:
    bucket, now = full_bucket(limits(rate), NOW), NOW
    for _ in range(10 + extra):
        now = next_token_at(bucket, limits(rate), now)
        bucket = taken(bucket, limits(rate), now)
    expected = extra / rate
    assert (now - NOW).total_seconds() == pytest.approx(expected, abs=1e-4)


def test_bucket_never_holds_more_than_its_burst() -> None:
    assert refill(full_bucket(limits(500), NOW), limits(500), NOW + timedelta(days=1)).tokens == 10


def test_clock_that_runs_backwards_takes_nothing_away() -> None:
    bucket = TokenBucket(tokens=1, filled_at=NOW)
    assert take_token(bucket, limits(1), NOW - timedelta(hours=1)) is not None


@pytest.mark.parametrize(("rate", "burst"), [(0.1, 10), (5, 10), (50, 10), (100, 20), (500, 100)])
def test_burst_follows_from_the_rate(rate: float, burst: int) -> None:
    assert burst_for(rate) == burst
