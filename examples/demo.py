"""`make demo`: the main job on this machine, with nothing replaced but Google's servers.

It starts the local cloud and the example site as processes of their own, defers calls through the official client,
waits until the local cloud has had them executed over HTTP, and then attacks the handler through the queue. It ends
with a report, and with exit status 0 only if everything that it reports was observed.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
SHOP: Final = ROOT / "examples" / "shop"
FOLDER: Final = ROOT / ".demo"
WAIT_SECONDS: Final = 20.0
CALLS: Final = 12
LARGE_BYTES: Final = 2_500_000
MANY: Final = 150
VISITORS: Final = 2_000
SHARDS: Final = 4
KEEP: Final = os.environ.get("KEEP") == "1"
"""Leave everything running at the end."""


@dataclass(frozen=True)
class Line:
    """One line of the report."""

    what: str
    expected: str
    observed: str

    @property
    def holds(self) -> bool:
        """Whether what was expected was observed."""
        return self.expected == self.observed


class Shop:
    """The running processes, and this one as their customer."""

    def __init__(self, origin: str, environment: dict[str, str] | None = None) -> None:
        self.origin = origin
        if environment is None:
            return
        os.environ.update(environment, SHOP_HANDLER_URL=f"{origin}/_safedefer/", SHOP_FOLDER=str(FOLDER))
        os.environ["DJANGO_SETTINGS_MODULE"] = "shopsite.settings"
        sys.path.insert(0, str(SHOP))
        import django  # noqa: PLC0415  # The settings need the addresses above.

        django.setup()

    def use(self, store: str = "orm") -> None:
        """Let what this process defers go to this site."""
        from django.conf import settings  # noqa: PLC0415  # Django is set up by now.

        from safedefer.django.setup import start  # noqa: PLC0415

        settings.SAFEDEFER = {"HANDLER_URL": f"{self.origin}/_safedefer/", "STORE": store}
        start()

    def audit(self) -> list[dict[str, Any]]:
        """The audit events of the site so far."""
        path = FOLDER / "audit.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line)["audit"] for line in lines]


def main() -> int:
    """Run the demo."""
    started = time.monotonic()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    with ExitStack() as stack:
        processes: list[subprocess.Popen[str]] = []
        say("Starting the local cloud: Cloud Tasks over gRPC, and a token issuer ...")
        environment = dict(read_exports(start(processes, stack, local_cloud_command(), {})))
        for name, value in environment.items():
            say(f"  {name}={value}")
        say("Starting the shop: a Django site with safedefer.urls mounted ...")
        manage(environment, "migrate", "--verbosity", "0", "--skip-checks")
        origin = read_line(start(processes, stack, [sys.executable, str(SHOP / "serve.py")], environment))
        say(f"  {origin}/_safedefer/")
        shop = Shop(origin, environment)
        report = [*main_job(shop), *many(shop), *lost_and_found(shop, environment), *every_row(shop)]
        report += large_and_repeated(shop, "orm")
        with second_site(processes, environment) as datastore_shop:
            report += large_and_repeated(datastore_shop, "datastore")
        shop.use()
        report += attacks(shop)
        ok = all(line.holds for line in report)
        print_report(report, time.monotonic() - started)
        if KEEP and ok:
            print_where(shop, environment, processes)
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
    executed = wait_until("audit events", partial(count_reason, shop, "executed"), 2 * CALLS)
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


def lost_and_found(shop: Shop, environment: dict[str, str]) -> Iterator[Line]:
    """A process that dies between its commit and the sending, and a task that fails until a person has looked."""
    from django.core.management import call_command  # noqa: PLC0415  # Django is set up by now.
    from orders.models import Customer, Invoice, Letter  # noqa: PLC0415
    from orders.tasks import confirm  # noqa: PLC0415

    from safedefer.flow.deadletters import list_letters  # noqa: PLC0415
    from safedefer.flow.runtime import current_runtime  # noqa: PLC0415

    say("Killing a process between the commit of an order and the sending of its letter ...")
    died = manage(environment, "order_and_die", "--skip-checks", check=False).returncode
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
def second_site(processes: list[subprocess.Popen[str]], environment: dict[str, str]) -> Iterator[Shop]:
    """The same site once more, with its ledger and large bodies in Datastore."""
    say("Starting the shop once more, with its records in Datastore ...")
    with ExitStack() as stack:
        given = {**environment, "SHOP_STORE": "datastore"}
        shop = Shop(read_line(start(processes, stack, [sys.executable, str(SHOP / "serve.py")], given)))
        say(f"  {shop.origin}/_safedefer/")
        shop.use("datastore")
        yield shop


def every_row(shop: Shop) -> Iterator[Line]:
    """A function for every row of a queryset, in shards, and another one at the end."""
    from orders.models import Customer, Letter  # noqa: PLC0415  # Django is set up by now.
    from orders.tasks import thank, thanked, visitors  # noqa: PLC0415

    from safedefer import defer_iteration_with_finalize  # noqa: PLC0415

    say(f"Walking {VISITORS:,} rows in {SHARDS} shards ...")
    Customer.objects.bulk_create(Customer(name=f"visitor {number}") for number in range(VISITORS))
    defer_iteration_with_finalize(visitors.bind(), thank, thanked, "thank you", _shards=SHARDS)
    letters = Letter.objects.filter(text="thank you")
    wait_until("rows", letters.count, VISITORS)
    finished = Letter.objects.filter(text="All: thank you")
    wait_until("finalize", finished.count, 1)
    yield Line("rows walked, each once", str(VISITORS), str(letters.values("customer").distinct().count()))
    yield Line("calls for them", str(VISITORS), str(letters.count()))
    yield Line("finalized", "1", str(finished.count()))


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
    before = count_reason(shop, "already_executed", "lease_held")
    for _ in range(3):
        put_into_queue(shop, call.task.task.http_request.body, None)
    wait_until("repeats answered", lambda: count_reason(shop, "already_executed", "lease_held") - before, 2)
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
    import grpc  # noqa: PLC0415  # Late, like everything that opens connections.
    from google.cloud import tasks_v2  # noqa: PLC0415
    from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport  # noqa: PLC0415

    from safedefer.django.conf import LOCAL_SERVICE_ACCOUNT  # noqa: PLC0415

    url = f"{shop.origin}/_safedefer/"
    with grpc.insecure_channel(os.environ["CLOUD_TASKS_EMULATOR_HOST"]) as channel:
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
    return [sys.executable, "-m", "safedefer.emulator", "--log-level", "WARNING", *ports]


def start(
    processes: list[subprocess.Popen[str]],
    stack: ExitStack,
    command: list[str],
    environment: dict[str, str],
) -> subprocess.Popen[str]:
    """Start a process that is stopped when the demo ends."""
    log = stack.enter_context((FOLDER / f"process-{len(processes) + 1}.log").open("w"))
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment, "SHOP_FOLDER": str(FOLDER)},
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=KEEP,
    )
    processes.append(process)
    stack.callback(stop, process)
    return process


def stop(process: subprocess.Popen[str]) -> None:
    """Ask a process to end, and make sure that it does."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def manage(environment: dict[str, str], *command: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    """Run a command of the shop's in a process of its own."""
    return subprocess.run(
        [sys.executable, str(SHOP / "manage.py"), *command],
        env={**os.environ, **environment, "SHOP_FOLDER": str(FOLDER)},
        check=check,
    )


def read_line(process: subprocess.Popen[str]) -> str:
    """The next line of a process's output, or the end of the demo with what it had to say."""
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        logs = "".join(path.read_text() for path in sorted(FOLDER.glob("process-*.log")))
        raise SystemExit(f"{' '.join(str(part) for part in process.args)} did not start:\n{logs}")  # type: ignore[union-attr]
    return line


def read_exports(process: subprocess.Popen[str]) -> Iterator[tuple[str, str]]:
    """The variables that the local cloud asks to export."""
    while (line := read_line(process)).startswith("export "):
        name, _, value = line.removeprefix("export ").partition("=")
        yield name, value


def count_reason(shop: Shop, *reasons: str) -> int:
    """How many audit events have one of these reasons."""
    return sum(event["reason"] in reasons for event in shop.audit())


def wait_until(what: str, count: Callable[[], int], wanted: int) -> int:
    """Wait until a count is reached, showing it; the last count seen."""
    until = time.monotonic() + WAIT_SECONDS
    while (seen := count()) < wanted and time.monotonic() < until:
        progress(f"  {seen} of {wanted} {what}")
        time.sleep(0.05)
    progress(f"  {seen} of {wanted} {what}", end="\n")
    return seen


def wait_for(what: str, look: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
    """Wait until something is found."""
    until = time.monotonic() + WAIT_SECONDS
    while (found := look()) is None and time.monotonic() < until:
        time.sleep(0.05)
    say(f"  {what}: {'seen' if found else 'NOT seen'}")
    return found or {"reason": "nothing"}


def print_report(report: list[Line], seconds: float) -> None:
    """The report."""
    width = max(len(line.what) for line in report)
    say("")
    for line in report:
        mark = "ok  " if line.holds else "FAIL"
        wanted = "" if line.holds else f"   (expected {line.expected})"
        say(f"{mark}  {line.what:<{width}}  {line.observed}{wanted}")
    failed = sum(not line.holds for line in report)
    say("")
    say(f"{len(report) - failed} of {len(report)} as expected, in {seconds:.1f} s. Audit log: .demo/audit.jsonl")


def print_where(shop: Shop, environment: dict[str, str], processes: list[subprocess.Popen[str]]) -> None:
    """Where to look when everything is left running."""
    say("")
    say(f"Left running. The shop: {shop.origin}/   its handler: {shop.origin}/_safedefer/")
    for name, value in environment.items():
        say(f"export {name}={value}")
    say(f"export SHOP_HANDLER_URL={shop.origin}/_safedefer/ SHOP_FOLDER={FOLDER}")
    say("Then, in examples/shop: python manage.py shell")
    say(f"Stop with: kill {' '.join(str(process.pid) for process in processes)}")


def say(text: str) -> None:
    """Print a line."""
    print(text, flush=True)


def progress(text: str, end: str = "") -> None:
    """Show how far something is: in place on a terminal, once where there is none."""
    if sys.stdout.isatty():
        print(f"\r{text}", end=end, flush=True)
    elif end:
        print(text, end=end, flush=True)


if __name__ == "__main__":
    sys.exit(main())
