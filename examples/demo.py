"""`make demo`: the main job on this machine, with nothing replaced but Google's servers.

It starts the local cloud and the example site as processes of their own, defers calls through the official client,
waits until the local cloud has had them executed over HTTP, attacks the handler through the queue, and kills the site
in the middle of a walk over many rows. It ends with a report, and with exit status 0 only if everything that it reports
was observed.
"""

import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any, Final

from stage import (
    CLOCK_FILE,
    FOLDER,
    KEEP,
    SHOP,
    Line,
    Shop,
    Stage,
    print_report,
    read_exports,
    say,
    wait_for,
    wait_until,
)
from walk import walk_all_rows

CALLS: Final = 12
LARGE_BYTES: Final = 2_500_000
MANY: Final = 150


def main() -> int:
    """Run the demo."""
    started = time.monotonic()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    with ExitStack() as stack:
        stage = Stage(stack)
        say("Starting the local cloud: Cloud Tasks and Datastore over gRPC, and a token issuer ...")
        stage.environment = dict(read_exports(stage.start(*local_cloud_command())))
        for name, value in stage.environment.items():
            say(f"  {name}={value}")
        say("Starting the shop: a Django site with safedefer.urls mounted ...")
        stage.manage("migrate", "--verbosity", "0", "--skip-checks")
        port = stage.reserve_port()
        site, origin = stage.start_site(port=port)
        say(f"  {origin}/_safedefer/")
        shop = Shop(origin, stage.environment)
        report = [*main_job(shop), *many(shop), *lost_and_found(stage), *large_and_repeated(shop, "orm")]
        with second_site(stage) as datastore_shop:
            report += large_and_repeated(datastore_shop, "datastore")
        shop.use()
        report += [*attacks(shop), *walk_all_rows(shop, stage, site, port)]
        ok = all(line.holds for line in report)
        print_report(report, time.monotonic() - started)
        if KEEP and ok:
            print_where(shop, stage)
            stack.pop_all()
    return 0 if ok else 1


def main_job(shop: Shop) -> Iterator[Line]:
    """Defer charges, and wait for the invoices and letters that prove that they ran."""
    from django.db import transaction  # noqa: PLC0415  # Django is set up by now.
    from orders.models import Customer, Invoice, Letter  # noqa: PLC0415
    from orders.tasks import charge  # noqa: PLC0415

    from safedefer import defer  # noqa: PLC0415

    say(f"Deferring {CALLS} charges, and one whose transaction is rolled back ...")
    customer = Customer.objects.create(name="Ada")
    for number in range(CALLS - 1):
        defer(charge, customer, Decimal("9.50") + number, note=f"order {number}")
    with transaction.atomic():
        charge.options(name="the-last-one").defer(customer, Decimal("99.00"), note="inside a transaction")
    try:
        with transaction.atomic():
            defer(charge, customer, Decimal("1000.00"), note="rolled back")
            raise InterruptedError
    except InterruptedError:
        pass
    repeated = defer(charge, customer, Decimal("99.00"), _name="the-last-one")
    wait_until("invoices", Invoice.objects.count, CALLS)
    wait_until("letters", Letter.objects.count, CALLS)
    executed = wait_until("audit events", partial(shop.count, "executed"), 2 * CALLS)
    yield Line("charges executed, seen as rows", str(CALLS), str(Invoice.objects.count()))
    yield Line("letters deferred by those tasks, executed", str(CALLS), str(Letter.objects.count()))
    yield Line("each recorded in the audit log", str(2 * CALLS), str(executed))
    yield Line("charge of the rolled back transaction", "0", str(Invoice.objects.filter(amount=1000).count()))
    yield Line("second task of one name", "not created", "not created" if repeated.created is False else "created")


def many(shop: Shop) -> Iterator[Line]:
    """Many calls in few requests."""
    from orders.models import Customer, Letter  # noqa: PLC0415  # Django is set up by now.
    from orders.tasks import write  # noqa: PLC0415

    from safedefer import defer_many  # noqa: PLC0415

    say(f"Deferring {MANY} letters in batches ...")
    customer = Customer.objects.get()
    handles = defer_many(write.bind(customer, f"batch {number}") for number in range(MANY))
    letters = Letter.objects.filter(text__startswith="batch ")
    wait_until("letters", letters.count, MANY)
    yield Line("calls of two batches, executed", str(len(handles)), str(letters.values("text").distinct().count()))


def lost_and_found(stage: Stage) -> Iterator[Line]:
    """A process that dies between its commit and the sending, and a task that fails until a person has looked."""
    from django.core.management import call_command  # noqa: PLC0415  # Django is set up by now.
    from orders.models import Customer, Invoice, Letter  # noqa: PLC0415
    from orders.tasks import confirm  # noqa: PLC0415

    from safedefer.flow.deadletters import list_letters  # noqa: PLC0415
    from safedefer.flow.runtime import current_runtime  # noqa: PLC0415

    say("Killing a process between the commit of an order and the sending of its letter ...")
    died = stage.manage("order_and_die", "--skip-checks", check=False)
    survived = Letter.objects.filter(text__contains="survived")
    yield Line("process that died after its commit", "9", str(died))
    with (FOLDER / "commands.log").open("w") as log:
        call_command("safedefer_outbox", "run", "--older-than", "0", stdout=log)
    wait_until("letters of the order", survived.count, 1)
    yield Line("its letter, sent from the outbox", "1", str(survived.count()))

    say("Deferring a confirmation that cannot work yet ...")
    ben = Customer.objects.create(name="Ben")
    confirm.defer(ben)
    records = current_runtime().records
    wait_until("dead letters", lambda: len(list(list_letters(records))), 1)
    yield Line("call that failed for the last time, kept", "1", str(len(list(list_letters(records)))))
    Invoice.objects.create(customer=ben, amount=Decimal("7.00"))
    with (FOLDER / "commands.log").open("a") as log:
        call_command("safedefer_deadletters", "redrive", "--all", stdout=log)
    confirmed = Letter.objects.filter(customer=ben)
    wait_until("confirmations", confirmed.count, 1)
    yield Line("executed when it was driven again", "1", str(confirmed.count()))


@contextmanager
def second_site(stage: Stage) -> Iterator[Shop]:
    """The same site once more, with its ledger and large bodies in Datastore."""
    say("Starting the shop once more, with its records in Datastore ...")
    process, origin = stage.start_site(SHOP_STORE="datastore")
    shop = Shop(origin)
    say(f"  {shop.origin}/_safedefer/")
    shop.use("datastore")
    yield shop
    stage.stop(process)
    stage.processes.remove(process)


def large_and_repeated(shop: Shop, store: str) -> Iterator[Line]:
    """A call that is larger than a task may be, and one call that the queue delivers three times."""
    from orders.models import Customer, Letter  # noqa: PLC0415  # Django is set up by now.
    from orders.tasks import write  # noqa: PLC0415

    from safedefer.core.records import RecordKind  # noqa: PLC0415
    from safedefer.flow.defer import seal_call  # noqa: PLC0415
    from safedefer.flow.runtime import current_runtime  # noqa: PLC0415

    say(f"Deferring a letter of {LARGE_BYTES:,} bytes, which no task can hold ...")
    customer = Customer.objects.get(name="Ada")
    letter = store[0] * LARGE_BYTES
    records = current_runtime().records
    write.defer(customer, letter)
    letters = Letter.objects.filter(text=letter)
    wait_until("large letters", letters.count, 1)
    wait_until("stored bodies removed", lambda: 1 - len(records.scan(RecordKind.OVERFLOW, limit=9)), 1)
    left = len(records.scan(RecordKind.OVERFLOW, limit=9))
    yield Line(f"call larger than a task, executed intact ({store})", "1", str(letters.count()))
    yield Line(f"its stored body, when it was done ({store})", "0", str(left))

    say("Having the queue deliver one call three times ...")
    runtime, function = current_runtime(), write.registered
    text = f"delivered three times ({store})"
    call: Any = seal_call(runtime, function, function.options, (customer, text), {})
    before = shop.count("already_executed", "lease_held")
    for _ in range(3):
        put_into_queue(shop, call.task.task.http_request.body, None)
    wait_until("repeats answered", lambda: shop.count("already_executed", "lease_held") - before, 2)
    yield Line(f"call delivered three times, executed ({store})", "1", str(Letter.objects.filter(text=text).count()))


def attacks(shop: Shop) -> Iterator[Line]:
    """Put forged tasks into the queue, as somebody could who may write to it, and see each refused."""
    from orders.models import Customer, Invoice  # noqa: PLC0415  # Django is set up by now.

    say("Attacking: forged tasks in the same queue, each carried by a genuine identity token ...")
    before = Invoice.objects.count()
    for name, body, audience, reason in forgeries(Customer.objects.get(name="Ada")):
        seen = len(shop.audit())
        put_into_queue(shop, body, audience)
        event = wait_for(f"refusal: {name}", partial(first_refusal, shop, seen))
        yield Line(f"refused: {name}", reason, event["reason"])
    yield Line("executed of all that was forged", "0", str(Invoice.objects.count() - before))


def forgeries(customer: Any) -> Iterator[tuple[str, bytes, str | None, str]]:
    """A name, a body, another audience or None, and the reason that is to be recorded."""
    from orders.tasks import charge  # noqa: PLC0415  # Django is set up by now.

    from safedefer.core.envelope import parse_envelope  # noqa: PLC0415
    from safedefer.core.keys import KeyState, derive_key  # noqa: PLC0415
    from safedefer.core.signing import sign_envelope, verify_envelope  # noqa: PLC0415
    from safedefer.flow.defer import seal_call  # noqa: PLC0415
    from safedefer.flow.runtime import current_runtime  # noqa: PLC0415

    runtime = current_runtime()
    function = charge.registered
    call: Any = seal_call(runtime, function, function.options, (customer, Decimal("5.00")), {})
    valid: bytes = call.task.task.http_request.body
    envelope = parse_envelope(valid)
    claims = verify_envelope(envelope, runtime.ring, runtime.deployment).claims
    stranger = derive_key(
        name="stranger",
        secret=secrets.token_bytes(32),
        state=KeyState.PRIMARY,
        environment=runtime.policy.environment,
        project=runtime.policy.project,
    )
    yield "a body that is no envelope", b"\x80\x04\x95 a pickle, perhaps" * 4, None, "frame_magic"
    yield "an argument changed: 5.00 to 9.00", valid.replace(b"5.00", b"9.00"), None, "body_digest"
    yield "a claim changed: another queue", valid.replace(b"\xa7default", b"\xa7defaulT"), None, "tag_invalid"
    yield "a stranger's key", sign_envelope(claims, envelope.body, stranger, runtime.deployment), None, "key_unknown"
    late = replace(claims, issued_at=1, not_before=1, expires_at=2)
    expired = sign_envelope(late, envelope.body, runtime.ring.primary, runtime.deployment)
    yield "a call of ours that has expired", expired, None, "expired"
    yield "a valid body, a token for somebody else", valid, "https://elsewhere.example", "token_audience"


def put_into_queue(shop: Shop, body: bytes, audience: str | None) -> None:
    """Create a task with the plain client, as anybody could who may write to the queue."""
    from google.cloud import tasks_v2  # noqa: PLC0415  # Late, like everything that opens connections.
    from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport  # noqa: PLC0415

    from safedefer.django.conf import LOCAL_SERVICE_ACCOUNT  # noqa: PLC0415
    from safedefer.gcp.local_channel import open_local_channel  # noqa: PLC0415

    url = f"{shop.origin}/_safedefer/"
    with open_local_channel(os.environ["CLOUD_TASKS_EMULATOR_HOST"]) as channel:
        client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
        task: Any = {
            "http_request": {
                "url": url,
                "headers": {"Content-Type": "application/vnd.safedefer.envelope"},
                "body": body,
                "oidc_token": {"service_account_email": LOCAL_SERVICE_ACCOUNT, "audience": audience or url},
            },
            # One attempt: a refused task would otherwise stay in the queue for a person to look at.
            "retry_config": {"max_attempts": 1},
        }
        client.create_task(parent="projects/local/locations/local1/queues/default", task=task)


def first_refusal(shop: Shop, seen: int) -> dict[str, Any] | None:
    """The first dispatch that was refused, among the audit events behind those that were seen before."""
    later = shop.audit()[seen:]
    return next((event for event in later if event["action"] == "dispatch" and not event["accepted"]), None)


def local_cloud_command() -> list[str]:
    """The command of the local cloud, on ports that the system chooses."""
    ports = ["--tasks-port", "0", "--issuer-port", "0", "--datastore-port", "0"]
    return ["-m", "safedefer.emulator", "--log-level", "WARNING", "--clock-file", str(CLOCK_FILE), *ports]


def print_where(shop: Shop, stage: Stage) -> None:
    """Where to look when everything is left running."""
    say("")
    say(f"Left running. The shop: {shop.origin}/   its handler: {shop.origin}/_safedefer/")
    say(f"Its clock, and that of the local cloud, is {CLOCK_FILE.read_text()} s ahead.")
    say("To go on by hand, paste this into a shell:")
    for name, value in stage.environment.items():
        say(f"  export {name}={value}")
    say(f"  export SHOP_HANDLER_URL={shop.origin}/_safedefer/ SHOP_FOLDER={FOLDER}")
    say(f"  cd {SHOP}")
    say(f"  {sys.executable} manage.py safedefer_iterations list")
    say(f"  {sys.executable} manage.py shell")
    say(f"Stop with: kill {' '.join(str(process.pid) for process in stage.processes)}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nStopped. Nothing is left running.")
