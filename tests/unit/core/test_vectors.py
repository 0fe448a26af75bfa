"""The frozen vectors: against the code, and against a second implementation made from docs/reference/wire-format.md."""

import hashlib
import hmac
import json
import struct
from typing import Any

import msgpack
import pytest

from safedefer.core.codec import decode_arguments
from safedefer.core.function import RegisteredFunction
from safedefer.core.pae import encode_pieces
from safedefer.core.signing import verify_body
from tests.support.builders import ENVIRONMENT, PROJECT, SECRET, Rows, make_envelope, verified
from tests.vectors.make_v1 import FILES, FOLDER, anything, encode, outcome, render


def cases(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / name).read_text())
    return found


ENVELOPES = cases("envelopes.json")


@pytest.mark.parametrize("name", FILES)
def test_script_makes_the_committed_bytes(name: str) -> None:
    assert (FOLDER / name).read_text() == render(name)


@pytest.mark.parametrize("case", ENVELOPES, ids=lambda case: case["comment"])
def test_envelope_has_the_recorded_result(case: dict[str, Any]) -> None:
    assert outcome(bytes.fromhex(case["wire"]), case["queue"], case["now"]) == case["result"]


@pytest.mark.parametrize("case", cases("bodies.json"), ids=lambda case: case["value"])
def test_body_decodes_to_its_value_and_back(case: dict[str, Any]) -> None:
    body = bytes.fromhex(case["body"])
    parameters = RegisteredFunction(anything, name="anything").parameters
    (value,) = decode_arguments(parameters, verify_body(verified(make_envelope(body=body))), Rows()).build({}).args
    if not isinstance(value, set | frozenset):
        assert repr(value) == case["value"]
    assert encode(value) == body


def second_pae(*pieces: bytes) -> bytes:
    return struct.pack("<Q", len(pieces)) + b"".join(struct.pack("<Q", len(piece)) + piece for piece in pieces)


def second_key(secret: bytes, label: bytes, environment: str, project: str, length: int) -> bytes:
    info = second_pae(b"safedefer", label, b"\x01", environment.encode(), project.encode())
    extracted = hmac.digest(b"safedefer.hkdf.v1", secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")[:length]


def second_verdict(wire: bytes, queue: str, now: int) -> str:
    """The order and the words of the document, in as few lines as they take."""
    if len(wire) < 55:
        return "frame_length"
    magic, version, suite, flags, key_id, c, b = struct.unpack(">4sBBH8sHI", wire[:22])
    for wrong, reason in (
        (magic != b"SDFR", "frame_magic"),
        (version != 1, "frame_version"),
        (flags != 0, "frame_flags"),
        (not 1 <= c <= 4_096 or len(wire) != 54 + c + b, "frame_length"),
        (key_id != second_key(SECRET, b"key-id", ENVIRONMENT, PROJECT, 8), "key_unknown"),
        (suite != 1, "suite_mismatch"),
    ):
        if wrong:
            return reason
    claims, tag, body = wire[22 : 22 + c], wire[22 + c : 54 + c], wire[54 + c :]
    key = second_key(SECRET, b"envelope-mac", ENVIRONMENT, PROJECT, 32)
    place = second_pae(ENVIRONMENT.encode(), PROJECT.encode())
    if tag != hmac.digest(key, second_pae(b"safedefer.envelope", b"\x01", wire[:22], place, claims), "sha256"):
        return "tag_invalid"
    tree = msgpack.unpackb(claims)
    if not isinstance(tree, list) or len(tree) != 12:
        return "claims_malformed"
    kind, audience, _, _, _, (_, length, digest, storage), _, _, (issued, start, end), _, _, _ = tree
    for wrong, reason in (
        (kind != "call", "type_unsupported"),
        (storage == "overflow" and body != b"", "claims_malformed"),
        (audience[:3] + audience[4:] != [ENVIRONMENT, PROJECT, "europe-west1", "/_safedefer/"], "audience_mismatch"),
        (audience[3] != queue, "queue_mismatch"),
        (not issued <= start <= end, "claims_malformed"),
        (end - start > 31 * 86_400 or start - issued > 30 * 86_400 + 30, "lifetime_too_long"),
        (issued > now + 30, "issued_in_future"),
        (now > end + 30, "expired"),
        (now < start - 30, "not_yet_valid"),
        (len(body) != length, "body_length"),
        (hashlib.sha256(body).digest() != digest, "body_digest"),
    ):
        if wrong:
            return reason
    return "valid"


@pytest.mark.parametrize("case", ENVELOPES, ids=lambda case: case["comment"])
def test_second_implementation_comes_to_the_same_result(case: dict[str, Any]) -> None:
    assert second_verdict(bytes.fromhex(case["wire"]), case["queue"], case["now"]) == case["result"]


@pytest.mark.parametrize("case", cases("keys.json"), ids=lambda case: f"{case['environment']} {case['project']}")
def test_second_implementation_derives_the_same_keys(case: dict[str, Any]) -> None:
    secret = bytes.fromhex(case["secret"])
    for label, name, length in ((b"key-id", "key_id", 8), (b"envelope-mac", "mac_key", 32)):
        derived = second_key(secret, label, case["environment"], case["project"], length)
        assert derived.hex() == case[name]


@pytest.mark.parametrize("case", cases("pre_authentication_encoding.json"), ids=lambda case: str(case["pieces"]))
def test_second_implementation_encodes_pieces_alike(case: dict[str, Any]) -> None:
    pieces = [bytes.fromhex(piece) for piece in case["pieces"]]
    assert second_pae(*pieces) == encode_pieces(*pieces) == bytes.fromhex(case["encoded"])
