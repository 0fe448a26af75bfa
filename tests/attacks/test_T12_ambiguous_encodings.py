"""T12: bytes are moved over a boundary between two signed pieces, so that other pieces give the same message."""

from hypothesis import given
from hypothesis import strategies as st

from safedefer.core.names import EnvironmentName, ProjectName
from safedefer.core.pae import encode_pieces
from safedefer.core.signing import Deployment

PIECES = st.lists(st.binary(max_size=12), max_size=5)


@given(PIECES, PIECES)
def test_T12_two_lists_of_pieces_never_have_one_encoding(first: list[bytes], second: list[bytes]) -> None:
    assert (encode_pieces(*first) == encode_pieces(*second)) == (first == second)


@given(st.lists(st.binary(max_size=12), min_size=2, max_size=4), st.integers(0, 11))
def test_T12_byte_moved_over_a_boundary_is_another_encoding(pieces: list[bytes], at: int) -> None:
    joined = pieces[0] + pieces[1]
    cut = min(at, len(joined))
    moved = [joined[:cut], joined[cut:], *pieces[2:]]
    assert (encode_pieces(*moved) == encode_pieces(*pieces)) == (moved == pieces)


def test_T12_lengths_are_of_bytes_and_not_of_characters() -> None:
    assert encode_pieces("\u00e9".encode())[8:16] == (2).to_bytes(8, "little")


def test_T12_environment_and_project_are_not_glued_together() -> None:
    first = Deployment(EnvironmentName("a"), ProjectName("bc"))
    second = Deployment(EnvironmentName("ab"), ProjectName("c"))
    assert first.assertion != second.assertion
