"""T03: a genuine token of our own account that was made for another service."""

import time
from typing import Any

import pytest

from safedefer.errors import Reason
from tests.site.shop import tasks
from tests.support.site import Site


@pytest.mark.parametrize(
    "change",
    [
        lambda url: "https://other.example.com/_safedefer/",
        lambda url: url.rstrip("/"),
        lambda url: url + "/",
        lambda url: url.upper(),
        lambda url: url[:-3],
        lambda url: url + "?x=1",
        lambda url: url.replace("localhost", "127.0.0.1"),
        lambda url: "",
        lambda url: [url],
        lambda url: [url, "https://other.example.com"],
        lambda url: None,
    ],
)
def test_T03_token_for_another_audience_is_refused(site: Site, change: object) -> None:
    assert callable(change)
    reply = site.post(site.seal(tasks.note, "x"), token=site.token(aud=change(site.url)))
    assert reply.status == 401
    assert site.refusal(reply).reason in (Reason.TOKEN_AUDIENCE, Reason.TOKEN_MALFORMED)


@pytest.mark.parametrize(
    "times",
    [
        {"exp": -100, "iat": -3700},
        {"iat": 100},
        {"nbf": 100},
        {"exp": 86_400},
        {"iat": 3_599, "exp": 3_598},
    ],
)
def test_T03_token_of_another_time_is_refused(site: Site, times: dict[str, int]) -> None:
    now = int(time.time())
    claims: dict[str, Any] = {name: now + add for name, add in times.items()}
    reply = site.post(site.seal(tasks.note, "x"), token=site.token(**claims))
    assert reply.status == 401
    assert site.refusal(reply).reason is Reason.TOKEN_TIMES


@pytest.mark.parametrize("value", ["9999999999", 9_999_999_999.5, True, float("inf"), None])
def test_T03_token_whose_expiry_is_no_integer_is_refused(site: Site, value: object) -> None:
    reply = site.post(site.seal(tasks.note, "x"), token=site.token(exp=value))
    assert reply.status == 401
    assert site.refusal(reply).reason in (Reason.TOKEN_TIMES, Reason.TOKEN_MALFORMED)
