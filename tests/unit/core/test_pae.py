"""The pre-authentication encoding is injective: no two lists of pieces give the same bytes."""

import struct
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedefer.core.pae import encode_length, encode_pieces

PIECES = st.lists(st.binary(max_size=12), max_size=5).map(tuple)


def decode_pieces(data: bytes) -> list[bytes]:
    """The inverse, which there would not be if two lists had one encoding."""

    def length(at: int) -> int:
        (value,) = struct.unpack_from("<Q", data, at)
        assert isinstance(value, int)
        return value

    pieces, at = [], 8
    for _ in range(length(0)):
        size = length(at)
        pieces.append(data[at + 8 : at + 8 + size])
        at += 8 + size
    assert at == len(data)
    return pieces


@given(PIECES)
def test_pieces_can_be_taken_apart_again(pieces: tuple[bytes, ...]) -> None:
    assert tuple(decode_pieces(encode_pieces(*pieces))) == pieces


@given(PIECES, PIECES)
def test_different_lists_have_different_encodings(one: tuple[bytes, ...], other: tuple[bytes, ...]) -> None:
    assert (one == other) == (encode_pieces(*one) == encode_pieces(*other))


@given(st.binary(max_size=20), st.data())
def test_same_bytes_cut_elsewhere_have_another_encoding(data: bytes, draw: st.DataObject) -> None:
    first, second = draw.draw(st.integers(0, len(data))), draw.draw(st.integers(0, len(data)))
    one, other = (data[:first], data[first:]), (data[:second], data[second:])
    assert (first == second) == (encode_pieces(*one) == encode_pieces(*other))


LOOK_ALIKES: list[tuple[bytes, ...]] = [
    (),
    (b"",),
    (b"", b""),
    (b"\0",),
    (b"\0" * 16,),
    (encode_pieces(),),
    (encode_pieces(b""),),
    (b"ab",),
    (b"a", b"b"),
    (b"", b"ab"),
    (b"ab", b""),
    (encode_pieces(b"a", b"b"),),
    (b"a", encode_length(1) + b"b"),
    ("\u00e9".encode(),),
    ("\u00e9".encode("latin-1"),),
    ("e\u0301".encode(),),
    (b"a" * 256,),
    (b"a" * 255, b"a"),
]


@pytest.mark.parametrize(("one", "other"), list(combinations(LOOK_ALIKES, 2)))
def test_lists_that_look_alike_are_told_apart(one: tuple[bytes, ...], other: tuple[bytes, ...]) -> None:
    assert encode_pieces(*one) != encode_pieces(*other)


def test_encoding_is_the_documented_one() -> None:
    assert encode_pieces(b"a", b"bc").hex() == ("020000000000000001000000000000006102000000000000006263")


def test_lengths_count_bytes_and_not_characters() -> None:
    assert encode_pieces("\u20ac".encode())[8:16] == encode_length(3)


def test_length_that_takes_more_than_eight_bytes_cannot_be_written() -> None:
    assert encode_length((1 << 64) - 1) == b"\xff" * 8
    with pytest.raises(struct.error):
        encode_length(1 << 64)
