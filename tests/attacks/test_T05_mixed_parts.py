"""T05: whatever is cut from genuine envelopes and put together is refused, unless it is one of them again."""

from itertools import product
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safedefer.core.envelope import UntrustedEnvelope, parse_envelope
from safedefer.core.keys import KeyRing, KeyState
from safedefer.core.signing import verify_body, verify_envelope
from safedefer.errors import RejectedError
from tests.support.builders import DEPLOYMENT, KEY, NOW, OTHER_SECRET, make_claims, make_envelope, make_key

ACTIVE: Final = make_key("second", OTHER_SECRET, KeyState.ACTIVE)
RING: Final = KeyRing([KEY, ACTIVE])
GENUINE: Final = (
    make_envelope(),
    make_envelope(make_claims(expires_at=NOW + 7_200)),
    make_envelope(make_claims(b"\x92\x91\x01\x80"), b"\x92\x91\x01\x80"),
    make_envelope(make_claims(b"\x92\x91\x02\x80"), b"\x92\x91\x02\x80"),
    make_envelope(key=make_key("second", OTHER_SECRET)),
)


def accepted(wire: bytes) -> bool:
    """Whether an envelope and its body are verified."""
    try:
        verify_body(verify_envelope(parse_envelope(wire), RING, DEPLOYMENT))
    except RejectedError:
        return False
    return True


def parts_of(wire: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    envelope: UntrustedEnvelope = parse_envelope(wire)
    return envelope.preamble, envelope.claims, envelope.tag, envelope.body


def test_T05_genuine_envelopes_are_accepted() -> None:
    assert all(accepted(wire) for wire in GENUINE)
    assert len(set(GENUINE)) == len(GENUINE)


@pytest.mark.parametrize("chosen", list(product(range(len(GENUINE)), repeat=4)), ids=str)
def test_T05_parts_of_several_envelopes_make_none(chosen: tuple[int, ...]) -> None:
    wire = b"".join(parts_of(GENUINE[which])[part] for part, which in enumerate(chosen))
    assert accepted(wire) == (wire in GENUINE)


@settings(derandomize=True, deadline=None, max_examples=400)
@given(st.sampled_from(GENUINE), st.sampled_from(GENUINE), st.data())
def test_T05_cut_and_paste_makes_no_other_envelope(first: bytes, second: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(first)))
    end = data.draw(st.integers(start, len(first)))
    source = data.draw(st.integers(0, len(second)))
    length = data.draw(st.one_of(st.just(end - start), st.integers(0, len(second))))
    wire = first[:start] + second[source : source + length] + first[end:]
    assert accepted(wire) == (wire in GENUINE)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.sampled_from(GENUINE), st.data())
def test_T05_no_byte_of_an_envelope_can_be_changed(genuine: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(genuine) - 1))
    byte = data.draw(st.integers(1, 255))
    changed = bytearray(genuine)
    changed[at] ^= byte
    assert not accepted(bytes(changed))
