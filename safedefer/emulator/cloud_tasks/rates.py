"""How fast a queue may dispatch: a token bucket, as values and functions of a given time."""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

_WHOLE_TOKEN = 1 - 1e-9
"""Arithmetic on floats may leave a full token a hair short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """What a queue allows: dispatches per second, a burst after a pause, and attempts in flight."""

    per_second: float
    burst: int
    concurrent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBucket:
    """How many dispatches may start at once, as of `filled_at`. Every dispatch takes one token, retries too."""

    tokens: float
    filled_at: datetime


def full_bucket(limits: RateLimits, now: datetime) -> TokenBucket:
    """Return the bucket of a queue that has been idle."""
    return TokenBucket(tokens=limits.burst, filled_at=now)


def refill(bucket: TokenBucket, limits: RateLimits, now: datetime) -> TokenBucket:
    """Add what has dripped in since the bucket was last looked at, up to the burst."""
    elapsed = max(now - bucket.filled_at, timedelta(0)).total_seconds()
    return TokenBucket(tokens=min(limits.burst, bucket.tokens + elapsed * limits.per_second), filled_at=now)


def take_token(bucket: TokenBucket, limits: RateLimits, now: datetime) -> TokenBucket | None:
    """Return the bucket less one token, or None if there is no whole token yet."""
    filled = refill(bucket, limits, now)
    if filled.tokens < _WHOLE_TOKEN:
        return None
    return TokenBucket(tokens=max(filled.tokens - 1, 0.0), filled_at=now)


def next_token_at(bucket: TokenBucket, limits: RateLimits, now: datetime) -> datetime:
    """Return the first time at which `take_token` succeeds: `now`, or a time ahead."""
    missing = _WHOLE_TOKEN - refill(bucket, limits, now).tokens
    if missing <= 0:
        return now
    # Rounded up: a timedelta ends at microseconds, and waking up one too early would mean asking again at once.
    return now + timedelta(microseconds=math.ceil(missing / limits.per_second * 1_000_000))


def burst_for(per_second: float) -> int:
    """Return the burst that goes with a rate. The real service chooses it and does not say how.

    Ten for slow queues, a fifth of a second's worth for fast ones: this gives the documented 100 at 500 per second.
    """
    return max(10, math.ceil(per_second / 5))
