"""What the runtime of a test takes from the project's settings, and what it makes up."""

from typing import Any

import pytest
from django.test import override_settings

from safedefer.errors import ConfigurationError, InvalidOptionError, PayloadTooLargeError, TokenError
from safedefer.testing import CapturedTasks, TaskFailedBehaviour, capture_tasks
from safedefer.testing.fakes import MintedTokens
from tests.site.shop.tasks import note

KEYS = [{"id": "ours", "secret": bytes(range(7, 39))}]


def captured(given: object, **others: Any) -> CapturedTasks:
    with override_settings(SAFEDEFER=given, **others), capture_tasks() as tasks:
        return tasks


def test_project_without_settings_has_a_key_of_the_tests() -> None:
    runtime = captured({}, DEBUG=False).runtime
    assert (runtime.ring.primary.name, runtime.policy.project) == ("tests", "tests")
    assert runtime.default_queue == "default"


def test_what_the_project_has_configured_is_used() -> None:
    given = {"KEYS": KEYS, "PROJECT": "acme", "ENVIRONMENT": "staging", "DEFAULT_QUEUE": "mail", "MAX_AGE": None}
    runtime = captured(given).runtime
    assert (runtime.ring.primary.name, runtime.policy.project) == ("ours", "acme")
    assert (runtime.policy.environment, runtime.default_queue) == ("staging", "mail")


@pytest.mark.parametrize("variable", ["K_SERVICE", "GAE_VERSION", "CLOUD_TASKS_EMULATOR_HOST", "TASKS_EMULATOR_HOST"])
def test_environment_of_a_platform_changes_nothing(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "anything")
    assert captured({}).runtime.policy.location == "tests"


def test_store_of_production_is_not_needed() -> None:
    given = {"STORE": "datastore", "HANDLER_URL": "https://shop.example.com/_safedefer/", "OUTBOX": True}
    with override_settings(SAFEDEFER=given, DEBUG=False), capture_tasks() as tasks:
        note.defer("x" * 1_200_000)
    tasks.assert_num_tasks(1)


@pytest.mark.parametrize(
    ("given", "problem"), [({"KEYZ": []}, "KEYS"), ({"KEYS": "x"}, "KEYS"), ([], "not a dict")], ids=str
)
def test_wrong_setting_is_told(given: object, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        captured(given)


def test_limits_of_the_project_hold() -> None:
    with (
        override_settings(SAFEDEFER={"BODY_CAP": 1_000}),
        capture_tasks(),
        pytest.raises(PayloadTooLargeError, match="1,000"),
    ):
        note.defer("x" * 1_000)


def test_routes_are_held_against_the_handler_of_the_project() -> None:
    routed = note.options(service="mail")
    with capture_tasks():
        routed.defer("on a laptop everything is one service")
    given = {"HANDLER_URL": "https://shop.example.com/_safedefer/"}
    with override_settings(SAFEDEFER=given), capture_tasks(), pytest.raises(InvalidOptionError):
        routed.defer("x")


@pytest.mark.parametrize("header", [None, "", "Bearer x", "Bearer ", "bearer é"])
def test_only_minted_tokens_are_accepted(header: str | None) -> None:
    tokens = MintedTokens("tasks@acme.iam.gserviceaccount.com")
    assert tokens.verify(tokens.mint()).email == "tasks@acme.iam.gserviceaccount.com"
    for wrong in (header, MintedTokens("tasks@acme.iam.gserviceaccount.com").mint(), tokens.mint() + "x"):
        with pytest.raises(TokenError):
            tokens.verify(wrong)
    assert tokens.mint().removeprefix("Bearer ") not in repr(tokens)


def test_handler_accepts_no_token_of_another_capture(db: None) -> None:
    with capture_tasks() as others, capture_tasks() as tasks:
        note.defer("x")
    object.__setattr__(tasks._ports, "tokens", others._ports.tokens)
    (run,) = tasks.process_task_queues(failure_behaviour=TaskFailedBehaviour.DO_NOTHING)
    assert (run.outcome, run.reason, run.function) == ("unauthenticated", "token_signature", None)
