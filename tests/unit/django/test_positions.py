"""Cursors and key ranges as bytes: one strict encoding, of the types that the fields have."""

import uuid
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedefer.core.atoms import pack_atoms
from safedefer.core.wire import WireError, pack
from safedefer.django.order_field import resolve_order_field
from safedefer.django.positions import (
    MAX_KEY_BYTES,
    Cursor,
    KeyRange,
    decode_cursor,
    decode_key,
    decode_key_range,
    encode_cursor,
    encode_key,
    encode_key_range,
)
from safedefer.errors import InvalidKeyRangesError
from tests.site.shop.models import Badge, Customer, Reading

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "level": st.integers(),
    "label": st.text(st.characters(blacklist_categories=["Cs"]), max_size=200),
    "price": st.decimals(allow_nan=False, allow_infinity=False),
    "taken": st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45))])).filter(
        lambda moment: 1 < moment.year < 9999
    ),
    "serial": st.uuids(),
    "raw": st.binary(max_size=200),
    "ratio": st.floats(allow_nan=False),
    "lasted": st.timedeltas(),
}


def order_of(name: str) -> Any:
    return resolve_order_field(Reading.objects.using("postgres"), name)


@pytest.mark.parametrize("name", VALUES)
@given(data=st.data())
def test_every_position_survives_its_bytes(name: str, data: st.DataObject) -> None:
    order = order_of(name)
    lo, hi, last = (data.draw(VALUES[name]) for _ in range(3))
    pk = data.draw(st.integers(-(2**63), 2**63 - 1))
    assert decode_key(order, encode_key(order, lo)) == lo
    assert decode_cursor(order, encode_cursor(order, Cursor(lo, pk))) == Cursor(lo, pk)
    for key_range in (KeyRange(lo, hi, Cursor(last, pk)), KeyRange(None, hi), KeyRange(lo, None), KeyRange()):
        assert decode_key_range(order, encode_key_range(order, key_range)) == key_range


def test_walk_along_the_primary_key_keeps_one_value() -> None:
    order = resolve_order_field(Customer.objects.all())
    data = encode_cursor(order, Cursor(7, 7))
    assert data == pack([7])
    assert decode_cursor(order, data) == Cursor(7, 7)
    assert decode_key_range(order, encode_key_range(order, KeyRange(1, None, Cursor(9, 9)))).last == Cursor(9, 9)


def test_one_instant_has_one_encoding() -> None:
    order = order_of("taken")
    here = datetime(2024, 5, 6, 12, microsecond=1, tzinfo=timezone(timedelta(hours=2)))
    assert encode_key(order, here) == encode_key(order, here.astimezone(UTC))
    assert encode_key(order, here) != encode_key(order, here.replace(microsecond=2))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("level", pack(["7"])),
        ("level", pack([True])),
        ("level", pack([1.0])),
        ("level", pack([None])),
        ("level", pack([[7]])),
        ("level", pack([7, 8])),
        ("level", pack([])),
        ("level", pack(7)),
        ("level", pack({"a": 1})),
        ("level", b""),
        ("level", b"\x91\xcd\x00\x07"),
        ("level", pack([7]) + b"\x00"),
        ("level", pack_atoms([uuid.UUID(int=7)])),
        ("label", pack([b"text"])),
        ("serial", pack([str(uuid.UUID(int=7))])),
        ("price", pack([1])),
        ("price", pack_atoms([Decimal("NaN")])),
        ("ratio", pack([float("nan")])),
        ("ratio", pack([1])),
        ("taken", pack(["2024-01-01"])),
        ("taken", pack_atoms([date(2024, 1, 1)])),
        ("taken", pack_atoms([datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=1)))])),
        ("label", pack(["x" * (5 * MAX_KEY_BYTES)])),
    ],
)
def test_bytes_that_are_no_key_of_the_field_are_refused(name: str, data: bytes) -> None:
    with pytest.raises(WireError):
        decode_key(order_of(name), data)


@given(data=st.binary(max_size=40))
def test_any_bytes_are_a_position_or_refused(data: bytes) -> None:
    order = order_of("level")
    with suppress(WireError):
        assert encode_cursor(order, decode_cursor(order, data)) == data
    with suppress(WireError):
        assert encode_key_range(order, decode_key_range(order, data)) == data


def test_cursor_of_one_field_is_none_of_another() -> None:
    data = encode_cursor(order_of("level"), Cursor(1, 2))
    with pytest.raises(WireError):
        decode_cursor(order_of("label"), data)
    with pytest.raises(WireError):
        decode_cursor(resolve_order_field(Reading.objects.all()), data)


def test_key_of_any_size_is_refused_when_written() -> None:
    order = resolve_order_field(Badge.objects.all())
    encode_key(order, "x" * (MAX_KEY_BYTES - 4))
    with pytest.raises(InvalidKeyRangesError, match="takes 3,0"):
        encode_key(order, "x" * MAX_KEY_BYTES)
    with pytest.raises(InvalidKeyRangesError, match="cannot be encoded"):
        encode_key(order, "\ud800")


def test_position_shows_no_key() -> None:
    assert "secret" not in repr(KeyRange("secret", "secret", Cursor("secret", "secret")))
