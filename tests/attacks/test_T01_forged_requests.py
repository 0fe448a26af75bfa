"""T01: anybody on the internet posts to the handler, with every header that a real dispatch has, except a proof."""

import pytest

from safedefer.errors import Reason
from tests.site.shop import tasks
from tests.support.site import Site

ALL_HEADERS = {
    "X-CloudTasks-TaskName": "1",
    "X-CloudTasks-TaskExecutionCount": "0",
    "X-CloudTasks-TaskETA": "1",
    "X-AppEngine-QueueName": "default",
    "X-AppEngine-TaskName": "1",
    "X-AppEngine-TaskRetryCount": "0",
    "X-AppEngine-User-IP": "0.1.0.2",
    "X-Forwarded-For": "0.1.0.2",
    "User-Agent": "Google-Cloud-Tasks",
    "X-Serverless-Authorization": "Bearer a.b.c",
}


def test_T01_every_header_and_no_token_proves_nothing(site: Site) -> None:
    reply = site.post(site.seal(tasks.note, "x"), token="", headers=ALL_HEADERS)
    assert reply.status == 401
    assert site.refusal(reply).reason is Reason.TOKEN_MISSING


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        ("Bearer", Reason.TOKEN_MALFORMED),
        ("Bearer x", Reason.TOKEN_MALFORMED),
        ("Bearer a.b.c", Reason.TOKEN_MALFORMED),
        ("bearer a.b.c", Reason.TOKEN_MALFORMED),
        ("Basic dXNlcjpwYXNz", Reason.TOKEN_MALFORMED),
        ("Bearer " + "a" * 5000, Reason.TOKEN_MALFORMED),
        ("Bearer YWJj.YWJj.YWJj, Bearer YWJj.YWJj.YWJj", Reason.TOKEN_MALFORMED),
        ("Bearer bnVsbA.YWJj.YWJj", Reason.TOKEN_MALFORMED),
        ("Bearer W10.YWJj.YWJj", Reason.TOKEN_MALFORMED),
        ("Bearer e30.YWJj.YWJj", Reason.TOKEN_HEADER),
    ],
)
def test_T01_junk_token_is_refused_before_the_body_is_looked_at(site: Site, authorization: str, reason: Reason) -> None:
    # The body is no envelope: had it been looked at, the reason would be another.
    reply = site.post(b"junk", headers={"Authorization": authorization})
    assert reply.status == 401
    assert site.refusal(reply).reason is reason


def test_T01_token_in_another_header_is_not_looked_for(site: Site) -> None:
    headers = {"X-Serverless-Authorization": f"Bearer {site.token()}", "Proxy-Authorization": f"Bearer {site.token()}"}
    reply = site.post(site.seal(tasks.note, "x"), token="", headers=headers)
    assert site.refusal(reply).reason is Reason.TOKEN_MISSING


def test_T01_token_whose_signature_was_removed_by_a_platform_is_refused(site: Site) -> None:
    token = site.token().rpartition(".")[0] + ".SIGNATURE_REMOVED_BY_GOOGLE"
    reply = site.post(site.seal(tasks.note, "x"), token=token)
    assert reply.status == 401
    assert site.refusal(reply).reason is Reason.TOKEN_SIGNATURE_REMOVED
