"""Start-up: what is put together, and what happens where it cannot be."""

import base64
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.http import HttpResponse
from django.test import Client, override_settings
from django.urls import resolve, reverse

from safedefer import adefer, defer
from safedefer.core.audit import AuditEvent
from safedefer.core.keys import KeyState, check_secret, parse_secret
from safedefer.core.names import EnvironmentName, KeyId, ProjectName
from safedefer.core.options import TaskOptions
from safedefer.core.records import RecordKey, RecordKind
from safedefer.core.routing import Route
from safedefer.django.conf import KeySetting, read_settings
from safedefer.django.handler import async_task_handler, task_handler
from safedefer.django.setup import build_runtime, make_records, make_ring, start
from safedefer.errors import ConfigurationError, Reason
from safedefer.flow.runtime import current_runtime, install, install_problem
from safedefer.testing.fakes import ManualClock
from tests.site.shop import tasks
from tests.support.site import site_settings

PUBLIC: dict[str, object] = {
    "HANDLER_URL": "https://shop.example.com/_safedefer/",
    "SERVICE_ACCOUNT": "tasks@acme.iam.gserviceaccount.com",
    "PROJECT": "acme",
    "LOCATION": "europe-west1",
    "STORE": "orm",
}
SECRET = base64.urlsafe_b64encode(bytes(range(7, 39))).decode()


@pytest.fixture(autouse=True)
def _afterwards() -> Iterator[None]:
    yield
    install_problem("this test has no runtime")


@pytest.fixture
def wrong_settings() -> Iterator[None]:
    """A public site without keys, as it starts."""
    with override_settings(SAFEDEFER=PUBLIC, DEBUG=False):
        start()
        yield


def test_wrong_settings_do_not_keep_django_from_starting(
    wrong_settings: None, caplog: pytest.LogCaptureFixture
) -> None:
    (record,) = caplog.get_records("setup")
    assert "SAFEDEFER['KEYS'] is missing" in record.getMessage()
    assert record.levelno == logging.ERROR


@pytest.mark.parametrize(
    "call",
    [
        lambda: defer(tasks.note, "x"),
        lambda: tasks.note.defer("x"),
        lambda: tasks.note.options(queue="billing").defer("x"),
    ],
)
def test_defer_with_wrong_settings_names_what_is_missing(wrong_settings: None, call: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError, match=r"E003.*SAFEDEFER\['KEYS'\] is missing"):
        call()


def test_adefer_with_wrong_settings_names_what_is_missing(wrong_settings: None) -> None:
    import asyncio

    async def call() -> None:
        await adefer(tasks.note, "x")

    with pytest.raises(ConfigurationError, match="KEYS"):
        asyncio.run(call())


def dispatch(**headers: str) -> HttpResponse:
    client = Client(raise_request_exception=False)
    response: Any = client.post(reverse("safedefer:handler"), data=b"x", content_type="x/y", headers=headers)
    return HttpResponse(response.content, status=response.status_code, headers=dict(response.headers))


def test_handler_with_wrong_settings_answers_503_and_records_why(
    wrong_settings: None, events: list[AuditEvent]
) -> None:
    response = dispatch()
    assert (response.status_code, response.content) == (503, b"")
    assert response.headers["Retry-After"]
    assert [(event.reason, event.accepted) for event in events] == [(Reason.NOT_CONFIGURED, False)]
    assert "KEYS" in events[0].detail


@pytest.mark.parametrize("debug", [True, False])
def test_handler_whose_runtime_cannot_be_built_shows_no_page(events: list[AuditEvent], debug: bool) -> None:
    def build() -> Any:
        raise ZeroDivisionError("canary")

    install(build)
    with override_settings(DEBUG=debug):
        response = dispatch(authorization="Bearer canary")
    assert (response.status_code, response.content) == (503, b"")
    assert [event.detail for event in events] == ["ZeroDivisionError"]


def test_keys_command_lists_nothing_with_wrong_settings(wrong_settings: None) -> None:
    with pytest.raises(CommandError, match="KEYS"):
        call_command("safedefer_keys", "list", stdout=StringIO())


def test_keys_command_makes_a_secret_that_is_accepted_and_never_the_same() -> None:
    # It works before there is any setting, which is when it is needed.
    install_problem("nothing is configured yet")
    made = []
    for _ in range(3):
        out = StringIO()
        call_command("safedefer_keys", "generate", stdout=out)
        made.append(out.getvalue().strip())
        check_secret(parse_secret(made[-1]))
    assert len(set(made)) == 3


def test_keys_command_lists_names_states_and_ids_without_secrets() -> None:
    keys = [{"id": "2026-01", "secret": SECRET}, {"id": "old", "state": "destroyed", "key_id": "00112233445566ff"}]
    settings, _ = read_settings(site_settings("", **{**PUBLIC, "KEYS": keys}), {})
    assert settings is not None
    ready = settings
    install(lambda: build_runtime(ready))
    out = StringIO()
    call_command("safedefer_keys", "list", stdout=out)
    first, second = out.getvalue().splitlines()
    primary = current_runtime().ring.primary
    assert first.split() == [primary.id.hex(), "primary", "2026-01"]
    assert second.split() == ["00112233445566ff", "destroyed", "old"]
    assert primary.mac.hex() not in out.getvalue()
    assert SECRET not in out.getvalue()


def test_runtime_of_a_public_site_speaks_to_google_only() -> None:
    settings, _ = read_settings(site_settings("", **{**PUBLIC, "KEYS": [{"id": "a", "secret": SECRET}]}), {})
    assert settings is not None
    runtime = build_runtime(settings)
    tokens: Any = runtime.tokens
    sender: Any = runtime.sender
    assert tokens._policy.issuer == "https://accounts.google.com"
    assert tokens._policy.audience == "https://shop.example.com"
    assert tokens._policy.emails == {"tasks@acme.iam.gserviceaccount.com"}
    assert sender._target.emulator_host is None
    assert runtime.policy.handler == "/_safedefer/"


def test_runtime_has_one_clock_for_everything() -> None:
    settings, _ = read_settings(site_settings("http://127.0.0.1:8000"), {})
    assert settings is not None
    clock = ManualClock(datetime(2040, 1, 1, tzinfo=UTC))
    runtime = build_runtime(settings, clock)
    tokens: Any = runtime.tokens
    ledger: Any = runtime.ledger
    assert runtime.clock is clock
    assert ledger._clock is clock
    assert tokens._now() == clock.time()


def test_ring_is_of_its_environment_and_project() -> None:
    setting = read_settings(site_settings("", **{**PUBLIC, "KEYS": [{"id": "a", "secret": SECRET}]}), {})[0]
    assert setting is not None

    def ids(environment: str, project: str) -> KeyId:
        return make_ring(setting.keys, EnvironmentName(environment), ProjectName(project)).primary.id

    assert len({ids("production", "acme"), ids("staging", "acme"), ids("production", "other")}) == 3
    with pytest.raises(ConfigurationError, match="primary"):
        make_ring(
            (KeySetting(name="a", state=KeyState.DESTROYED, secret=None, key_id=KeyId(b"x" * 8)),),
            EnvironmentName("production"),
            ProjectName("acme"),
        )


@pytest.mark.django_db
def test_records_are_kept_in_the_database_where_that_is_chosen() -> None:
    settings, _ = read_settings(site_settings("http://127.0.0.1:8000"), {})
    assert settings is not None
    assert make_records(settings, "acme").get([RecordKey(RecordKind.LEDGER, "x")]) == {}


def test_handler_is_mounted_at_one_path_under_one_name() -> None:
    assert reverse("safedefer:handler") == "/_safedefer/"
    assert resolve("/_safedefer/").func is task_handler


def test_handlers_need_no_csrf_token_no_transaction_and_no_login() -> None:
    views: list[Any] = [task_handler, async_task_handler]
    for view in views:
        assert view.csrf_exempt is True
        assert view.login_required is False
        assert view._non_atomic_requests == {"default", "other", "postgres"}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://acme.ew.r.appspot.com/_safedefer/", Route(service="shop", version="v7")),
        ("https://shop.example.com/_safedefer/", Route()),
    ],
)
def test_task_runs_on_the_version_that_deferred_it(monkeypatch: pytest.MonkeyPatch, url: str, expected: Route) -> None:
    monkeypatch.setenv("GAE_SERVICE", "shop")
    monkeypatch.setenv("GAE_VERSION", "v7")
    given: Any = site_settings("", **{**PUBLIC, "HANDLER_URL": url, "KEYS": [{"id": "first", "secret": SECRET}]})
    given.DEBUG = False
    settings, problems = read_settings(given, {"GAE_SERVICE": "shop", "GAE_VERSION": "v7"})
    assert settings is not None, problems
    runtime = build_runtime(settings)
    assert runtime.default_route == expected
    if expected != Route():
        route = runtime.route_of
        assert route(TaskOptions(version="v8")) == Route(service="shop", version="v8")
        assert route(TaskOptions(instance="1")) == Route(service="shop", version="v7", instance="1")
        # Another service may not have that version.
        assert route(TaskOptions(service="mail")) == Route(service="mail")
