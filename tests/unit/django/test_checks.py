"""What `manage.py check` says; redirects have tests of their own among the attacks."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connections
from django.test import override_settings

from safedefer.django.checks import check_outbox, check_settings
from safedefer.django.models import OutboxCall
from tests.site.urls import urlpatterns

PUBLIC: dict[str, Any] = {
    "HANDLER_URL": "https://shop.example.com/_safedefer/",
    "SERVICE_ACCOUNT": "tasks@acme.iam.gserviceaccount.com",
    "PROJECT": "acme",
    "LOCATION": "europe-west1",
    "STORE": "orm",
    "KEYS": [{"id": "first", "secret": bytes(range(7, 39))}],
}


def ids_of(given: object, **others: Any) -> list[str]:
    with override_settings(SAFEDEFER=given, **others):
        return [str(message.id) for message in check_settings()]


def test_site_with_everything_has_no_messages() -> None:
    assert ids_of(PUBLIC, DEBUG=False) == []


def test_laptop_is_told_of_its_key_and_may_start() -> None:
    assert ids_of({}, DEBUG=True) == ["safedefer.W001"]
    with override_settings(SAFEDEFER={}, DEBUG=True):
        call_command("check", "--tag", "safedefer")


def test_problem_of_a_setting_ends_the_check_with_its_id_and_a_hint() -> None:
    with (
        override_settings(SAFEDEFER={**PUBLIC, "KEYZ": []}, DEBUG=False),
        pytest.raises(SystemCheckError, match=r"safedefer\.E001") as caught,
    ):
        call_command("check", "--tag", "safedefer")
    assert "Did you mean KEYS?" in str(caught.value)


def test_checks_are_registered_under_their_tag() -> None:
    with override_settings(SAFEDEFER=[], DEBUG=True):
        assert [message.id for message in run_checks(tags=["safedefer"])] == ["safedefer.E001"]


def test_nothing_is_said_of_where_the_handler_is_while_its_url_is_wrong() -> None:
    ids = ids_of({**PUBLIC, "HANDLER_URL": "https://"}, DEBUG=False)
    assert ids[0] == "safedefer.E002"
    assert "safedefer.E010" not in ids


@pytest.mark.parametrize("url", ["https://shop.example.com/_safedefer", "https://shop.example.com"])
def test_handler_elsewhere_than_its_url_is_an_error(url: str) -> None:
    assert ids_of({**PUBLIC, "HANDLER_URL": url}, DEBUG=False) == ["safedefer.E010"]
    assert len(urlpatterns) == 1


def test_records_in_a_database_that_is_datastore_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = "gcloudc.db.backends.datastore"
    monkeypatch.setitem(connections["default"].settings_dict, "ENGINE", engine)
    assert ids_of(PUBLIC, DEBUG=False) == ["safedefer.E012"]
    assert ids_of({**PUBLIC, "STORE": "datastore"}, DEBUG=False) == []


LOGIN_REQUIRED = """
import django
from django.conf import settings
settings.configure(
    DEBUG=True,
    SECRET_KEY="s" * 50,
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF="tests.site.urls",
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "safedefer"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.auth.middleware.LoginRequiredMiddleware",
    ],
)
django.setup()
from django.test import Client
response = Client().post("/_safedefer/", data=b"x", content_type="application/vnd.safedefer.envelope")
assert response.status_code == 401, response.status_code
"""


def test_site_where_everybody_has_to_log_in_does_not_send_dispatches_to_the_login_page() -> None:
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", LOGIN_REQUIRED], check=True, timeout=50, cwd=root, capture_output=True)


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_database_without_its_outbox_is_told() -> None:
    def told(**settings: object) -> list[str]:
        with override_settings(SAFEDEFER={**PUBLIC, **settings}, DEBUG=False):
            return [f"{message.id} {message.msg}" for message in check_outbox(databases=["default", "other"])]

    with connections["other"].schema_editor() as editor:
        editor.delete_model(OutboxCall)
    try:
        (message,) = told()
        assert message.startswith("safedefer.W006 The database 'other' has no outbox")
        assert told(OUTBOX=False) == []
        assert check_outbox(databases=None) == []
    finally:
        with connections["other"].schema_editor() as editor:
            editor.create_model(OutboxCall)
