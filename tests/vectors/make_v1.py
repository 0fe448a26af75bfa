"""Writes the vectors of version 1: `python -m tests.vectors.make_v1`. The bytes of a released version never change."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from safedefer.core.claims import Storage, dump_claims
from safedefer.core.codec import encode_arguments
from safedefer.core.envelope import PREAMBLE_BYTES, parse_envelope
from safedefer.core.function import RegisteredFunction
from safedefer.core.names import TaskId
from safedefer.core.pae import encode_pieces
from safedefer.core.signing import sign_envelope, verify_body, verify_envelope
from safedefer.errors import RejectedError
from tests.support.builders import (
    DEPLOYMENT,
    ENVIRONMENT,
    KEY,
    NOW,
    OTHER_SECRET,
    POLICY,
    PROJECT,
    RING,
    SECRET,
    Rows,
    make_audience,
    make_claims,
    make_envelope,
    make_key,
)

FOLDER: Final = Path(__file__).resolve().parent / "v1"


def anything(value: Any) -> None:
    """Takes whatever it is given."""


def outcome(wire: bytes, queue: str = "default", now: float = NOW) -> str:
    """`valid`, or the reason of the first refusal."""
    try:
        envelope = verify_envelope(parse_envelope(wire), RING, DEPLOYMENT)
        POLICY.check_audience(envelope.claims, queue)
        POLICY.check_times(envelope.claims, now)
        verify_body(envelope)
    except RejectedError as error:
        return error.reason.value
    return "valid"


def make_pae() -> list[dict[str, Any]]:
    """Pre-authentication encodings."""
    cases: list[list[bytes]] = [[], [b""], [b"", b""], [b"a", b"bc"], [b"ab", b"c"], ["\u00e9".encode()], [bytes(3)]]
    return [{"pieces": [piece.hex() for piece in case], "encoded": encode_pieces(*case).hex()} for case in cases]


def make_keys() -> list[dict[str, Any]]:
    """Derived keys."""
    found = []
    for environment, project in ((ENVIRONMENT, PROJECT), ("staging", PROJECT), (ENVIRONMENT, "other")):
        key = make_key(environment=environment, project=project)
        found.append(
            {
                "secret": SECRET.hex(),
                "environment": environment,
                "project": project,
                "key_id": key.id.hex(),
                "mac_key": key.mac.hex(),
            }
        )
    return found


def make_envelopes() -> list[dict[str, Any]]:
    """Envelopes, each with what becomes of it at `now` behind a token that was accepted."""
    valid = make_envelope()
    claims = make_claims()
    tag = PREAMBLE_BYTES + len(dump_claims(claims))
    late = make_claims(issued_at=NOW - 7_200, not_before=NOW - 7_200, expires_at=NOW - 3_600)
    outside = replace(claims, body=replace(claims.body, storage=Storage.OVERFLOW))

    def put(position: int, value: bytes) -> bytes:
        return valid[:position] + value + valid[position + len(value) :]

    cases: list[tuple[str, bytes]] = [
        ("a call without arguments", valid),
        ("a call with a text", make_envelope(body=encode("text"))),
        ("another task", make_envelope(make_claims(task_id=TaskId(b"u" * 16)))),
        ("a child of another task", make_envelope(replace(claims, lineage=replace(claims.lineage, generation=1)))),
        ("expires in this very second", make_envelope(make_claims(expires_at=NOW))),
        ("empty", b""),
        ("one byte short", valid[:-1]),
        ("one byte long", valid + b"\0"),
        ("another magic", put(0, b"XXXX")),
        ("another version", put(4, b"\2")),
        ("another suite", put(5, b"\2")),
        ("an undefined flag", put(6, b"\0\1")),
        ("an unknown key", make_envelope(key=make_key("other", OTHER_SECRET))),
        ("a key of another environment", make_envelope(key=make_key(environment="staging"))),
        ("a changed claim", put(PREAMBLE_BYTES + 2, b"X")),
        ("a changed tag", put(tag, b"\0\0")),
        ("a changed body", put(len(valid) - 1, b"\x81")),
        ("claims of another form", sign_raw(b"\x91\x01")),
        ("an unknown type", sign_raw(dump_claims(claims).replace(b"\xa4call", b"\xa4walk"))),
        ("for another environment", make_envelope(make_claims(audience=make_audience(environment="staging")))),
        ("for another handler", make_envelope(make_claims(audience=make_audience(handler="/other/")))),
        ("for another queue", make_envelope(make_claims(audience=make_audience(queue="billing")))),
        ("expired", make_envelope(late)),
        ("not yet valid", make_envelope(make_claims(not_before=NOW + 600))),
        ("issued in the future", make_envelope(make_claims(issued_at=NOW + 60, not_before=NOW + 60))),
        ("valid for too long", make_envelope(make_claims(expires_at=NOW + 32 * 86_400))),
        ("times out of order", make_envelope(make_claims(not_before=NOW - 1))),
        ("a body of another length", sign_envelope(claims, b"\x92\x90\x80\x80", KEY, DEPLOYMENT)),
        ("a body beside one that is kept elsewhere", sign_envelope(outside, b"\x92\x90\x80", KEY, DEPLOYMENT)),
    ]
    return [
        {"id": number, "comment": comment, "queue": "default", "now": NOW, "wire": wire.hex(), "result": outcome(wire)}
        for number, (comment, wire) in enumerate(cases, 1)
    ]


def sign_raw(claims: bytes) -> bytes:
    """An envelope whose claims are any bytes, signed all the same."""
    import hmac

    from safedefer.core.envelope import make_preamble

    preamble = make_preamble(KEY.suite, KEY.id, claims_size=len(claims), body_size=0)
    message = encode_pieces(b"safedefer.envelope", b"\x01", preamble, DEPLOYMENT.assertion, claims)
    return preamble + claims + hmac.digest(KEY.mac, message, "sha256")


def encode(*args: object) -> bytes:
    """The body of a call."""
    parameters = RegisteredFunction(anything, name="anything").parameters
    return encode_arguments(parameters, args, {}, Rows())


def make_bodies() -> list[dict[str, Any]]:
    """Bodies of one argument, by the Python expression that gives it."""
    from datetime import UTC, date, datetime, time, timedelta, timezone
    from decimal import Decimal
    from uuid import UUID
    from zoneinfo import ZoneInfo

    values: list[object] = [
        None,
        True,
        0,
        -1,
        255,
        -(1 << 63),
        (1 << 64) - 1,
        1 << 64,
        -(1 << 63) - 1,
        1.5,
        -0.0,
        "",
        "h\u00e9llo",
        b"\x00\xff",
        [],
        [1, [2, "x"]],
        {"b": 1, "a": [None]},
        (1, "a"),
        {3, 1, 2},
        frozenset({"a"}),
        datetime(2026, 1, 2, 3, 4, 5, 6),  # noqa: DTZ001  # A naive one is a case.
        datetime(2026, 1, 2, tzinfo=UTC),
        datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=-5, minutes=-30))),
        datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Vienna"), fold=1),
        date(2026, 1, 2),
        time(1, 2, 3, 4),
        timedelta(days=-1, seconds=5, microseconds=6),
        Decimal("9.50"),
        Decimal("-Infinity"),
        UUID(int=1),
    ]
    return [{"value": repr(value), "body": encode(value).hex()} for value in values]


FILES: Final[dict[str, Callable[[], list[dict[str, Any]]]]] = {
    "pre_authentication_encoding.json": make_pae,
    "keys.json": make_keys,
    "envelopes.json": make_envelopes,
    "bodies.json": make_bodies,
}


def render(name: str) -> str:
    """The text of one file."""
    return json.dumps(FILES[name](), indent=1, ensure_ascii=True) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for file in FILES:
        (FOLDER / file).write_text(render(file))
