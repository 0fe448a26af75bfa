"""Urls and page tokens, for any input."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from safedefer.emulator.cloud_tasks.errors import CallError
from safedefer.emulator.cloud_tasks.paging import PageToken, page_size, parse_page_token
from safedefer.emulator.cloud_tasks.task_forms import encoded_url

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@given(st.text())
def test_encoded_url_is_printable_ascii_and_stays_as_it_is(url: str) -> None:
    encoded = encoded_url(url)
    assert all("!" <= character <= "~" for character in encoded)
    assert encoded_url(encoded) == encoded


def test_encoded_url_keeps_what_is_encoded_already() -> None:
    url = "https://user@example.com:8080/a%20b/c;d?e=f&g=%C3%A9#h"
    assert encoded_url(url) == url


@given(st.text(), st.text(min_size=1))
def test_page_token_leads_back_to_its_list(parent: str, after: str) -> None:
    text = PageToken(parent=parent, after=after, issued_at=NOW).encode()
    assert parse_page_token(text, parent=parent, now=NOW + timedelta(hours=2)) == after
    with pytest.raises(CallError):
        parse_page_token(text, parent=parent + "x", now=NOW)
    with pytest.raises(CallError):
        parse_page_token(text, parent=parent, now=NOW + timedelta(hours=2, microseconds=1000))


@given(st.text(min_size=1))
@example("W10=")
@example("WyJwIiwgImEiLCAxZTQwMF0=")
def test_page_token_from_anywhere_is_refused(text: str) -> None:
    with pytest.raises(CallError):
        parse_page_token(text, parent="p", now=NOW)


def test_page_size_is_bounded() -> None:
    assert [page_size(asked, most=10) for asked in (0, 1, 10, 11)] == [10, 1, 10, 10]
