"""The frame and the signature: what is refused, and that nothing but a signed envelope is ever accepted."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedefer.core.claims import Claims, Storage, dump_claims
from safedefer.core.envelope import MIN_ENVELOPE_BYTES, PREAMBLE_BYTES, TAG_BYTES, make_preamble, parse_envelope
from safedefer.core.keys import KeyRing, KeyState
from safedefer.core.limits import MAX_CLAIMS_BYTES
from safedefer.core.names import EnvironmentName, FunctionName, KeyId, ProjectName
from safedefer.core.pae import encode_pieces
from safedefer.core.signing import _HEAD, _PIECES, Deployment, sign_envelope, verify_body, verify_envelope
from safedefer.errors import (
    BodyDigestError,
    ClaimsError,
    MalformedEnvelopeError,
    Reason,
    RejectedError,
    SignatureError,
)
from tests.support.builders import (
    BODY,
    DEPLOYMENT,
    KEY,
    OTHER_SECRET,
    PROJECT,
    RING,
    make_claims,
    make_envelope,
    make_key,
    verified,
)

WIRE = make_envelope()
OTHER_KEY = make_key("second", OTHER_SECRET)


def refusal_of(wire: bytes, ring: KeyRing = RING, deployment: Deployment = DEPLOYMENT) -> RejectedError:
    """The refusal of an envelope, from its bytes to its body; fails if it is accepted."""
    with pytest.raises(RejectedError) as caught:
        verify_body(verify_envelope(parse_envelope(wire), ring, deployment))
    return caught.value


class Forgery(NamedTuple):
    """A change of a valid envelope, and how it is refused."""

    name: str
    change: Callable[[bytes], bytes]
    reason: Reason


def put(position: int, value: bytes) -> Callable[[bytes], bytes]:
    return lambda wire: wire[:position] + value + wire[position + len(value) :]


TAG = PREAMBLE_BYTES + len(dump_claims(make_claims()))
FORGERIES = [
    Forgery("nothing", lambda _: b"", Reason.FRAME_LENGTH),
    Forgery("a preamble alone", lambda wire: wire[:PREAMBLE_BYTES], Reason.FRAME_LENGTH),
    Forgery("a byte less", lambda wire: wire[:-1], Reason.FRAME_LENGTH),
    Forgery("a byte more", lambda wire: wire + b"\0", Reason.FRAME_LENGTH),
    Forgery("two envelopes", lambda wire: wire + wire, Reason.FRAME_LENGTH),
    Forgery("another magic", put(0, b"SDFS"), Reason.FRAME_MAGIC),
    Forgery("a magic in small letters", put(0, b"sdfr"), Reason.FRAME_MAGIC),
    Forgery("version 0", put(4, b"\0"), Reason.FRAME_VERSION),
    Forgery("version 2", put(4, b"\2"), Reason.FRAME_VERSION),
    Forgery("no suite", put(5, b"\0"), Reason.SUITE_MISMATCH),
    Forgery("the suite of encrypted bodies", put(5, b"\2"), Reason.SUITE_MISMATCH),
    Forgery("a flag", put(6, b"\0\1"), Reason.FRAME_FLAGS),
    Forgery("another flag", put(6, b"\x80\0"), Reason.FRAME_FLAGS),
    Forgery("an unknown key", put(8, b"\0" * 8), Reason.KEY_UNKNOWN),
    Forgery("claims of no length", put(16, b"\0\0"), Reason.FRAME_LENGTH),
    Forgery("claims of another length", put(16, b"\0\1"), Reason.FRAME_LENGTH),
    Forgery("claims too long", put(16, (MAX_CLAIMS_BYTES + 1).to_bytes(2, "big")), Reason.FRAME_LENGTH),
    Forgery("a body of another length", put(18, b"\xff\xff\xff\xff"), Reason.FRAME_LENGTH),
    Forgery("a changed claim", put(PREAMBLE_BYTES + 3, b"\0"), Reason.TAG_INVALID),
    Forgery("a tag of zeros", put(TAG, b"\0" * TAG_BYTES), Reason.TAG_INVALID),
    Forgery("a changed tag", put(TAG + TAG_BYTES - 1, b"\0"), Reason.TAG_INVALID),
    Forgery("a changed body", put(TAG + TAG_BYTES, b"\x93"), Reason.BODY_DIGEST),
    Forgery("claims of a stranger", lambda _: make_envelope(key=OTHER_KEY), Reason.KEY_UNKNOWN),
    Forgery("a stranger under our id", lambda _: put(8, KEY.id)(make_envelope(key=OTHER_KEY)), Reason.TAG_INVALID),
    Forgery(
        "a byte moved from the claims to the body",
        lambda wire: put(16, (TAG - PREAMBLE_BYTES - 1).to_bytes(2, "big"))(
            put(18, (len(BODY) + 1).to_bytes(4, "big"))(wire)
        ),
        Reason.TAG_INVALID,
    ),
    Forgery(
        "a body that was cut",
        lambda wire: put(18, (len(BODY) - 1).to_bytes(4, "big"))(wire)[:-1],
        Reason.TAG_INVALID,
    ),
]


@pytest.mark.parametrize("forgery", FORGERIES, ids=lambda forgery: forgery.name)
def test_verify_rejects_forgery(forgery: Forgery) -> None:
    assert refusal_of(forgery.change(WIRE)).reason is forgery.reason


@pytest.mark.parametrize("position", range(len(WIRE) * 8))
def test_verify_rejects_every_flipped_bit(position: int) -> None:
    wire = bytearray(WIRE)
    wire[position // 8] ^= 1 << position % 8
    refusal_of(bytes(wire))


def test_verify_rejects_every_truncation() -> None:
    for length in range(len(WIRE)):
        assert refusal_of(WIRE[:length]).reason is Reason.FRAME_LENGTH


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_our_own_error(data: bytes) -> None:
    refusal_of(data)


@given(st.binary(min_size=1, max_size=200), st.binary(max_size=100))
def test_any_claims_under_an_invented_tag_are_refused(claims: bytes, body: bytes) -> None:
    preamble = make_preamble(KEY.suite, KEY.id, claims_size=len(claims), body_size=len(body))
    assert refusal_of(preamble + claims + b"t" * TAG_BYTES + body).reason is Reason.TAG_INVALID


@pytest.mark.parametrize("name", [field.name for field in fields(Claims)])
def test_verify_rejects_claim_taken_from_another_envelope(name: str) -> None:
    from safedefer.core.claims import Delivery, Lineage, Producer, TaskType
    from safedefer.core.names import TaskName
    from safedefer.core.retries import RetryOptions
    from safedefer.core.routing import Route
    from safedefer.core.surroundings import Surroundings
    from tests.support.builders import make_audience

    changes: dict[str, Any] = {
        "type": TaskType.SWEEP,
        "audience": make_audience(queue="billing"),
        "function": replace(make_claims().function, name=FunctionName("shop.other")),
        "producer": Producer(service="other", revision=""),
        "deadline_seconds": 15,
        "body": replace(make_claims().body, size_bytes=4),
        "task_id": b"u" * 16,
        "lineage": Lineage(root=make_claims().task_id, parent=make_claims().task_id, generation=1),
        "issued_at": 1,
        "not_before": 2_000_000_000,
        "expires_at": 2_000_000_000,
        "delivery": Delivery(name=TaskName("other"), route=Route(service="other")),
        "retry": RetryOptions(max_attempts=1),
        "surroundings": Surroundings(language="de"),
    }
    claims = dump_claims(replace(make_claims(), **{name: changes[name]}))
    envelope = parse_envelope(WIRE)
    preamble = make_preamble(KEY.suite, KEY.id, claims_size=len(claims), body_size=len(envelope.body))
    assert refusal_of(preamble + claims + envelope.tag + envelope.body).reason is Reason.TAG_INVALID


def test_signed_envelope_is_accepted_with_its_claims() -> None:
    envelope = verified(WIRE)
    assert envelope.claims == make_claims()
    assert envelope.key is KEY
    assert verify_body(envelope).data == BODY


def test_signing_is_deterministic() -> None:
    assert make_envelope() == WIRE


@pytest.mark.parametrize("state", [KeyState.DISABLED, KeyState.DESTROYED])
def test_retired_key_neither_verifies_nor_signs(state: KeyState) -> None:
    ring = KeyRing([make_key("second", OTHER_SECRET), make_key(state=state)])
    expected = Reason.KEY_DISABLED if state is KeyState.DISABLED else Reason.KEY_DESTROYED
    assert refusal_of(WIRE, ring).reason is expected
    with pytest.raises(SignatureError):
        sign_envelope(make_claims(), BODY, make_key(state=state), DEPLOYMENT)


@pytest.mark.parametrize(
    "deployment",
    [
        Deployment(EnvironmentName("staging"), PROJECT),
        Deployment(EnvironmentName("production"), ProjectName("other")),
        Deployment(EnvironmentName("productiona"), ProjectName("cme")),
    ],
)
def test_tag_is_bound_to_the_deployment(deployment: Deployment) -> None:
    assert refusal_of(WIRE, deployment=deployment).reason is Reason.TAG_INVALID


def test_body_kept_elsewhere_is_verified_as_the_one_behind_the_tag_would_be() -> None:
    claims = make_claims()
    outside = replace(claims, body=replace(claims.body, storage=Storage.OVERFLOW))
    envelope = verified(sign_envelope(outside, b"", KEY, DEPLOYMENT))
    assert verify_body(envelope, BODY).data == BODY
    for stored, reason in ((b"", Reason.BODY_LENGTH), (BODY + b"x", Reason.BODY_LENGTH), (b"abc", Reason.BODY_DIGEST)):
        with pytest.raises(BodyDigestError) as caught:
            verify_body(envelope, stored)
        assert caught.value.reason is reason


def test_envelope_with_two_bodies_is_refused() -> None:
    claims = make_claims()
    outside = replace(claims, body=replace(claims.body, storage=Storage.OVERFLOW))
    with pytest.raises(ClaimsError):
        verified(sign_envelope(outside, BODY, KEY, DEPLOYMENT))


def test_tag_is_over_the_pre_authentication_encoding_of_its_pieces() -> None:
    import hmac

    envelope = parse_envelope(WIRE)
    message = encode_pieces(*_PIECES, envelope.preamble, DEPLOYMENT.assertion, envelope.claims)
    assert message.startswith(_HEAD)
    assert envelope.tag == hmac.digest(KEY.mac, message, "sha256")


def test_smallest_envelope_is_as_small_as_the_bound_says() -> None:
    assert MIN_ENVELOPE_BYTES == PREAMBLE_BYTES + 1 + TAG_BYTES
    with pytest.raises(MalformedEnvelopeError):
        parse_envelope(b"x" * (MIN_ENVELOPE_BYTES - 1))


def test_key_ring_finds_by_id_and_tries_nothing_else() -> None:
    ring = KeyRing([KEY, make_key("second", OTHER_SECRET, KeyState.ACTIVE)])
    assert ring.find(OTHER_KEY.id).name == "second"
    with pytest.raises(SignatureError) as caught:
        ring.find(KeyId(b"12345678"))
    assert caught.value.reason is Reason.KEY_UNKNOWN
