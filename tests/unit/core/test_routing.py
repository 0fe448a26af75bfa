"""Routing within App Engine, by the first label of the handler's host."""

import pytest

from safedefer.core.routing import Route, is_host_part, routed_url
from safedefer.errors import InvalidOptionError

DOMAIN = "ew.r.appspot.com/_safedefer/"
APP = f"https://acme.{DOMAIN}"


@pytest.mark.parametrize(
    ("url", "route", "host"),
    [
        (APP, Route(), "acme"),
        (APP, Route(service="shop"), "shop-dot-acme"),
        (APP, Route(version="v2"), "v2-dot-default-dot-acme"),
        (APP, Route(service="shop", version="v2"), "v2-dot-shop-dot-acme"),
        (APP, Route(service="shop", version="v2", instance="7"), "7-dot-v2-dot-shop-dot-acme"),
        (f"https://shop-dot-acme.{DOMAIN}", Route(version="v2"), "v2-dot-shop-dot-acme"),
        (f"https://shop-dot-acme.{DOMAIN}", Route(service="mail"), "mail-dot-acme"),
        (f"https://v1-dot-shop-dot-acme.{DOMAIN}", Route(version="v2"), "v2-dot-shop-dot-acme"),
        (f"https://v1-dot-shop-dot-acme.{DOMAIN}", Route(service="mail"), "mail-dot-acme"),
        (
            f"https://v1-dot-shop-dot-acme.{DOMAIN}",
            Route(instance="7"),
            "7-dot-v1-dot-shop-dot-acme",
        ),
    ],
)
def test_route_becomes_the_first_label(url: str, route: Route, host: str) -> None:
    assert routed_url(url, route) == f"https://{host}.{DOMAIN}"


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/_safedefer/", "http://localhost:8000/_safedefer/"])
def test_local_handler_has_no_services(url: str) -> None:
    assert routed_url(url, Route(service="shop", version="v1")) == url


@pytest.mark.parametrize("url", ["https://shop-abc-ew.a.run.app/_safedefer/", "https://shop.example.com/_safedefer/"])
def test_route_outside_of_app_engine_is_refused(url: str) -> None:
    with pytest.raises(InvalidOptionError, match="App Engine"):
        routed_url(url, Route(service="shop"))


def test_instance_without_its_version_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="version"):
        routed_url(APP, Route(instance="7"))


def test_label_that_no_host_can_have_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="63"):
        routed_url(APP, Route(service="s" * 40, version="v" * 30))


@pytest.mark.parametrize("text", ["", "A", "a.b", "a/b", "a@b", "-a", "a-", "a-dot-b", "a" * 64, "a\n", "ä"])
def test_name_that_would_leave_its_label_is_no_name(text: str) -> None:
    assert not is_host_part(text)
