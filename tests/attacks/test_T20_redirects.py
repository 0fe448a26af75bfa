"""T20: an answer that redirects would carry a body and its token to wherever it points; no dispatch gets one.

Where the site's own settings would redirect before the handler is reached, `manage.py check` says so.
"""

from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from django.conf import settings as django_settings
from django.http import HttpResponse
from django.test import Client, RequestFactory, override_settings
from django.urls import include, path, resolve

from safedefer.core.envelope import CONTENT_TYPE
from safedefer.django.checks import check_settings
from safedefer.django.handler import STATUS
from tests.site.shop import tasks
from tests.support.site import PATH, Site, site_settings

SECURITY: Final = "django.middleware.security.SecurityMiddleware"
SESSION: Final = "django.contrib.sessions.middleware.SessionMiddleware"
LOCALE: Final = "django.middleware.locale.LocaleMiddleware"
COMMON: Final = "django.middleware.common.CommonMiddleware"
SETS: Final[dict[str, dict[str, Any]]] = {
    "none": {},
    "append slash": {"MIDDLEWARE": [COMMON], "APPEND_SLASH": True},
    "https at the proxy": {
        "MIDDLEWARE": [SECURITY],
        "SECURE_SSL_REDIRECT": True,
        "SECURE_PROXY_SSL_HEADER": ("HTTP_X_FORWARDED_PROTO", "https"),
    },
    "https with the handler exempt": {
        "MIDDLEWARE": [SECURITY],
        "SECURE_SSL_REDIRECT": True,
        "SECURE_REDIRECT_EXEMPT": [r"^_safedefer/$"],
    },
    "languages": {"MIDDLEWARE": [SESSION, LOCALE, COMMON], "SESSION_ENGINE": "django.contrib.sessions.backends.cache"},
    "csrf and frames": {
        "MIDDLEWARE": [
            COMMON,
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.middleware.clickjacking.XFrameOptionsMiddleware",
        ]
    },
    "caches": {
        "MIDDLEWARE": [
            "django.middleware.cache.UpdateCacheMiddleware",
            "django.middleware.gzip.GZipMiddleware",
            "django.middleware.http.ConditionalGetMiddleware",
            COMMON,
            "django.middleware.cache.FetchFromCacheMiddleware",
        ]
    },
}


def dispatch(site: Site, body: bytes, at: str = PATH) -> Any:
    """Send a dispatch through the middleware that is set now."""
    return Client(raise_request_exception=False).post(
        at,
        data=body,
        content_type=CONTENT_TYPE,
        headers={
            "authorization": f"Bearer {site.token()}",
            "x-cloudtasks-queuename": "default",
            "x-forwarded-proto": "https",
            "accept-language": "de",
        },
    )


@pytest.mark.parametrize("changes", SETS.values(), ids=SETS.keys())
def test_T20_no_set_of_middleware_redirects_a_dispatch(site: Site, changes: dict[str, Any]) -> None:
    with override_settings(**changes):
        replies = [dispatch(site, site.seal(tasks.note, "x")), dispatch(site, b"junk")]
        messages = checked(site.url)
    assert [reply.status_code for reply in replies] == [204, 204]
    assert site.traces() == ["note x"]
    for reply in replies:
        assert "Location" not in reply.headers
        assert not reply.cookies
        assert "no-store" in reply.headers["Cache-Control"]
    assert messages <= {"W001", "W004"}


def test_T20_middleware_that_wants_everybody_to_log_in_lets_dispatches_through(site: Site) -> None:
    view = resolve(PATH).func
    # What LoginRequiredMiddleware asks of a view, before it looks for a user.
    assert getattr(view, "login_required", True) is False


def test_T20_no_verdict_has_a_status_that_redirects() -> None:
    assert not [status for status in STATUS.values() if 300 <= status < 400]


@pytest.mark.parametrize("path", ["/_safedefer", "/_safedefer//", "/_safedefer/x", "/_SAFEDEFER/"])
def test_T20_other_path_than_the_mounted_one_executes_nothing(site: Site, path: str) -> None:
    reply = site.post(site.seal(tasks.note, "x"), path=path)
    assert reply.status in (301, 404)
    assert site.traces() == []
    assert site.dispatches() == []


def checked(handler_url: str, **changes: object) -> set[str]:
    """Ids of what the system check says of a site whose handler is at a URL."""
    given: Any = site_settings("", HANDLER_URL=handler_url, **changes)
    with override_settings(SAFEDEFER=given.SAFEDEFER, DEBUG=True):
        return {str(message.id).removeprefix("safedefer.") for message in check_settings()}


def checked_public(**changes: object) -> set[str]:
    """The same for a public site with everything that it needs."""
    needed: dict[str, object] = {
        "SERVICE_ACCOUNT": "tasks@acme.iam.gserviceaccount.com",
        "PROJECT": "acme",
        "LOCATION": "europe-west1",
    }
    return checked(str(changes.pop("HANDLER_URL", f"https://shop.example.com{PATH}")), **needed, **changes)


@pytest.mark.parametrize("url", ["/_safedefer", "/", "", "/other/", "/_safedefer//", "/_SAFEDEFER/", "/en/_safedefer/"])
def test_T20_check_refuses_a_url_that_is_not_where_the_handler_is_mounted(url: str) -> None:
    assert "E010" in checked(f"http://localhost:8000{url}")


def _redirects(**changes: Any) -> bool:
    """Whether Django's own middleware would redirect a POST to the handler at shop.example.com."""
    from django.middleware.common import CommonMiddleware
    from django.middleware.security import SecurityMiddleware

    with override_settings(ALLOWED_HOSTS=["*"], **changes):
        request = RequestFactory().post(PATH, headers={"host": "shop.example.com"})
        answer: Any = SecurityMiddleware(CommonMiddleware(lambda _: HttpResponse(status=204)))
        status: int = answer(request).status_code
    return status // 100 == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"SECURE_SSL_REDIRECT": True}, "W005"), ({"PREPEND_WWW": True}, "E011")],
)
def test_T20_check_names_a_setting_that_redirects_every_dispatch(changes: dict[str, Any], said: str) -> None:
    assert _redirects(**changes)
    with override_settings(**changes):
        assert said in checked_public()
    assert not _redirects()
    assert not checked_public() & {"W005", "E011"}


def test_T20_check_is_silent_where_a_setting_does_not_reach_the_handler() -> None:
    with override_settings(SECURE_SSL_REDIRECT=True, SECURE_REDIRECT_EXEMPT=["^_safedefer/$"]):
        assert "W005" not in checked_public()
    with override_settings(SECURE_SSL_REDIRECT=True, SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https")):
        assert "W005" not in checked_public()
    with override_settings(PREPEND_WWW=True):
        assert "E011" not in checked_public(HANDLER_URL=f"https://www.shop.example.com{PATH}")


def test_T20_check_speaks_of_the_local_cloud_which_comes_over_http() -> None:
    with override_settings(SECURE_SSL_REDIRECT=True):
        assert "W004" in checked(f"http://127.0.0.1:8000{PATH}")


def test_T20_check_says_that_a_handler_under_a_language_prefix_is_elsewhere() -> None:
    from django.conf.urls.i18n import i18n_patterns

    class Urls:
        urlpatterns = i18n_patterns(path("_safedefer/", include("safedefer.urls")))

    with override_settings(ROOT_URLCONF=Urls, USE_I18N=True):
        assert "E010" in checked(f"http://localhost:8000{PATH}")


def test_T20_check_says_that_a_site_without_the_urls_executes_nothing() -> None:
    class Urls:
        urlpatterns: Final[list[Any]] = []

    with override_settings(ROOT_URLCONF=Urls):
        assert "W003" in checked(f"http://localhost:8000{PATH}")
    assert urlsplit(PATH).path == PATH
    assert django_settings.ROOT_URLCONF == "tests.site.urls"
