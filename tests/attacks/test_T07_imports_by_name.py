"""T07: decoding a hostile body asks the import system for nothing, not even by ways that audit hooks do not see."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
from msgpack import ExtType, packb

from safedefer.core.wire import ExtCode
from safedefer.errors import Reason
from tests.site.shop import tasks
from tests.site.shop.models import Customer, Parcel, Trace
from tests.support.site import Site


class Finder:
    """Finds nothing, and remembers what was looked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Remember, and leave it to the others."""
        self.asked.append(fullname)
        return None


@contextmanager
def watching_imports() -> Iterator[list[str]]:
    """Names of modules that are looked for, and are not loaded already."""
    finder = Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield finder.asked
    finally:
        sys.meta_path.remove(finder)


def zoned(zone: object) -> bytes:
    """A signed call with a moment in a time zone of this name."""
    return packb([[ExtType(ExtCode.DATETIME, packb([2030, 1, 1, 0, 0, 0, 0, 0, zone]))], {}])


def warm_up(site: Site) -> None:
    """Whatever is loaded at first use, by Python, Django or the codec, is loaded."""
    site.post(site.seal(tasks.keep, [datetime.now(UTC), {"a": (1, {2})}, 1 << 70]))
    site.post(site.forge(site.seal(tasks.keep, 1), body=b"\xc1"))
    site.post(site.seal(tasks.greet, Customer.objects.create(name="Ann")))
    Trace.objects.all().delete()
    site.events.clear()


def test_T07_watch_sees_imports_of_every_kind() -> None:
    import importlib

    with watching_imports() as asked:
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("safedefer_nowhere.below")
        with pytest.raises(ModuleNotFoundError):
            __import__("safedefer_nowhere_else")
    assert asked == ["safedefer_nowhere", "safedefer_nowhere_else"]


BODIES = {
    "an enum by its path": packb([[ExtType(ExtCode.ENUM, packb(["http.HTTPStatus", "OK"]))], {}]),
    "a dataclass by its path": packb([[ExtType(ExtCode.DATACLASS, packb(["this.Money", {"amount": 1}]))], {}]),
    "a model by its path": packb([[ExtType(ExtCode.MODEL, packb(["this.models.Customer", "default", 1]))], {}]),
    "a model of an app that is not installed": packb(
        [[ExtType(ExtCode.MODEL, packb(["auth.user", "default", 1]))], {}]
    ),
    "a keyword by its path": packb([[], {"this.s": 1}]),
    "a codec by its name": packb([[ExtType(ExtCode.DECIMAL, b"\xff\xfe1")], {}]),
    "a zone above its folder": zoned("../../../../etc/passwd"),
    "a zone by its absolute path": zoned("/etc/passwd"),
    "a zone that is a folder of nothing": zoned("."),
    "a zone that is a number": zoned(1 << 60),
    "a zone that is a list": zoned(["Europe/Vienna"]),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
@pytest.mark.parametrize("name", ["keep", "ship", "greet"])
def test_T07_no_module_is_looked_for(site: Site, body: bytes, name: str) -> None:
    warm_up(site)
    genuine = {
        "keep": site.seal(tasks.keep, 1),
        "ship": site.seal(tasks.ship, Parcel.objects.create(), [], None, tasks.Color.RED, datetime.now(UTC)),
        "greet": site.seal(tasks.greet, Customer.objects.get()),
    }
    wire = site.forge(genuine[name], body=body)
    with watching_imports() as asked:
        reply = site.post(wire)
    assert asked == []
    assert reply.status in (204, 409)
    assert site.refusal(reply).reason in (Reason.ARGUMENTS_MISMATCH, Reason.BODY_MALFORMED)
    assert "this" not in sys.modules


@pytest.mark.parametrize("zone", ["Nowhere/Land", "os/path", "a.b/c", "Europe/Vienna\x00/x"])
def test_T07_zone_that_nobody_has_is_not_looked_for_among_modules(site: Site, zone: str) -> None:
    warm_up(site)
    wire = site.forge(site.seal(tasks.keep, 1), body=zoned(zone))
    with watching_imports() as asked:
        assert site.post(wire).status == 204
    assert asked == []
