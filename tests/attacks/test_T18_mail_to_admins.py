"""T18: Django mails what it knows of a failed request to the admins of the site."""

import django
import pytest
from django.core import mail
from django.test import override_settings

from safedefer.flow.runtime import install_problem
from tests.site.shop import tasks
from tests.support.site import Site

# Django 6.0 takes addresses alone, and warns of the pairs that came before.
ADMINS = ["ann@example.com"] if django.VERSION >= (6, 0) else [("Ann", "ann@example.com")]
CANARY = "canary-4f1c-in-the-mail"


@pytest.mark.parametrize("failure", ["of the function", "of the settings"])
def test_T18_mail_about_a_failed_dispatch_shows_no_argument_and_no_token(site: Site, failure: str) -> None:
    wire, token = site.seal(tasks.fail, CANARY), site.token()
    mail.outbox.clear()
    if failure == "of the settings":
        install_problem("nothing is configured")
    with override_settings(ADMINS=ADMINS, DEBUG=False):
        assert site.post(wire, token=token).status in (500, 503)
    (message,) = mail.outbox
    shown = message.message().as_string()
    assert "/_safedefer/" in shown
    assert CANARY not in shown
    for part in token.split("."):
        assert part not in shown
