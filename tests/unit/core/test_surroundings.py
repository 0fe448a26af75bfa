"""Surroundings: only what has the right form travels."""

import pytest

from safedefer.core.surroundings import NO_SURROUNDINGS, make_surroundings

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_what_has_the_right_form_is_kept() -> None:
    found = make_surroundings(TRACE, "pt-br", "America/Argentina/Buenos_Aires")
    assert (found.traceparent, found.language, found.time_zone) == (TRACE, "pt-br", "America/Argentina/Buenos_Aires")


@pytest.mark.parametrize("trace", [None, "", "x", TRACE + "\n", TRACE.upper(), TRACE + "-more"])
@pytest.mark.parametrize("language", [None, "", "de de", "x" * 33, "de\r\n"])
@pytest.mark.parametrize("zone", [None, "", "Europe Vienna", "x" * 65])
def test_anything_else_is_left_out_and_no_error(trace: str | None, language: str | None, zone: str | None) -> None:
    assert make_surroundings(trace, language, zone) == NO_SURROUNDINGS
