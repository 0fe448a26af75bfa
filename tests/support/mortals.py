"""One life of a worker that is killed at a given moment: the real ports, each of which says what it is about to do.

A moment is a text, such as `row` or `plan committed`; a death names one and how often it is reached before. Between two
moments a worker changes nothing that would outlive it.
"""

import os
import signal
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock, Thread, local
from typing import Any, Final, NamedTuple
from wsgiref.types import WSGIApplication

from safedefer.core.iteration.rows import parse_run, parse_shard
from safedefer.core.iteration.state import RunState, Shard, ShardState
from safedefer.core.ports import OutgoingTask, RecordStore, SendableTask, TaskSender
from safedefer.core.records import Change, Put, Record, RecordKey, RecordKind
from safedefer.django.conf import LOCAL_SERVICE_ACCOUNT, read_settings
from safedefer.django.records import OrmRecords
from safedefer.django.setup import build_runtime
from safedefer.errors import SafeDeferError
from safedefer.flow.ledger import Ledger
from safedefer.flow.runtime import Runtime, install
from safedefer.gcp.datastore import DatastoreRecords, DatastoreTarget
from safedefer.gcp.jwks import KeySetCache, fetch_key_set
from safedefer.gcp.oidc import OidcVerifier, TokenPolicy
from tests.site.shop import tasks
from tests.site.shop.models import Trace
from tests.support.serve import Server
from tests.support.site import site_settings

ANY: Final = "any"
"""Every moment is one of these, too."""


class Death(NamedTuple):
    """The `number`th time that a moment is reached in a life."""

    moment: str
    number: int = 1


class FileClock:
    """Reads the time from a file, which a test writes. A thread's own time goes on a little with each row."""

    def __init__(self, path: Path, row_seconds: float = 0.0) -> None:
        self._path = path
        self._row_seconds = row_seconds
        # Each request has a thread of its own, so that it begins where the test's clock stands.
        self._spent = local()

    def time(self) -> float:
        """Seconds since 1970."""
        spent: float = getattr(self._spent, "seconds", 0.0)
        return float(self._path.read_text()) + spent

    def aware(self, moment: datetime) -> datetime:
        """With a time zone."""
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)

    def watch(self, moment: str) -> None:
        """Let a row take its time."""
        if moment == "visited":
            self._spent.seconds = getattr(self._spent, "seconds", 0.0) + self._row_seconds


class Fate:
    """Kills its own process when the moment has come."""

    def __init__(self, death: Death | None) -> None:
        self._death = death
        self._reached: Counter[str] = Counter()
        self._lock = Lock()

    def reach(self, moment: str) -> None:
        """Be there, and perhaps no further."""
        with self._lock:
            for name in (moment, ANY):
                self._reached[name] += 1
                if self._death == (name, self._reached[name]):
                    os.kill(os.getpid(), signal.SIGKILL)


class WatchedRecords:
    """A store of records that says what is read and written, and leaves a trace of each claim of a shard."""

    def __init__(self, real: RecordStore, fate: Fate) -> None:
        self._real = real
        self._fate = fate
        self._fences: dict[int, int] = {}

    def get(self, keys: Sequence[RecordKey]) -> Mapping[RecordKey, Record]:
        self._fate.reach("read")
        return self._real.get(keys)

    def scan(self, kind: RecordKind, *, after: str = "", limit: int) -> Sequence[Record]:
        return self._real.scan(kind, after=after, limit=limit)

    def commit(self, changes: Sequence[Change]) -> None:
        shard = next(map(_shard, _puts(changes, RecordKind.SHARD)), None)
        moment = self._name(changes, shard)
        self._fate.reach(moment)
        self._real.commit(changes)
        if shard is not None and moment == "claim":
            self._fences[shard.index] = shard.fence
            Trace.objects.create(text=f"claim {shard.index} {shard.processed}")
        self._fate.reach(f"{moment} committed")

    def _name(self, changes: Sequence[Change], shard: Shard | None) -> str:
        for put in _puts(changes, RecordKind.RUN):
            state = parse_run(_record(put)).state
            if put.expected is None:
                return "plan"
            return "finish" if state is RunState.RUNNING else str(state)
        if shard is None:
            return "ledger" if _puts(changes, RecordKind.LEDGER) else "removal"
        if shard.state is ShardState.READY:
            return "hand-over"
        return "checkpoint" if self._fences.get(shard.index) == shard.fence else "claim"


def _puts(changes: Sequence[Change], kind: RecordKind) -> list[Put]:
    return [change for change in changes if isinstance(change, Put) and change.key.kind is kind]


def _record(put: Put) -> Record:
    return Record(key=put.key, version=put.version, data=put.data, expires_at=put.expires_at)


def _shard(put: Put) -> Shard:
    return parse_shard(_record(put))


class WatchedSender:
    """A sender that says when a task is created, and when it was."""

    def __init__(self, real: TaskSender, fate: Fate) -> None:
        self._real = real
        self._fate = fate

    def prepare(self, task: OutgoingTask) -> SendableTask:
        return self._real.prepare(task)

    def send(self, task: SendableTask) -> bool:
        self._fate.reach("send")
        created = self._real.send(task)
        self._fate.reach("sent")
        return created

    def send_many(self, tasks: Sequence[SendableTask]) -> Sequence[bool | SafeDeferError]:
        return self._real.send_many(tasks)


def site_runtime(origin: str, environment: Mapping[str, str], store: str, alias: str, clock: FileClock) -> Runtime:
    """The runtime of a site at `origin`, whose whole time is the clock's."""
    settings, problems = read_settings(site_settings(origin), environment)
    assert settings is not None, problems
    assert settings.local is not None
    runtime = build_runtime(settings)
    issuer, address = settings.local.issuer, settings.local.datastore_host
    target = DatastoreTarget(project="local", emulator_host=address, try_seconds=2.0, all_seconds=4.0)
    records: RecordStore = OrmRecords(alias) if store == "orm" else DatastoreRecords(target)
    policy = TokenPolicy(issuer=issuer, audience=settings.audience, emails=frozenset({LOCAL_SERVICE_ACCOUNT}))
    keys = KeySetCache(lambda: fetch_key_set(f"{issuer}/oauth2/v3/certs"))
    return replace(
        runtime,
        clock=clock,
        records=records,
        records_using="default" if store == "orm" else None,  # The worker's name for the one database that it has.
        ledger=Ledger(records, clock),
        tokens=OidcVerifier(policy, keys.find, clock.time),
    )


def work(server: Server, application: WSGIApplication, origin: str, job: dict[str, Any], life: int) -> None:
    """Serve until a line comes in, or death does."""
    deaths = [Death(*death) for death in job["deaths"]]
    fate = Fate(deaths[life] if life < len(deaths) else None)
    clock = FileClock(Path(job["clock"]), job["row_seconds"])
    real = site_runtime(origin, job["environment"], job["store"], "default", clock)
    records = WatchedRecords(real.records, fate)
    sender = WatchedSender(real.sender, fate)
    runtime = replace(real, records=records, ledger=Ledger(records, clock), sender=sender)
    install(lambda: runtime)
    tasks.watchers[:] = [fate.reach, clock.watch]
    Trace.objects.create(text=f"life {life}")
    server.set_app(application)
    Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.readline()
    os._exit(0)
