"""Journeys through a cloud that misbehaves: nothing is lost, nothing runs twice, nothing runs unrecorded.

The cloud and the site share a clock that moves only when told, so that backoffs and leases pass at once.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from grpc import StatusCode

from safedefer import defer
from safedefer.core.ledger import LedgerState, parse_entry
from safedefer.core.ports import RecordStore
from safedefer.core.records import RecordKind
from safedefer.django.conf import LOCAL_SERVICE_ACCOUNT, read_settings
from safedefer.django.records import OrmRecords
from safedefer.django.setup import build_runtime
from safedefer.emulator import LocalCloud
from safedefer.emulator import ManualClock as CloudClock
from safedefer.errors import QueueNotFoundError, QueueUnavailableError, Reason, SafeDeferError, TaskRefusedError
from safedefer.flow.ledger import Ledger
from safedefer.flow.runtime import install_problem
from safedefer.gcp.datastore import DatastoreRecords, DatastoreTarget
from safedefer.gcp.jwks import KeySetCache, fetch_key_set
from safedefer.gcp.oidc import OidcVerifier, TokenPolicy
from tests.site.shop import tasks
from tests.support.site import WAIT_SECONDS, Site, site_settings

QUEUE = "projects/local/locations/local1/queues/default"
TASKS = 40
SEEDS = [1, 7, 20_261_123]
ROUNDS = 60
pytestmark = pytest.mark.django_db(transaction=True)
STEP_SECONDS = 700.0
"""Longer than a lease, so that each round brings whatever was put off in the one before."""


class SiteClock:
    """The cloud's clock, as the site reads it."""

    def __init__(self, clock: CloudClock) -> None:
        self._clock = clock

    def time(self) -> float:
        """Seconds since 1970."""
        return self._clock.now().timestamp()

    def aware(self, moment: datetime) -> datetime:
        """With a time zone."""
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


@pytest.fixture
def clock() -> CloudClock:
    return CloudClock(datetime.now(UTC))


@pytest.fixture
def seed() -> int:
    return SEEDS[0]


@pytest.fixture
def cloud(clock: CloudClock, seed: int) -> Iterator[LocalCloud]:
    with LocalCloud(queues=[QUEUE], clock=clock, seed=seed) as running:
        yield running


@pytest.fixture(params=["orm", "datastore"])
def store(request: pytest.FixtureRequest, cloud: LocalCloud) -> RecordStore:
    """Records in a table or in the local Datastore, whose answers are waited for as long as a test has time."""
    if request.param == "orm":
        return OrmRecords()
    address = cloud.datastore.address
    return DatastoreRecords(DatastoreTarget(project="local", emulator_host=address, try_seconds=1.0, all_seconds=1.5))


@pytest.fixture
def site(live_server: Any, cloud: LocalCloud, clock: CloudClock, store: RecordStore, events: Any) -> Iterator[Site]:
    """A site whose whole time is the cloud's."""
    parsed, problems = read_settings(site_settings(live_server.url), cloud.environment())
    assert parsed is not None, problems
    site = Site(origin=live_server.url, cloud=cloud, runtime=build_runtime(parsed), events=events)
    policy = TokenPolicy(issuer=cloud.issuer.url, audience=site.url, emails=frozenset({LOCAL_SERVICE_ACCOUNT}))
    keys = KeySetCache(lambda: fetch_key_set(cloud.issuer.jwks_url))
    time = SiteClock(clock)
    tokens = OidcVerifier(policy, keys.find, time.time)
    site.use(clock=time, records=store, ledger=Ledger(store, time), tokens=tokens)
    yield site
    # The servers stop behind this: what is in flight must have ended, or it would find no site.
    cloud.tasks.faults.reset()
    assert cloud.tasks.wait_settled(WAIT_SECONDS)
    install_problem("this test has no site")


def run_dry(site: Site, clock: CloudClock) -> None:
    """Let time pass until no task is left."""
    for _ in range(ROUNDS):
        assert site.cloud.tasks.wait_settled(WAIT_SECONDS), "the local cloud did not settle"
        if not site.tasks():
            return
        clock.advance(STEP_SECONDS)
    pytest.fail("tasks are left")


def assert_each_completed_once(site: Site, store: RecordStore, texts: list[str]) -> None:
    """Every call ran once, and the ledger has each as done, with nothing beside."""
    site.cloud.datastore.faults.reset()
    assert Counter(site.traces()) == Counter(f"note {text}" for text in texts)
    states = []
    after = ""
    while page := store.scan(RecordKind.LEDGER, after=after, limit=100):
        states += [parse_entry(record.data).state for record in page]
        after = page[-1].key.id
    assert states == [LedgerState.DONE] * len(texts)


@pytest.mark.parametrize("seed", SEEDS)
def test_each_function_completes_once_whatever_befalls_its_deliveries(
    site: Site, store: RecordStore, clock: CloudClock
) -> None:
    faults = site.cloud.tasks.faults
    faults.load("duplicate=0.4,drop-response=0.4,reorder=0.5,delay=0.3:30")
    texts = [f"task {number}" for number in range(TASKS)]
    names = [defer(tasks.note, text, _countdown=60).task_name for text in texts]
    run_dry(site, clock)
    assert all(faults.happened[kind] for kind in ("duplicate", "drop-response", "reorder", "delay"))
    dispatched = sorted(site.cloud.tasks.attempts, key=lambda attempt: attempt.dispatched_at)
    assert list(dict.fromkeys(attempt.task for attempt in dispatched)) != names
    assert_each_completed_once(site, store, texts)
    reasons = Counter(event.reason for event in site.dispatches())
    assert reasons[Reason.EXECUTED] == TASKS
    assert reasons[Reason.ALREADY_EXECUTED] >= faults.happened["drop-response"] // 2


@pytest.mark.parametrize("store", ["orm"], indirect=True)
def test_function_without_a_ledger_runs_as_often_as_it_is_delivered(site: Site, clock: CloudClock) -> None:
    site.cloud.tasks.faults.once("duplicate")
    site.cloud.tasks.faults.once("drop-response")
    defer(tasks.forgetful, "x")
    run_dry(site, clock)
    assert site.traces() == ["forgetful x"] * len(site.cloud.tasks.attempts)
    assert len(site.cloud.tasks.attempts) >= 2


@pytest.mark.parametrize("seed", SEEDS)
def test_each_function_is_deferred_once_however_creates_are_answered(
    site: Site, store: RecordStore, clock: CloudClock
) -> None:
    faults = site.cloud.tasks.faults
    faults.load("refuse-create=0.2,ambiguous-create=0.3:DEADLINE_EXCEEDED")
    texts: list[str] = []
    unknown: set[str] = set()
    for number in range(TASKS):
        text = f"task {number}"
        try:
            assert defer(tasks.note, text).created is True
        except QueueUnavailableError:  # It was not answered for as long as it was tried: it may exist, once.
            unknown.add(text)
        else:
            texts.append(text)
    assert len(texts) > TASKS // 2
    assert all(faults.happened[kind] for kind in ("refuse-create", "ambiguous-create"))
    faults.reset()
    run_dry(site, clock)
    made = unknown & {trace.removeprefix("note ") for trace in site.traces()}
    assert_each_completed_once(site, store, [*texts, *made])


@pytest.mark.parametrize("store", ["orm"], indirect=True)
@pytest.mark.parametrize(
    ("code", "error"),
    [
        (StatusCode.PERMISSION_DENIED, TaskRefusedError),
        (StatusCode.UNAUTHENTICATED, TaskRefusedError),
        (StatusCode.INVALID_ARGUMENT, TaskRefusedError),
        (StatusCode.NOT_FOUND, QueueNotFoundError),
        (StatusCode.FAILED_PRECONDITION, QueueNotFoundError),
        (StatusCode.UNAVAILABLE, QueueUnavailableError),
        (StatusCode.RESOURCE_EXHAUSTED, QueueUnavailableError),
        (StatusCode.UNKNOWN, QueueUnavailableError),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_refused_create_is_told_to_who_can_act_and_leaves_no_task(
    site: Site, code: StatusCode, error: type[SafeDeferError]
) -> None:
    site.cloud.tasks.faults.set("refuse-create", 1, code=code)
    with pytest.raises(error):
        defer(tasks.note, "x")
    assert site.tasks() == []
    site.run_tasks()
    assert site.traces() == []


@pytest.mark.parametrize("store", ["datastore"], indirect=True)
@pytest.mark.parametrize("seed", SEEDS)
def test_store_that_aborts_half_of_the_commits_loses_nothing(site: Site, store: RecordStore, clock: CloudClock) -> None:
    site.cloud.datastore.faults.load("abort=0.5,ambiguous-commit=0.1")
    texts = [f"task {number}" for number in range(TASKS // 2)]
    for text in texts:
        defer(tasks.note, text)
    run_dry(site, clock)
    happened = site.cloud.datastore.faults.happened
    assert happened["abort"] >= TASKS // 2
    assert happened["ambiguous-commit"]
    assert_each_completed_once(site, store, texts)


OUTAGES = ["refuse=1", "refuse=1:INTERNAL", "refuse=1:PERMISSION_DENIED", "slow=1"]


@pytest.mark.parametrize("store", ["datastore"], indirect=True)
@pytest.mark.parametrize("outage", OUTAGES)
def test_store_that_is_down_or_slow_holds_every_call_back_and_drops_none(
    site: Site, store: RecordStore, clock: CloudClock, outage: str
) -> None:
    site.cloud.datastore.faults.load(outage)
    texts = ["a", "b", "c"]
    for text in texts:
        defer(tasks.note, text)
    assert site.cloud.tasks.wait_settled(WAIT_SECONDS)
    assert [attempt.status for attempt in site.cloud.tasks.attempts] == [503] * 3
    assert {event.reason for event in site.dispatches()} == {Reason.STORE_UNAVAILABLE}
    assert site.traces() == []
    assert len(site.tasks()) == 3
    site.cloud.datastore.faults.reset()
    run_dry(site, clock)
    assert_each_completed_once(site, store, texts)


@pytest.mark.parametrize("store", ["datastore"], indirect=True)
@pytest.mark.parametrize("fault", ["refuse", "abort", "ambiguous-commit"])
def test_nothing_runs_while_its_claim_is_not_recorded(
    site: Site, store: RecordStore, clock: CloudClock, fault: str
) -> None:
    # Reads are answered; commits are not, or in a way that nothing can be made of.
    site.cloud.datastore.faults.set("abort", 1)
    if fault != "abort":
        site.cloud.datastore.faults.once(fault)
    defer(tasks.note, "x")
    assert site.cloud.tasks.wait_settled(WAIT_SECONDS)
    assert [attempt.status for attempt in site.cloud.tasks.attempts] == [503]
    assert site.traces() == []
    site.cloud.datastore.faults.reset()
    run_dry(site, clock)
    assert_each_completed_once(site, store, ["x"])
