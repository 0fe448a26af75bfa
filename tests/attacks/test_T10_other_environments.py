"""T10: an envelope of another environment, project or place, made with the same root secret."""

from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from django.conf import settings

from safedefer.core.envelope import parse_envelope
from safedefer.core.keys import KeyState, derive_key
from safedefer.core.names import EnvironmentName, ProjectName
from safedefer.core.signing import Deployment, sign_envelope, verify_envelope
from safedefer.errors import Reason
from tests.site.shop import tasks
from tests.support.site import Site


@pytest.mark.parametrize(
    ("environment", "project"),
    [("staging", "local"), ("production", "other"), ("productionlocal", "x"), ("Production", "local")],
)
def test_T10_same_secret_in_another_environment_is_an_unknown_key(site: Site, environment: str, project: str) -> None:
    root = sha256(b"safedefer development key\x00" + settings.SECRET_KEY.encode()).digest()
    own = site.runtime.ring.primary
    same = derive_key(
        name="same",
        secret=root,
        state=KeyState.PRIMARY,
        environment=site.runtime.policy.environment,
        project=site.runtime.policy.project,
    )
    assert same.id == own.id
    other = derive_key(
        name="other",
        secret=root,
        state=KeyState.PRIMARY,
        environment=EnvironmentName(environment),
        project=ProjectName(project),
    )
    reply = site.post(site.forge(site.seal(tasks.note, "x"), key=other))
    assert reply.status == 409
    assert site.refusal(reply).reason is Reason.KEY_UNKNOWN


@pytest.mark.parametrize(
    "change",
    [
        {"environment": "staging"},
        {"project": "other"},
        {"location": "europe-west1"},
        {"handler": "/other/"},
        {"handler": "/_safedefer"},
    ],
)
def test_T10_audience_of_another_handler_is_refused_under_our_own_key(site: Site, change: dict[str, Any]) -> None:
    wire = site.seal(tasks.note, "x")
    claims = verify_envelope(parse_envelope(wire), site.runtime.ring, site.runtime.deployment).claims
    reply = site.post(site.forge(wire, claims={"audience": replace(claims.audience, **change)}))
    assert reply.status == 204
    assert site.refusal(reply).reason is Reason.AUDIENCE_MISMATCH


def test_T10_tag_is_bound_to_the_deployment_besides_the_key(site: Site) -> None:
    envelope = parse_envelope(site.seal(tasks.note, "x"))
    claims = verify_envelope(envelope, site.runtime.ring, site.runtime.deployment).claims
    elsewhere = Deployment(EnvironmentName("staging"), site.runtime.policy.project)
    reply = site.post(sign_envelope(claims, envelope.body, site.runtime.ring.primary, elsewhere))
    assert site.refusal(reply).reason is Reason.TAG_INVALID
