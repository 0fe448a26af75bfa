"""The SAFEDEFER setting: what is accepted, what each problem is called, and what nobody can switch on by accident."""

import base64
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from safedefer.core.keys import KeyState
from safedefer.core.limits import MAX_AGE, MAX_BODY_BYTES, MAX_INLINE_TASK_BYTES
from safedefer.django import conf
from safedefer.django.conf import Problem, Settings, is_loopback, read_settings
from safedefer.django.conf.reading import Reading

SECRET = base64.urlsafe_b64encode(bytes(range(7, 39))).decode()
OTHER_SECRET = base64.urlsafe_b64encode(bytes(range(107, 139))).decode()
EMAIL = "tasks@acme.iam.gserviceaccount.com"
URL = "https://shop.example.com/_safedefer/"


def public(**changes: object) -> dict[str, object]:
    """What a public site needs; a value of `...` leaves a key out."""
    given: dict[str, object] = {
        "HANDLER_URL": URL,
        "SERVICE_ACCOUNT": EMAIL,
        "PROJECT": "acme",
        "LOCATION": "europe-west1",
        "KEYS": [{"id": "first", "secret": SECRET}],
        "STORE": "orm",
        **changes,
    }
    return {key: value for key, value in given.items() if value is not ...}


def read(
    given: object, environ: dict[str, str] | None = None, *, debug: bool = False, **others: object
) -> tuple[Settings | None, list[Problem]]:
    attributes = {"DEBUG": debug, "SECRET_KEY": "s" * 50, "SAFEDEFER": given, **others}
    return read_settings(type("Django", (), attributes), environ or {})


def settings_of(given: object, environ: dict[str, str] | None = None, **others: Any) -> Settings:
    settings, problems = read(given, environ, **others)
    assert settings is not None, problems
    return settings


def ids_of(given: object, environ: dict[str, str] | None = None, **others: Any) -> list[str]:
    return [problem.id for problem in read(given, environ, **others)[1]]


def test_public_site_has_these_settings() -> None:
    settings, problems = read(public())
    assert problems == []
    assert settings is not None
    assert (settings.project, settings.location, settings.environment) == ("acme", "europe-west1", "production")
    assert (settings.handler_url, settings.handler_id) == (URL, "/_safedefer/")
    assert settings.audience == "https://shop.example.com"
    assert settings.allowed_emails == {EMAIL}
    assert settings.default_queue == "default"
    assert settings.max_age == MAX_AGE
    assert (settings.inline_limit_bytes, settings.body_cap_bytes) == (MAX_INLINE_TASK_BYTES, MAX_BODY_BYTES)
    assert settings.modules == ("tasks",)
    assert settings.local is None


def test_laptop_needs_nothing_and_is_told_of_its_key() -> None:
    settings, problems = read({}, debug=True)
    assert [problem.id for problem in problems] == ["W001"]
    assert settings is not None
    assert settings.local is not None
    assert (settings.project, settings.location) == ("local", "local1")
    assert settings.handler_url == settings.audience == "http://127.0.0.1:8000/_safedefer/"
    assert settings.local.tasks_host == "127.0.0.1:9022"
    assert settings.local.issuer == "http://127.0.0.1:9024"
    assert settings.store == "orm"


def test_nothing_at_all_is_refused_with_everything_that_is_missing() -> None:
    settings, problems = read({})
    assert settings is None
    assert {problem.id for problem in problems} == {"E003", "E005", "E006", "E007", "E008"}
    text = " ".join(map(str, problems))
    for key in ("HANDLER_URL", "SERVICE_ACCOUNT", "PROJECT", "LOCATION", "KEYS", "STORE"):
        assert f"SAFEDEFER['{key}']" in text


def test_setting_that_is_not_there_is_empty() -> None:
    attributes = {"DEBUG": True, "SECRET_KEY": "s"}
    assert read_settings(type("Django", (), attributes), {})[0] is not None


@pytest.mark.parametrize("given", [None, [], "x", 5, [("KEYS", [])]])
def test_setting_that_is_no_dict_is_refused(given: object) -> None:
    assert ids_of(given) == ["E001"]
    assert ids_of(given, debug=True) == ["E001"]


@pytest.mark.parametrize(
    ("key", "hint"), [("KEY", "KEYS"), ("HANDLER_URl", "HANDLER_URL"), ("keys", "Known keys"), (5, "Known keys")]
)
def test_unknown_key_is_refused_with_the_near_one(key: object, hint: str) -> None:
    given: dict[Any, object] = {**public(), key: "x"}
    settings, problems = read(given)
    assert settings is None
    assert [problem.id for problem in problems] == ["E001"]
    assert hint in problems[0].hint


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("PROJECT", "a b"),
        ("PROJECT", 5),
        ("PROJECT", ""),
        ("LOCATION", "Europe"),
        ("ENVIRONMENT", "a/b"),
        ("ENVIRONMENT", ""),
        ("ENVIRONMENT", None),
        ("DEFAULT_QUEUE", "projects/acme/queues/x"),
        ("DEFAULT_QUEUE", "no_underscore"),
        ("HANDLER_ID", "a b"),
        ("HANDLER_ID", ""),
        ("HANDLER_URL", "shop.example.com"),
        ("HANDLER_URL", "https://user:word@shop.example.com/"),
        ("HANDLER_URL", "https://shop.example.com/?x=1"),
        ("HANDLER_URL", "https://shop.example.com/#x"),
        ("HANDLER_URL", "https://shop.example.com:port/"),
        ("HANDLER_URL", "https://"),
        ("HANDLER_URL", "ftp://shop.example.com/"),
        ("HANDLER_URL", None),
        ("SERVICE_ACCOUNT", "nobody"),
        ("SERVICE_ACCOUNT", "a@b@c"),
        ("SERVICE_ACCOUNT", f" {EMAIL}"),
        ("SERVICE_ACCOUNT", f"{EMAIL}\n"),
        ("SERVICE_ACCOUNT", [EMAIL]),
        ("AUDIENCE", ""),
        ("AUDIENCE", ["https://shop.example.com"]),
        ("AUDIENCE", None),
        ("ALLOWED_EMAILS", EMAIL),
        ("ALLOWED_EMAILS", []),
        ("ALLOWED_EMAILS", [EMAIL, ""]),
        ("ALLOWED_EMAILS", [EMAIL, 5]),
        ("ALLOWED_EMAILS", None),
        ("INLINE_LIMIT", MAX_INLINE_TASK_BYTES + 1),
        ("INLINE_LIMIT", 0),
        ("INLINE_LIMIT", "1000"),
        ("BODY_CAP", -1),
        ("BODY_CAP", True),
        ("BODY_CAP", 1.5),
        ("MAX_AGE", 3600),
        ("QUERYSET_DESCRIPTIONS", True),
        ("QUERYSET_DESCRIPTIONS", "*"),
        ("QUERYSET_DESCRIPTIONS", {"models": "shop.order"}),
        ("QUERYSET_DESCRIPTIONS", {"models": []}),
        ("QUERYSET_DESCRIPTIONS", {"models": ["shop"]}),
        ("QUERYSET_DESCRIPTIONS", {"models": ["*.*"]}),
        ("QUERYSET_DESCRIPTIONS", {"models": "*", "fields": []}),
        ("MAX_AGE", timedelta(0)),
        ("MAX_AGE", MAX_AGE + timedelta(seconds=1)),
        ("ITERATION_TIME_LIMIT", "300"),
        ("ITERATION_TIME_LIMIT", True),
        ("ITERATION_TIME_LIMIT", 14),
        ("ITERATION_TIME_LIMIT", -5.0),
        ("ITERATION_TIME_LIMIT", float("nan")),
        ("ITERATION_TIME_LIMIT", float("inf")),
        ("ITERATION_TIME_LIMIT", timedelta(minutes=61)),
        ("MODULES", "tasks"),
        ("MODULES", ["a-b"]),
        ("MODULES", ["..tasks"]),
        ("MODULES", [5]),
        ("DATASTORE", []),
        ("DATASTORE", {"projekt": "x"}),
        ("DATASTORE", {"project": 5}),
    ],
)
def test_value_of_the_wrong_form_is_refused_and_named(key: str, value: object) -> None:
    settings, problems = read(public(**{key: value}))
    assert settings is None
    assert "E002" in [problem.id for problem in problems]
    assert any(f"SAFEDEFER['{key}']" in problem.message for problem in problems)


@pytest.mark.parametrize(
    ("given", "environ", "limit"),
    [
        ({}, {}, None),
        ({}, {"K_SERVICE": "shop"}, timedelta(minutes=5)),
        ({"ITERATION_TIME_LIMIT": 60}, {}, timedelta(minutes=1)),
        ({"ITERATION_TIME_LIMIT": 29.5}, {}, timedelta(seconds=29.5)),
        ({"ITERATION_TIME_LIMIT": timedelta(minutes=20)}, {"K_SERVICE": "shop"}, timedelta(minutes=20)),
        ({"ITERATION_TIME_LIMIT": None}, {"K_SERVICE": "shop"}, None),
    ],
)
def test_iteration_time_limit_is_the_given_one_or_cloud_runs(
    given: dict[str, Any], environ: dict[str, str], limit: timedelta | None
) -> None:
    settings, problems = read(public(**given), environ)
    assert problems == []
    assert settings is not None
    assert settings.iteration_time_limit == limit


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://shop.example.com/_safedefer/", "E005"),
        ("http://127.0.0.1:8000/_safedefer/", "E005"),
        ("https://127.0.0.1/_safedefer/", "E005"),
        ("https://localhost/_safedefer/", "E005"),
        ("https://[::1]/_safedefer/", "E005"),
        ("http://10.0.0.5/_safedefer/", "E005"),
    ],
)
def test_handler_that_tasks_cannot_reach_or_should_not_is_refused(url: str, problem: str) -> None:
    assert ids_of(public(HANDLER_URL=url)) == [problem]


@pytest.mark.parametrize("variable", ["CLOUD_TASKS_EMULATOR_HOST", "TASKS_EMULATOR_HOST", "SAFEDEFER_LOCAL_ISSUER"])
@pytest.mark.parametrize("debug", [True, False])
@pytest.mark.parametrize("platform", [{}, {"K_SERVICE": "web"}])
def test_public_site_is_never_pointed_at_a_local_cloud(variable: str, debug: bool, platform: dict[str, str]) -> None:
    environ = {variable: "127.0.0.1:9022" if "HOST" in variable else "http://127.0.0.1:9024", **platform}
    settings, problems = read(public(), environ, debug=debug)
    assert settings is None
    assert [problem.id for problem in problems] == ["E009"]
    assert variable in problems[0].message


@pytest.mark.parametrize(
    "variable",
    [
        "K_SERVICE",
        "CLOUD_RUN_JOB",
        "GAE_ENV",
        "GAE_APPLICATION",
        "GAE_SERVICE",
        "GAE_VERSION",
        "GAE_INSTANCE",
        "GAE_RUNTIME",
        "GAE_DEPLOYMENT_ID",
    ],
)
@pytest.mark.parametrize("given", [{}, {"HANDLER_URL": "http://localhost:8000/_safedefer/"}])
def test_debug_on_a_platform_of_googles_trusts_no_local_cloud(variable: str, given: dict[str, object]) -> None:
    environ = {variable: "x"}
    settings, problems = read(given, environ, debug=True)
    assert settings is None
    assert "E005" in [problem.id for problem in problems]
    environ["SAFEDEFER_LOCAL_ISSUER"] = "http://127.0.0.1:9024"
    found = [problem for problem in read(given, environ, debug=True)[1] if problem.id == "E009"]
    assert len(found) == 1
    assert variable in found[0].message


@pytest.mark.parametrize("value", ["", None])
def test_variable_that_is_empty_is_not_set(value: str | None) -> None:
    environ = {"K_SERVICE": value or "", "SAFEDEFER_LOCAL_ISSUER": ""}
    assert settings_of({}, environ, debug=True).local is not None
    assert settings_of(public(), {"TASKS_EMULATOR_HOST": ""}).local is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CLOUD_TASKS_EMULATOR_HOST", "tasks.example.com:9022"),
        ("CLOUD_TASKS_EMULATOR_HOST", "10.0.0.5:9022"),
        ("CLOUD_TASKS_EMULATOR_HOST", "0.0.0.0:9022"),
        ("CLOUD_TASKS_EMULATOR_HOST", "127.0.0.1.example.com:9022"),
        ("CLOUD_TASKS_EMULATOR_HOST", "127.0.0.1@example.com"),
        ("CLOUD_TASKS_EMULATOR_HOST", "example.com@127.0.0.1:9022"),
        ("CLOUD_TASKS_EMULATOR_HOST", "127.0.0.1:9022/example.com"),
        ("CLOUD_TASKS_EMULATOR_HOST", "127.0.0.1:9022?example.com"),
        ("CLOUD_TASKS_EMULATOR_HOST", "127.0.0.1:9022#example.com"),
        ("CLOUD_TASKS_EMULATOR_HOST", "127.0.0.1:port"),
        ("CLOUD_TASKS_EMULATOR_HOST", "dns:example.com"),
        ("CLOUD_TASKS_EMULATOR_HOST", "http://127.0.0.1:9022"),
        ("TASKS_EMULATOR_HOST", "tasks:9022"),
        ("SAFEDEFER_LOCAL_ISSUER", "https://accounts.example.com"),
        ("SAFEDEFER_LOCAL_ISSUER", "http://issuer:9024"),
        ("SAFEDEFER_LOCAL_ISSUER", "http://127.0.0.1:9024@example.com"),
        ("SAFEDEFER_LOCAL_ISSUER", "http://127.0.0.1:9024/?x="),
        ("SAFEDEFER_LOCAL_ISSUER", "http://127.0.0.1:9024/keys"),
        ("SAFEDEFER_LOCAL_ISSUER", "file://127.0.0.1/keys"),
        ("SAFEDEFER_LOCAL_ISSUER", "127.0.0.1:9024"),
    ],
)
def test_local_cloud_elsewhere_than_on_this_machine_is_refused(variable: str, value: str) -> None:
    settings, problems = read({}, {variable: value}, debug=True)
    assert settings is None
    assert "E009" in [problem.id for problem in problems]


def test_local_cloud_is_where_its_variables_say() -> None:
    environ = {
        "CLOUD_TASKS_EMULATOR_HOST": "localhost:1",
        "TASKS_EMULATOR_HOST": "localhost:2",
        "SAFEDEFER_LOCAL_ISSUER": "http://[::1]:3/",
    }
    local = settings_of({}, environ, debug=True).local
    assert local is not None
    assert (local.tasks_host, local.issuer) == ("localhost:1", "http://[::1]:3")


def test_datastore_of_others_is_no_concern_of_a_site_that_keeps_records_in_its_database() -> None:
    environ = {"DATASTORE_EMULATOR_HOST": "datastore:8081"}
    assert settings_of({}, environ, debug=True).store == "orm"
    assert settings_of(public(), environ).store == "orm"
    assert "E009" in ids_of({"STORE": "datastore"}, environ, debug=True)
    assert "E009" in ids_of(public(STORE="datastore"), environ)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("", False),
        ("localhost.example.com", False),
        ("0.0.0.0", False),
        ("::", False),
        ("127.1", False),
        ("2130706433", False),
        ("0x7f000001", False),
        ("\u0661\u0662\u0667.0.0.1", False),
    ],
)
def test_loopback_is_this_machine_and_no_other(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_place_comes_from_djangaes_settings_and_from_the_platform() -> None:
    nowhere = public(PROJECT=..., LOCATION=...)
    assert ids_of(nowhere) == ["E008", "E008"]
    named = settings_of(nowhere, CLOUD_TASKS_PROJECT_ID="other", CLOUD_TASKS_LOCATION="us-central1")
    assert (named.project, named.location) == ("other", "us-central1")
    asked = settings_of(nowhere, {"K_SERVICE": "web", "GOOGLE_CLOUD_PROJECT": "of-run"})
    assert (asked.project, asked.location) == ("of-run", None)
    assert ids_of(nowhere, CLOUD_TASKS_PROJECT_ID="a b", CLOUD_TASKS_LOCATION="us-central1") == ["E002"]


@pytest.mark.parametrize(
    "keys",
    [
        [],
        "secret",
        {"id": "a", "secret": SECRET},
        5,
        [SECRET],
        [{}],
        [{"secret": SECRET}],
        [{"id": "", "secret": SECRET}],
        [{"id": 5, "secret": SECRET}],
        [{"id": "a"}],
        [{"id": "a", "secret": None}],
        [{"id": "a", "secret": ""}],
        [{"id": "a", "secret": "not base64!"}],
        [{"id": "a", "secret": base64.b64encode(b"short").decode()}],
        [{"id": "a", "secret": b"\x01" * 64}],
        [{"id": "a", "secret": b"ab" * 32}],
        [{"id": "a", "secret": "django-insecure-" + SECRET}],
        [{"id": "a", "secret": b"django-insecure-0123456789abcdefghijklmnop"}],
        [{"id": "a", "secret": SECRET, "status": "primary"}],
        [{"id": "a", "secret": SECRET, 5: "x", "y": 1}],
        [{"id": "a", "secret": SECRET, "state": "PRIMARY"}],
        [{"id": "a", "secret": SECRET, "state": []}],
        [{"id": "a", "secret": SECRET, "state": "active"}],
        [{"id": "a", "secret": SECRET}, {"id": "b", "secret": OTHER_SECRET}],
        [{"id": "a", "secret": SECRET}, {"id": "a", "secret": OTHER_SECRET, "state": "active"}],
        [{"id": "a", "secret": SECRET}, {"id": "b", "secret": SECRET, "state": "disabled"}],
        [{"id": "a", "secret": SECRET}, {"id": "b", "state": "destroyed"}],
        [{"id": "a", "secret": SECRET}, {"id": "b", "state": "destroyed", "key_id": "xyz"}],
        [{"id": "a", "state": "destroyed", "key_id": "00" * 8}],
    ],
)
def test_keys_that_make_no_ring_are_refused_without_showing_them(keys: object) -> None:
    settings, problems = read(public(KEYS=keys))
    assert settings is None
    assert {problem.id for problem in problems} == {"E004"}
    text = " ".join(map(str, problems))
    for secret in (SECRET, OTHER_SECRET, "0123456789abcdef", "not base64!"):
        assert secret not in text


def test_keys_in_every_state_make_a_ring() -> None:
    keys = settings_of(
        public(
            KEYS=[
                {"id": "now", "secret": SECRET},
                {"id": "next", "secret": OTHER_SECRET, "state": "active"},
                {"id": "leaked", "secret": bytes(range(50, 90)), "state": "disabled"},
                {"id": "gone", "state": "destroyed", "key_id": "00112233445566ff"},
            ]
        )
    ).keys
    assert [key.state for key in keys] == list(KeyState)
    assert [key.secret is None for key in keys] == [False, False, False, True]
    assert keys[3].key_id == bytes.fromhex("00112233445566ff")
    assert SECRET not in repr(keys)
    assert repr(bytes(range(7, 39))) not in repr(keys)


def test_callable_is_asked_for_the_keys() -> None:
    assert settings_of(public(KEYS=lambda: [{"id": "first", "secret": SECRET}])).keys[0].name == "first"
    assert ids_of(public(KEYS=list)) == ["E004"]


def test_callable_that_fails_is_a_problem_and_shows_nothing() -> None:
    def ask() -> object:
        raise RuntimeError(f"could not use {SECRET}")

    settings, problems = read(public(KEYS=ask))
    assert settings is None
    assert [problem.id for problem in problems] == ["E004"]
    assert "RuntimeError" in str(problems[0])
    assert SECRET not in str(problems[0])


@pytest.mark.parametrize("keys", [..., None])
def test_without_keys_there_is_one_from_the_secret_key_only_where_debug_is_on(keys: object) -> None:
    assert ids_of(public(KEYS=keys)) == ["E003"]
    local = {} if keys is ... else {"KEYS": keys}
    one, other = settings_of(local, debug=True), settings_of(local, debug=True, SECRET_KEY="t" * 50)
    assert ids_of(local, debug=True) == ["W001"]
    first, second = one.keys[0].secret, other.keys[0].secret
    assert first is not None
    assert second is not None
    assert first.reveal() != second.reveal()
    assert b"s" * 50 not in first.reveal()


def test_weak_key_will_do_where_debug_is_on() -> None:
    assert settings_of({"KEYS": [{"id": "a", "secret": b"weak"}]}, debug=True).keys[0].name == "a"


@pytest.mark.parametrize("account", ["123-compute@developer.gserviceaccount.com", "acme@appspot.gserviceaccount.com"])
def test_account_that_services_share_is_warned_of_wherever_it_stands(account: str) -> None:
    assert ids_of(public(SERVICE_ACCOUNT=account)) == ["W002"]
    assert ids_of(public(ALLOWED_EMAILS=[EMAIL, account])) == ["W002"]
    assert ids_of(public(SERVICE_ACCOUNT=account, ALLOWED_EMAILS=[account])) == ["W002"]
    assert settings_of(public(ALLOWED_EMAILS=[EMAIL, account])).allowed_emails == {EMAIL, account}


@pytest.mark.parametrize(("store", "said"), [(..., "missing"), ("Datastore", "unknown"), (5, "unknown")])
def test_store_is_to_be_named(store: object, said: str) -> None:
    settings, problems = read(public(STORE=store))
    assert settings is None
    assert [problem.id for problem in problems] == ["E007"]
    assert said in problems[0].message


def test_datastore_has_its_own_project_database_and_namespace() -> None:
    given = public(STORE="datastore", DATASTORE={"project": "p", "database": "d", "namespace": "n"})
    datastore = settings_of(given).datastore
    assert (datastore.project, datastore.database, datastore.namespace) == ("p", "d", "n")


@pytest.mark.parametrize(
    ("given", "models"),
    [
        (..., {"*"}),
        (False, set()),
        ({"models": "*"}, {"*"}),
        ({"models": ["*", "auth.User"]}, {"*", "auth.user"}),
        ({"models": ("shop.*", "crm.Customer")}, {"shop.*", "crm.customer"}),
    ],
)
def test_models_whose_querysets_travel_are_named(given: object, models: set[str]) -> None:
    assert settings_of(public(QUERYSET_DESCRIPTIONS=given)).queryset_descriptions == models


def test_repr_of_a_reading_shows_no_secret() -> None:
    reading = Reading(public(), {}, debug=False)
    assert SECRET not in repr(reading)
    assert SECRET not in repr(settings_of(public()))


def test_every_id_in_the_module_is_reached_by_a_test_here() -> None:
    source = "".join(path.read_text() for path in Path(conf.__file__).parent.glob("*.py"))
    assert set(re.findall(r'"([EW]\d{3})"', source)) == {
        *("E001", "E002", "E003", "E004", "E005", "E006", "E007", "E008", "E009"),
        *("W001", "W002"),
        *("E020", "W020"),  # In test_queue_settings.py.
    }
