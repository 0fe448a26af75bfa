"""T07: a signed body tries to become an object, an import or a file access while it is decoded.

The attacker here holds the signing key: even then a body yields registered calls with plain arguments, and no more.
"""

import pickle  # noqa: TID251  # What an attacker would send.
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.urls import resolve
from msgpack import ExtType, Timestamp, packb

from safedefer.errors import Reason
from tests.site.shop import tasks
from tests.support.site import Site


class _Watch:
    """What the interpreter was asked to import or run while the watch was on."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hear)  # For the life of the process; it cannot be taken back.

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if self.on and event in ("import", "exec", "compile", "pickle.find_class", "os.system", "subprocess.Popen"):
            self.seen.append(f"{event} {args[:1]}")

    @contextmanager
    def watching(self) -> Iterator[list[str]]:
        self.seen.clear()
        self.on = True
        try:
            yield self.seen
        finally:
            self.on = False


WATCH = _Watch()


class Gadget:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("this must never be printed",))


HOSTILE = {
    "a pickle": pickle.dumps(Gadget()),
    "a pickle in a call": packb([[pickle.dumps(Gadget()).decode("latin-1")], {}])[:-1] + b"\x81",
    "an unknown ext type": packb([[ExtType(99, b"os.system")], {}]),
    "the timestamp of msgpack itself": packb([[Timestamp(0)], {}]),
    "an enum nobody named": packb([[ExtType(11, packb(["Color", "RED"]))], {}]),
    "a dataclass nobody named": packb([[ExtType(12, packb(["Popen", {"args": "id"}]))], {}]),
    "a model nobody named": packb([[ExtType(13, packb(["shop.customer", "default", 1]))], {}]),
    "a class by its path": packb([[ExtType(12, packb(["subprocess.Popen", {"args": "id"}]))], {}]),
    "a zone by its path": packb([[ExtType(5, packb([2026, 1, 1, 0, 0, 0, 0, 0, "../../../etc/passwd"]))], {}]),
    "a repeated key": b"\x92\x90\x82\xa5value\x01\xa5value\x02",
    "a key that is no string": b"\x92\x90\x81\x01\x02",
    "a longer form of a number": b"\x92\x91\xcd\x00\x01\x80",
    "trailing bytes": packb([[1], {}]) + b"\x00",
    "no call": packb({"args": [1]}),
    "empty": b"",
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_T07_hostile_body_under_a_stolen_key_comes_to_nothing(
    site: Site, body: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    resolve("/_safedefer/")  # Django imports the URLs with the first request.
    wire = site.forge(site.seal(tasks.keep, 1), body=body)
    with WATCH.watching() as seen:
        reply = site.post(wire)
    assert reply.status in (204, 409)
    assert site.refusal(reply).reason in (Reason.BODY_MALFORMED, Reason.ARGUMENTS_MISMATCH)
    assert seen == []
    assert "never be printed" not in "".join(capfd.readouterr())


def test_T07_function_name_is_looked_up_and_never_imported(site: Site) -> None:
    from dataclasses import replace

    from safedefer.core.envelope import parse_envelope
    from safedefer.core.names import FunctionName
    from safedefer.core.signing import verify_envelope

    resolve("/_safedefer/")
    wire = site.seal(tasks.note, "x")
    claims = verify_envelope(parse_envelope(wire), site.runtime.ring, site.runtime.deployment).claims
    for name in ("os.system", "subprocess.Popen", "tests.site.shop.tasks.trace", "builtins.eval", "this"):
        forged = site.forge(wire, claims={"function": replace(claims.function, name=FunctionName(name))})
        with WATCH.watching() as seen:
            assert site.post(forged).status == 409
        assert seen == []
    assert "this" not in sys.modules
    assert {event.reason for event in site.dispatches()} == {Reason.FUNCTION_UNKNOWN}
    assert site.traces() == []
