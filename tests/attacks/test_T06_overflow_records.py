"""T06: who can write to the store swaps, cuts, grows, removes or cross-links the stored body of a task."""

from typing import Any

import pytest

from safedefer.core.envelope import parse_envelope
from safedefer.core.records import RecordKind
from safedefer.core.signing import verify_envelope
from safedefer.django.models import StoredRecord
from safedefer.errors import Reason
from safedefer.flow.defer import seal_call
from safedefer.flow.overflow import write_overflow
from tests.site.shop import tasks
from tests.support.site import Site

LARGE = "x" * 2_000_000


def seal_large(site: Site, text: str = LARGE) -> bytes:
    """An envelope whose body is in the store."""
    function = tasks.note.registered
    call: Any = seal_call(site.runtime, function, function.options, (text,), {})
    assert call.overflow is not None
    write_overflow(site.runtime.records, call.claims, call.overflow)
    return bytes(call.task.task.http_request.body)


def chunks() -> list[StoredRecord]:
    return list(StoredRecord.objects.filter(kind=RecordKind.OVERFLOW).order_by("name"))


def test_T06_stored_body_comes_back_and_is_removed(site: Site) -> None:
    wire = seal_large(site)
    assert len(chunks()) == 3
    assert site.post(wire).status == 204
    assert site.traces() == [f"note {LARGE}"]
    assert chunks() == []


@pytest.mark.parametrize(
    ("change", "reason", "status"),
    [
        ("swapped", Reason.BODY_DIGEST, 204),
        ("truncated", Reason.BODY_LENGTH, 204),
        ("grown", Reason.BODY_LENGTH, 204),
        ("one byte changed", Reason.BODY_DIGEST, 204),
        ("deleted", Reason.OVERFLOW_MISSING, 409),
        ("all deleted", Reason.OVERFLOW_MISSING, 409),
        ("of another task", Reason.BODY_DIGEST, 204),
        ("emptied", Reason.BODY_LENGTH, 204),
    ],
)
def test_T06_changed_record_is_refused(site: Site, change: str, reason: Reason, status: int) -> None:
    wire = seal_large(site)
    first, second, third = chunks()
    match change:
        case "swapped":
            first.data, second.data = second.data[::-1], first.data[::-1]
        case "truncated":
            second.data = bytes(second.data)[:-1]
        case "grown":
            third.data = bytes(third.data) + b"x"
        case "one byte changed":
            second.data = b"y" + bytes(second.data)[1:]
        case "deleted":
            second.delete()
        case "all deleted":
            StoredRecord.objects.all().delete()
        case "of another task":
            seal_large(site, "y" * len(LARGE))
            foreign = [record for record in chunks() if b"y" * 100 in bytes(record.data)]
            second.data = foreign[1].data
        case _:
            first.data = b""
    for record in (first, second, third):
        if record.pk is not None and "deleted" not in change:
            record.save()
    reply = site.post(wire)
    assert reply.status == status
    assert site.refusal(reply).reason is reason


def test_T06_further_records_are_never_read(site: Site) -> None:
    wire = seal_large(site)
    last = chunks()[-1]
    StoredRecord.objects.create(
        kind=last.kind, name=last.name.replace("00002", "00003"), version=1, data=b"more", expires_at=last.expires_at
    )
    assert site.post(wire).status == 204
    assert site.traces() == [f"note {LARGE}"]


def test_T06_inline_envelope_cannot_be_turned_into_one_that_reads_the_store(site: Site) -> None:
    wire = seal_large(site)
    envelope = parse_envelope(wire)
    claims = verify_envelope(envelope, site.runtime.ring, site.runtime.deployment).claims
    assert envelope.body == b""
    # A body behind the tag of an envelope that keeps its body elsewhere has no claim that speaks for it.
    forged = wire[:18] + (5).to_bytes(4, "big") + wire[22:] + b"extra"
    reply = site.post(forged)
    assert claims.body.size_bytes > len(forged)
    assert site.refusal(reply).reason is Reason.TAG_INVALID
