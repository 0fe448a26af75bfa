"""Which headers a dispatch carries."""

from datetime import UTC, datetime

import pytest

from safedefer.emulator.cloud_tasks.headers import (
    AttemptFacts,
    dispatch_headers,
    is_reserved,
    redacted,
    with_authorization,
)


def facts(previous_response: int | None = None) -> AttemptFacts:
    return AttemptFacts(
        queue_id="default",
        task_id="one",
        retry_count=3,
        execution_count=1,
        scheduled_at=datetime(2026, 1, 1, 0, 0, 0, 250_000, tzinfo=UTC),
        previous_response=previous_response,
    )


@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "CONTENT-LENGTH",
        "user-agent",
        "X-Google-Anything",
        "x-appengine-queuename",
        "X-CloudTasks-QueueName",
        "Transfer-Encoding",
        "Connection",
        "TE",
    ],
)
def test_reserved_header_is_known_in_any_case(name: str) -> None:
    assert is_reserved(name)


@pytest.mark.parametrize("name", ["Content-Type", "Authorization", "X-Goog-Anything", "Cookie", "Hostname"])
def test_header_of_the_caller_passes(name: str) -> None:
    assert not is_reserved(name)
    assert (name, "value") in dispatch_headers({name: "value"}, facts())


def test_retry_headers_come_on_retries_only() -> None:
    first = dict(dispatch_headers({}, facts()))
    retry = dict(dispatch_headers({}, facts(previous_response=504)))
    assert set(retry) - set(first) == {"X-CloudTasks-TaskPreviousResponse", "X-CloudTasks-TaskRetryReason"}
    assert retry["X-CloudTasks-TaskPreviousResponse"] == "504"
    assert retry["X-CloudTasks-TaskRetryReason"] == ""


def test_eta_has_six_digits_of_a_second() -> None:
    assert dict(dispatch_headers({}, facts()))["X-CloudTasks-TaskETA"] == "1767225600.250000"


def test_token_replaces_authorization_in_any_case() -> None:
    headers = with_authorization([("AUTHORIZATION", "mine"), ("X-Kept", "1")], "token")
    assert headers == (("X-Kept", "1"), ("Authorization", "Bearer token"))


def test_redaction_keeps_names_and_drops_credentials() -> None:
    headers = [("authorization", "secret"), ("Cookie", "secret"), ("X-Kept", "1")]
    assert redacted(headers) == (("authorization", "[redacted]"), ("Cookie", "[redacted]"), ("X-Kept", "1"))
