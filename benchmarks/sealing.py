"""Encode and sign, verify and decode: against msgpack plus one HMAC of the same bytes, and against others' signing."""

import hmac
import os
import pickle  # noqa: TID251  # As a peer to compare with; nothing of ours uses it.
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.site.settings"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import django

django.setup()

import msgpack
from django.core import signing as django_signing
from itsdangerous import URLSafeSerializer

from benchmarks.timing import measure, print_ratios
from safedefer.core.claims import Storage, dump_claims
from safedefer.core.codec import decode_arguments, encode_arguments
from safedefer.core.envelope import parse_envelope
from safedefer.core.function import RegisteredFunction
from safedefer.core.parameters import Parameters
from safedefer.core.signing import claim_body, sign_envelope, verify_body, verify_envelope
from tests.support.builders import DEPLOYMENT, KEY, RING, Rows, make_claims

RESOLVER: Final = Rows()
FLOOR: Final = "floor: msgpack + one HMAC-SHA-256"


def scalars(number: int, text: str, share: float) -> None:
    """Takes three scalars."""


def text_only(text: str) -> None:
    """Takes one text."""


def numbers_only(numbers: list[int]) -> None:
    """Takes many small values."""


def rows_only(rows: list[dict[str, int | str]]) -> None:
    """Takes rows of a table."""


def anything(value: Any) -> None:
    """Takes whatever it is given."""


CASES: Final[dict[str, tuple[Callable[..., None], tuple[object, ...]]]] = {
    "three scalars": (scalars, (17, "a short text", 2.5)),
    "a text of 10 kB": (text_only, ("x" * 10_000,)),
    "a text of 100 kB": (text_only, ("x" * 100_000,)),
    "5,000 ints, 10 kB and more": (numbers_only, (list(range(100, 5_100)),)),
    "400 rows of 3 fields, 15 kB": (
        rows_only,
        ([{"id": i, "name": f"customer {i}", "city": "Graz"} for i in range(400)],),
    ),
    "the same, annotated Any": (
        anything,
        ([{"id": i, "name": f"customer {i}", "city": "Graz"} for i in range(400)],),
    ),
}


def main() -> None:
    """Measure every case."""
    for title, (function, args) in CASES.items():
        parameters = RegisteredFunction(function).parameters
        seal_case(title, parameters, args)
        open_case(title, parameters, args)


def seal(parameters: Parameters, args: tuple[object, ...]) -> bytes:
    """What `defer` does between its arguments and the task."""
    body = encode_arguments(parameters, args, {}, RESOLVER)
    claims = make_sealed_claims(body)
    return sign_envelope(claims, body, KEY, DEPLOYMENT)


TEMPLATE: Final = make_claims()


def make_sealed_claims(body: bytes) -> Any:
    """Claims built as `defer` builds them, field by field."""
    return type(TEMPLATE)(
        type=TEMPLATE.type,
        audience=TEMPLATE.audience,
        function=TEMPLATE.function,
        producer=TEMPLATE.producer,
        deadline_seconds=600,
        body=claim_body(body, Storage.INLINE),
        task_id=TEMPLATE.task_id,
        lineage=TEMPLATE.lineage,
        issued_at=TEMPLATE.issued_at,
        not_before=TEMPLATE.not_before,
        expires_at=TEMPLATE.expires_at,
    )


def seal_case(title: str, parameters: Parameters, args: tuple[Any, ...]) -> None:
    """Encode and sign."""
    claims = msgpack.unpackb(dump_claims(make_claims()))
    key = b"k" * 32
    itsdangerous_signer = URLSafeSerializer("secret")

    def floor() -> bytes:
        data = msgpack.packb(claims) + msgpack.packb([args, {}])
        return hmac.digest(key, data, "sha256") + data

    call = {"fn": "shop.note", "args": args}
    times = measure(
        {
            FLOOR: floor,
            "safedefer: encode + sign": lambda: seal(parameters, args),
            "django.core.signing.dumps": lambda: django_signing.dumps(call, key="secret"),
            "itsdangerous URLSafeSerializer.dumps": lambda: itsdangerous_signer.dumps(call),
            "pickle.dumps, unsigned": lambda: pickle.dumps(call),
        }
    )
    print_ratios(f"Seal {title}", times, FLOOR)


def open_case(title: str, parameters: Parameters, args: tuple[Any, ...]) -> None:
    """Verify and decode."""
    wire = seal(parameters, args)
    claims = msgpack.unpackb(dump_claims(make_claims()))
    packed = msgpack.packb(claims), msgpack.packb([args, {}])
    tag, key = hmac.digest(b"k" * 32, packed[0] + packed[1], "sha256"), b"k" * 32
    itsdangerous_signer = URLSafeSerializer("secret")

    def floor() -> object:
        hmac.compare_digest(hmac.digest(key, packed[0] + packed[1], "sha256"), tag)
        return msgpack.unpackb(packed[0]), msgpack.unpackb(packed[1])

    def ours() -> object:
        envelope = verify_envelope(parse_envelope(wire), RING, DEPLOYMENT)
        return decode_arguments(parameters, verify_body(envelope), RESOLVER).build({})

    call = {"fn": "shop.note", "args": args}
    django_text = django_signing.dumps(call, key="secret")
    itsdangerous_text = itsdangerous_signer.dumps(call)
    pickled = pickle.dumps(call)
    times = measure(
        {
            FLOOR: floor,
            "safedefer: verify + decode": ours,
            "django.core.signing.loads": lambda: django_signing.loads(django_text, key="secret"),
            "itsdangerous URLSafeSerializer.loads": lambda: itsdangerous_signer.loads(itsdangerous_text),
            "pickle.loads, unsigned": lambda: pickle.loads(pickled),
        }
    )
    print_ratios(f"Open {title}", times, FLOOR)


if __name__ == "__main__":
    main()
