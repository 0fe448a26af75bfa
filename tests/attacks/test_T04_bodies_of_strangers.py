"""T04: who may write to our queue has Cloud Tasks bring a body of theirs, with a genuine token."""

import secrets

import pytest

from safedefer import defer
from safedefer.core.envelope import PREAMBLE_BYTES, TAG_BYTES, parse_envelope
from safedefer.core.keys import KeyState, derive_key
from safedefer.errors import Reason
from tests.site.shop import tasks
from tests.support.site import Site


def test_T04_valid_token_does_not_stand_in_for_a_signature(site: Site) -> None:
    reply = site.post(b'{"task": "shop.note", "args": ["x"]}' * 4)
    assert reply.status == 204
    assert site.refusal(reply).reason is Reason.FRAME_MAGIC


@pytest.mark.parametrize("tag", [b"\0" * TAG_BYTES, b"\xff" * TAG_BYTES, secrets.token_bytes(TAG_BYTES)])
def test_T04_envelope_with_an_invented_tag_is_refused(site: Site, tag: bytes) -> None:
    wire = site.seal(tasks.note, "x")
    envelope = parse_envelope(wire)
    reply = site.post(envelope.preamble + envelope.claims + tag + envelope.body)
    assert reply.status == 204
    assert site.refusal(reply).reason is Reason.TAG_INVALID


def test_T04_short_tag_is_a_broken_frame(site: Site) -> None:
    wire = site.seal(tasks.note, "x")
    envelope = parse_envelope(wire)
    reply = site.post(envelope.preamble + envelope.claims + envelope.tag[:16] + envelope.body)
    assert site.refusal(reply).reason is Reason.FRAME_LENGTH


def test_T04_signature_of_a_stranger_is_of_an_unknown_key(site: Site) -> None:
    policy = site.runtime.policy
    stranger = derive_key(
        name="stranger",
        secret=secrets.token_bytes(32),
        state=KeyState.PRIMARY,
        environment=policy.environment,
        project=policy.project,
    )
    reply = site.post(site.forge(site.seal(tasks.note, "x"), key=stranger))
    assert reply.status == 409
    assert site.refusal(reply).reason is Reason.KEY_UNKNOWN


def test_T04_known_key_id_with_a_strangers_signature_is_refused(site: Site) -> None:
    policy = site.runtime.policy
    stranger = derive_key(
        name="stranger",
        secret=secrets.token_bytes(32),
        state=KeyState.PRIMARY,
        environment=policy.environment,
        project=policy.project,
    )
    wire = bytearray(site.forge(site.seal(tasks.note, "x"), key=stranger))
    wire[8:16] = site.runtime.ring.primary.id
    reply = site.post(bytes(wire))
    assert site.refusal(reply).reason is Reason.TAG_INVALID


def test_T04_every_single_flipped_bit_of_a_dispatch_is_refused(site: Site) -> None:
    wire = site.seal(tasks.note, "x")
    for position in range(0, len(wire) * 8, 7):
        changed = bytearray(wire)
        changed[position // 8] ^= 1 << position % 8
        reply = site.post(bytes(changed))
        assert reply.status in (204, 409, 422), (position, reply.status)
    assert site.traces() == []
    assert PREAMBLE_BYTES == 22


def test_T04_genuine_call_still_runs(site: Site) -> None:
    defer(tasks.note, "genuine")
    site.run_tasks()
    assert site.traces() == ["note genuine"]
