"""Claims that cannot be read, and claims that are not for this handler or this time."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedefer.core.claims import Claims, dump_claims, parse_claims
from safedefer.core.wire import pack, unpack
from safedefer.errors import ClaimsError, Reason
from tests.support.builders import NOW, POLICY, make_audience, make_claims

TREE: Any = unpack(dump_claims(make_claims()))
DAY = 86_400


def reason_of(data: bytes) -> Reason:
    with pytest.raises(ClaimsError) as caught:
        parse_claims(data)
    return caught.value.reason


def changed(path: tuple[int, ...], value: object) -> bytes:
    """The encoded claims with one part replaced; a part of None at the end of the path is removed."""
    tree = unpack(dump_claims(make_claims()))
    place: Any = tree
    for index in path[:-1]:
        place = place[index]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return pack(tree)


def test_claims_come_back_as_they_were() -> None:
    assert parse_claims(dump_claims(make_claims())) == make_claims()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((0,), 5),
        ((0,), None),
        ((1,), "production/acme/europe-west1/default/_safedefer"),
        ((1, 4), ...),
        ((1, 0), ""),
        ((1, 0), "a b"),
        ((1, 3), "under_score"),
        ((1, 3), "x" * 101),
        ((1, 4), "with space"),
        ((1, 4), "\u00e9"),
        ((2, 0), ""),
        ((2, 0), "a/b"),
        ((2, 0), "x" * 129),
        ((2, 0), b"shop.note"),
        ((2, 1), -1),
        ((2, 1), "1"),
        ((2, 1), True),
        ((2, 1), 1.0),
        ((2, 2), b"short"),
        ((2, 2), "f" * 16),
        ((3, 0), 5),
        ((3, 0), "line\nbreak"),
        ((3, 1), "x" * 129),
        ((4,), -1),
        ((4,), 1_801),
        ((4,), None),
        ((5, 0), 256),
        ((5, 1), -1),
        ((5, 1), 1 << 32),
        ((5, 2), b"d" * 31),
        ((5, 2), b"d" * 33),
        ((5, 3), "elsewhere"),
        ((5, 3), 0),
        ((5, 3), ...),
        ((6,), b"t" * 15),
        ((6,), "t" * 16),
        ((7, 0), b"t" * 17),
        ((7, 1), b""),
        ((7, 2), -1),
        ((8,), [NOW, NOW]),
        ((8, 0), -1),
        ((8, 0), float(NOW)),
        ((8, 2), 1 << 40),
        ((8, 2), None),
        ((8,), ...),
    ],
)
def test_claims_of_another_form_are_refused(path: tuple[int, ...], value: object) -> None:
    assert reason_of(changed(path, value)) is Reason.CLAIMS_MALFORMED


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x90",
        b"\x80",
        b"\xc0",
        pack([*TREE, 1]),
        pack(TREE[:-1]),
        dump_claims(make_claims()) + b"\0",
        b"\xdc\x00\x09" + dump_claims(make_claims())[1:],
        pack({"type": "call"}),
        pack(["x" * 3_000]),
    ],
)
def test_bytes_that_are_no_claims_are_refused(data: bytes) -> None:
    assert reason_of(data) is Reason.CLAIMS_MALFORMED


@pytest.mark.parametrize("kind", ["shard", "CALL", "call ", ""])
def test_kind_of_work_that_is_not_known_is_told_apart(kind: str) -> None:
    assert reason_of(changed((0,), kind)) is Reason.TYPE_UNSUPPORTED


@given(st.binary(max_size=400))
def test_any_bytes_raise_our_own_error_or_none(data: bytes) -> None:
    try:
        parse_claims(data)
    except ClaimsError:
        return


def check(claims: Claims, queue: str | None = "default", now: float = NOW) -> None:
    POLICY.check_audience(claims, queue)
    POLICY.check_times(claims, now)


@pytest.mark.parametrize(
    "change",
    [
        {"environment": "staging"},
        {"environment": "Production"},
        {"project": "acme2"},
        {"location": "europe-west2"},
        {"handler": "/_safedefer"},
        {"handler": "/other/"},
    ],
)
def test_policy_refuses_another_audience(change: dict[str, str]) -> None:
    with pytest.raises(ClaimsError) as caught:
        check(make_claims(audience=make_audience(**change)))
    assert caught.value.reason is Reason.AUDIENCE_MISMATCH


@pytest.mark.parametrize("queue", ["billing", "Default", "", None, "default "])
def test_policy_refuses_another_queue(queue: str | None) -> None:
    with pytest.raises(ClaimsError) as caught:
        check(make_claims(), queue)
    assert caught.value.reason is Reason.QUEUE_MISMATCH


@pytest.mark.parametrize(
    ("times", "now", "reason"),
    [
        ((0, 0, 3_600), 3_631, Reason.EXPIRED),
        ((0, 0, 0), 31, Reason.EXPIRED),
        ((0, 600, 3_600), 0, Reason.NOT_YET_VALID),
        ((0, 600, 3_600), 569, Reason.NOT_YET_VALID),
        ((100, 100, 3_600), 0, Reason.ISSUED_IN_FUTURE),
        ((31, 31, 3_600), 0, Reason.ISSUED_IN_FUTURE),
        ((0, 0, 31 * DAY + 1), 0, Reason.LIFETIME_TOO_LONG),
        ((0, 30 * DAY + 31, 31 * DAY), 0, Reason.LIFETIME_TOO_LONG),
        ((0, -1, 3_600), 0, Reason.CLAIMS_MALFORMED),
        ((0, 10, 9), 0, Reason.CLAIMS_MALFORMED),
        ((10, 0, 3_600), 20, Reason.CLAIMS_MALFORMED),
    ],
)
def test_policy_refuses_another_time(times: tuple[int, int, int], now: float, reason: Reason) -> None:
    issued_at, not_before, expires_at = (NOW + time for time in times)
    claims = make_claims(issued_at=issued_at, not_before=not_before, expires_at=expires_at)
    with pytest.raises(ClaimsError) as caught:
        check(claims, now=NOW + now)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("times", "now"),
    [((0, 0, 3_600), 0), ((0, 0, 3_600), 3_630), ((30, 30, 3_600), 0), ((0, 600, 3_600), 570), ((0, 0, 31 * DAY), 5)],
)
def test_policy_accepts_within_thirty_seconds_of_skew(times: tuple[int, int, int], now: float) -> None:
    issued_at, not_before, expires_at = (NOW + time for time in times)
    check(make_claims(issued_at=issued_at, not_before=not_before, expires_at=expires_at), now=NOW + now)


def test_policy_with_a_shorter_age_refuses_what_lives_longer() -> None:
    policy = replace(POLICY, max_age=timedelta(hours=1))
    with pytest.raises(ClaimsError):
        policy.check_times(make_claims(expires_at=NOW + 3_601), NOW)
