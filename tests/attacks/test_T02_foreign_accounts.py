"""T02: another Google customer mints a token for our audience, in the name of an account of theirs."""

from typing import Any

import pytest

from safedefer.django.conf import LOCAL_SERVICE_ACCOUNT
from safedefer.errors import Reason
from tests.site.shop import tasks
from tests.support.site import Site


@pytest.mark.parametrize(
    "claims",
    [
        {"email": "attacker@evil.iam.gserviceaccount.com"},
        {"email": LOCAL_SERVICE_ACCOUNT.upper()},
        {"email": f" {LOCAL_SERVICE_ACCOUNT}"},
        {"email": f"{LOCAL_SERVICE_ACCOUNT}\u0000"},
        {"email": f"{LOCAL_SERVICE_ACCOUNT}.evil.com"},
        {"email_verified": False},
        {"email_verified": "true"},
        {"email_verified": 1},
        {"email_verified": None},
    ],
)
def test_T02_token_of_an_account_that_is_not_ours_is_refused(site: Site, claims: dict[str, Any]) -> None:
    reply = site.post(site.seal(tasks.note, "x"), token=site.token(**claims))
    assert reply.status == 401
    assert site.refusal(reply).reason is Reason.TOKEN_EMAIL


@pytest.mark.parametrize("claims", [{"sub": ""}, {"sub": 5}, {"azp": "another-party"}])
def test_T02_token_made_for_another_party_is_refused(site: Site, claims: dict[str, Any]) -> None:
    reply = site.post(site.seal(tasks.note, "x"), token=site.token(**claims))
    assert site.refusal(reply).reason in (Reason.TOKEN_SUBJECT, Reason.TOKEN_MALFORMED)


@pytest.mark.parametrize("issuer", ["https://accounts.google.com", "accounts.google.com", "http://127.0.0.1", None])
def test_T02_token_of_another_issuer_is_refused(site: Site, issuer: str | None) -> None:
    reply = site.post(site.seal(tasks.note, "x"), token=site.token(iss=issuer))
    assert reply.status == 401
    assert site.refusal(reply).reason in (Reason.TOKEN_ISSUER, Reason.TOKEN_MALFORMED)
