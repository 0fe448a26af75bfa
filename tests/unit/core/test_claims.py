"""Claims: one array of a fixed form, and what is refused although it was signed."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgpack import ExtType

from safedefer.core.claims import (
    Claims,
    FunctionRef,
    Lineage,
    Producer,
    Storage,
    TaskType,
    dump_claims,
    parse_claims,
)
from safedefer.core.limits import MAX_CLAIMS_BYTES
from safedefer.core.names import (
    EnvironmentName,
    FunctionName,
    HandlerId,
    LocationName,
    ProjectName,
    QueueName,
    TaskId,
)
from safedefer.core.wire import ExtCode, pack, unpack
from safedefer.errors import ClaimsError, Reason
from tests.support.builders import NOW, make_audience, make_claims

TREE: Any = unpack(dump_claims(make_claims()))


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
        ((8, 1), True),
        ((8, 1), [NOW]),
        ((8, 1), -(1 << 63)),
        ((8, 2), 253_402_300_800),
        ((8,), {"iat": NOW}),
        ((1,), {"environment": "production"}),
        ((1,), []),
        ((1,), None),
        ((1, 1), None),
        ((1, 2), "EUROPE"),
        ((1, 3), "default\n"),
        ((1, 4), ["/_safedefer/"]),
        ((2,), "shop.note"),
        ((2, 0), ["shop.note"]),
        ((2, 0), "shop.note\0"),
        ((2, 1), 1_000_001),
        ((2, 2), b""),
        ((3,), []),
        ((3, 0), b"web"),
        ((3, 0), "\u202e"),
        ((3, 1), None),
        ((4,), 600.0),
        ((4,), "600"),
        ((5,), b""),
        ((5, 0), "1"),
        ((5, 0), False),
        ((5, 1), None),
        ((5, 2), "d" * 32),
        ((5, 3), b"inline"),
        ((5, 3), "INLINE"),
        ((6,), None),
        ((6,), b"t" * 17),
        ((7,), [b"t" * 16]),
        ((7, 0), None),
        ((7, 1), "t" * 16),
        ((7, 2), 1_000_000_001),
        ((7, 2), True),
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
        pack(dump_claims(make_claims())),
        pack([dump_claims(make_claims())]),
        pack(ExtType(ExtCode.TUPLE, pack(TREE))),
        b"\x91" * 600,
        b"\xdd\xff\xff\xff\xff",
        b"\xc1" * 9,
    ],
)
def test_bytes_that_are_no_claims_are_refused(data: bytes) -> None:
    assert reason_of(data) is Reason.CLAIMS_MALFORMED


@pytest.mark.parametrize("kind", ["shard", "CALL", "call ", ""])
def test_kind_of_work_that_is_not_known_is_told_apart(kind: str) -> None:
    assert reason_of(changed((0,), kind)) is Reason.TYPE_UNSUPPORTED


NAMES = st.text("abcdefgh-0123", min_size=1, max_size=40)
IDS = st.binary(min_size=16, max_size=16).map(TaskId)
TEXTS = st.text(max_size=128).filter(str.isprintable)
SECONDS = st.integers(0, 253_402_300_799)


@given(
    audience=st.builds(
        make_audience,
        environment=NAMES.map(EnvironmentName),
        project=NAMES.map(ProjectName),
        location=NAMES.map(LocationName),
        queue=NAMES.map(QueueName),
        handler=NAMES.map(HandlerId),
    ),
    function=st.builds(
        FunctionRef,
        name=NAMES.map(FunctionName),
        version=st.integers(0, 1_000_000),
        fingerprint=st.binary(min_size=16, max_size=16),
    ),
    producer=st.builds(Producer, service=TEXTS, revision=TEXTS),
    deadline=st.integers(0, 1_800),
    body=st.builds(
        replace,
        st.just(make_claims().body),
        codec=st.integers(0, 255),
        size_bytes=st.integers(0, (1 << 32) - 1),
        sha256=st.binary(min_size=32, max_size=32),
        storage=st.sampled_from(Storage),
    ),
    task_id=IDS,
    lineage=st.builds(Lineage, root=IDS, parent=st.none() | IDS, generation=st.integers(0, 1_000_000_000)),
    times=st.tuples(SECONDS, SECONDS, SECONDS),
)
def test_any_claims_come_back_as_they_were(
    audience: Any, function: Any, producer: Any, deadline: int, body: Any, task_id: Any, lineage: Any, times: Any
) -> None:
    claims = Claims(
        type=TaskType.CALL,
        audience=audience,
        function=function,
        producer=producer,
        deadline_seconds=deadline,
        body=body,
        task_id=task_id,
        lineage=lineage,
        issued_at=times[0],
        not_before=times[1],
        expires_at=times[2],
    )
    data = dump_claims(claims)
    assert parse_claims(data) == claims
    assert pack(unpack(data)) == data


def test_longest_claims_stay_below_the_bound() -> None:
    claims = make_claims(
        audience=make_audience(
            environment="e" * 64, project="p" * 100, location="l" * 64, queue="q" * 100, handler="h" * 256
        ),
        function=FunctionRef(name=FunctionName("f" * 128), version=1_000_000, fingerprint=b"f" * 16),
        producer=Producer(service="\U0001f600" * 128, revision="\U0001f600" * 128),
        deadline_seconds=1_800,
        lineage=Lineage(root=TaskId(b"r" * 16), parent=TaskId(b"p" * 16), generation=1_000_000_000),
        issued_at=253_402_300_799,
        not_before=253_402_300_799,
        expires_at=253_402_300_799,
    )
    body = replace(claims.body, codec=255, size_bytes=(1 << 32) - 1, storage=Storage.OVERFLOW)
    claims = replace(claims, body=body)
    data = dump_claims(claims)
    assert len(data) <= MAX_CLAIMS_BYTES
    assert parse_claims(data) == claims


@pytest.mark.parametrize("position", range(len(dump_claims(make_claims()))))
def test_every_other_byte_gives_other_claims_or_none(position: int) -> None:
    data = bytearray(dump_claims(make_claims()))
    for byte in range(256):
        if byte != dump_claims(make_claims())[position]:
            data[position] = byte
            try:
                assert parse_claims(bytes(data)) != make_claims()
            except ClaimsError:
                continue


def test_claims_above_the_bound_are_refused_unread() -> None:
    assert reason_of(b"\x90" * (MAX_CLAIMS_BYTES + 1)) is Reason.CLAIMS_MALFORMED


def test_refusal_shows_nothing_of_the_claims() -> None:
    with pytest.raises(ClaimsError) as caught:
        parse_claims(changed((1, 0), "CANARY "))
    assert "CANARY" not in f"{caught.value!r} {caught.value} {vars(caught.value)}"


@given(st.binary(max_size=400))
def test_any_bytes_raise_our_own_error_or_none(data: bytes) -> None:
    try:
        parse_claims(data)
    except ClaimsError:
        return
