"""RecordStore over Google Cloud Datastore.

A record is one entity, named by its id under a Datastore kind of its own kind. None of its properties is indexed:
indexes would cost a write each, and one on a time would be a hotspot. A TTL policy may be set on `expires`.

`attempt` is a random token of one commit. A commit that ends without an answer may have been made: whoever finds its
own token knows that it was. Who finds something else instead knows nothing, since another may have written over it.
"""

import random
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, final

from google.api_core import exceptions
from google.api_core.retry import Retry, if_exception_type
from google.cloud.datastore_v1.services.datastore import DatastoreClient
from google.cloud.datastore_v1.services.datastore.transports import DatastoreGrpcTransport
from google.cloud.datastore_v1.types import (
    CommitRequest,
    CompositeFilter,
    Entity,
    Filter,
    Key,
    KindExpression,
    Mutation,
    PartitionId,
    PropertyFilter,
    PropertyMask,
    PropertyOrder,
    PropertyReference,
    Query,
    QueryResultBatch,
    ReadOptions,
    TransactionOptions,
    Value,
)

from safedefer.core.records import MAX_RECORD_BYTES, Change, Put, Record, RecordKey, RecordKind
from safedefer.errors import RecordConflictError, StoreUnavailableError
from safedefer.gcp.client_logs import hide_payloads
from safedefer.gcp.faults import AmbiguousCommit, CommitAborted, EntityExists, calling_store
from safedefer.gcp.local_channel import open_local_channel
from safedefer.gcp.per_process import PerProcess

_MORE: Final = frozenset(
    {
        QueryResultBatch.MoreResultsType.NOT_FINISHED,
        QueryResultBatch.MoreResultsType.MORE_RESULTS_AFTER_LIMIT,
    }
)
_KINDS: Final[Mapping[RecordKind, str]] = {
    RecordKind.LEDGER: "SafedeferLedger",
    RecordKind.OVERFLOW: "SafedeferOverflow",
    RecordKind.DEAD: "SafedeferDead",
    RecordKind.DEAD_ENVELOPE: "SafedeferDeadEnvelope",
    RecordKind.RUN: "SafedeferRun",
    RecordKind.PLAN: "SafedeferPlan",
    RecordKind.SHARD: "SafedeferShard",
}
# A response has to stay below 4 MiB, the limit of the client's channel.
_MOST_RESPONSE_BYTES: Final = 3_800_000
_MOST_KEYS: Final = 1_000
"""Of one lookup."""

MOST_BYTES: Final[Mapping[RecordKind, int]] = {
    **dict.fromkeys(RecordKind, MAX_RECORD_BYTES),
    # What these are is known: their entities are small, and there may be thousands of them.
    RecordKind.LEDGER: 1_000,
    RecordKind.RUN: 10_000,
    RecordKind.SHARD: 36_000,
}
"""How large records of a kind are, in bytes."""

_LAST_NUMBER: Final = (1 << 63) - 1
"""Entities with numeric ids, which are none of ours, come before those with names; this is the last of them."""

_READ_RETRY: Final = Retry(
    predicate=if_exception_type(
        exceptions.ServiceUnavailable, exceptions.DeadlineExceeded, exceptions.InternalServerError, exceptions.Aborted
    ),
    initial=0.05,
    multiplier=2.0,
    maximum=2.0,
)
_COMMIT_TRIES: Final = 8
_FIRST_WAIT_SECONDS: Final = 0.02
_ATTEMPT_BYTES: Final = 16


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DatastoreTarget:
    """Which database records are kept in.

    Attributes:
        database: Empty for the default database.
        namespace: Empty for the default namespace.
        emulator_host: host:port of a local Datastore; None means Google's.
        try_seconds: How long one request may take.
        all_seconds: When no further request is begun for one operation; so it ends one or two requests later.
    """

    project: str
    database: str = ""
    namespace: str = ""
    emulator_host: str | None = None
    try_seconds: float = 10.0
    all_seconds: float = 20.0


@final
class DatastoreRecords:
    """Keeps records as entities. One client for each process, made on first use."""

    def __init__(self, target: DatastoreTarget) -> None:
        self._target = target
        self._client = PerProcess(self._make_client)

    def get(self, keys: Sequence[RecordKey]) -> Mapping[RecordKey, Record]:
        """Read records, a few in each request."""
        records: dict[RecordKey, Record] = {}
        until = self._end()
        for some in _in_lookups(keys):
            for entity in self._lookup(some, until):
                record = _record(entity)
                records[record.key] = record
        return records

    def scan(self, kind: RecordKind, *, after: str = "", limit: int) -> Sequence[Record]:
        """Read records by a query over keys, which needs no index of its own."""
        name = PropertyReference(name="__key__")
        behind = self._key(RecordKey(kind, after)) if after else self._last_number(kind)
        names = PropertyFilter(property=name, op=PropertyFilter.Operator.GREATER_THAN, value=Value(key_value=behind))
        query = Query(
            kind=[KindExpression(name=_KINDS[kind])],
            filter=Filter(
                composite_filter=CompositeFilter(
                    op=CompositeFilter.Operator.AND, filters=[Filter(property_filter=names)]
                )
            ),
            order=[PropertyOrder(property=name, direction=PropertyOrder.Direction.ASCENDING)],
            limit=min(limit, _MOST_RESPONSE_BYTES // MOST_BYTES[kind]),
        )
        until = self._end()
        with calling_store("query"):
            while True:
                batch = self._query(query, until)
                records = [_record(result.entity) for result in batch.entity_results if _is_ours(result.entity)]
                # No result is not yet the end: the service may answer before it has looked through everything.
                if records or batch.more_results not in _MORE:
                    return records
                query.start_cursor = batch.end_cursor

    def _query(self, query: Query, until: float) -> QueryResultBatch:
        response = self._client.get().run_query(
            request={
                "project_id": self._target.project,
                "database_id": self._target.database,
                "partition_id": self._partition(),
                "query": query,
            },
            retry=_retry_until(until),
            timeout=self._target.try_seconds,
        )
        return response.batch

    def commit(self, changes: Sequence[Change]) -> None:
        """Make all changes in one commit; a transaction that the service aborted is run again as a whole."""
        attempt = secrets.token_bytes(_ATTEMPT_BYTES)
        until = self._end()
        wait = _FIRST_WAIT_SECONDS
        unanswered = False
        with calling_store("commit"):
            for left in reversed(range(_COMMIT_TRIES)):
                try:
                    self._commit_once(changes, attempt, until, unanswered=unanswered)
                except (CommitAborted, AmbiguousCommit) as error:
                    unanswered |= isinstance(error, AmbiguousCommit)
                    if left == 0 or time.monotonic() + wait > until:
                        raise
                except EntityExists:
                    if unanswered and self._has_landed(changes, attempt, until):
                        return
                    raise _conflict("a record that was to be new exists", unanswered=unanswered) from None
                else:
                    return
                time.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311  # Writers that collided come back apart.
                wait *= 2

    def _commit_once(self, changes: Sequence[Change], attempt: bytes, until: float, *, unanswered: bool) -> None:
        request = CommitRequest(
            project_id=self._target.project,
            database_id=self._target.database,
            mode=CommitRequest.Mode.TRANSACTIONAL,
            mutations=[self._mutation(change, attempt) for change in changes],
        )
        if all(isinstance(change, Put) and change.expected is None for change in changes):
            # A new record needs no look before: the service refuses an insert of what exists.
            request.single_use_transaction = TransactionOptions(read_write={})
        else:
            transaction, found = self._begin_with_lookup([change.key for change in changes], until)
            if unanswered and _all_have(found, attempt, changes):
                self._rollback(transaction)
                return
            if not _have_expected_versions(found, changes):
                self._rollback(transaction)
                raise _conflict("a record has another version than its change expects", unanswered=unanswered)
            request.transaction = transaction
        with calling_store("commit", ambiguous=True):
            self._client.get().commit(request=request, timeout=self._target.try_seconds)

    def _has_landed(self, changes: Sequence[Change], attempt: bytes, until: float) -> bool:
        keys = [change.key for change in changes]
        found = [entity for some in _in_lookups(keys) for entity in self._lookup(some, until)]
        return bool(found) and all(_field(entity, "attempt").blob_value == attempt for entity in found)

    def _begin_with_lookup(self, keys: Sequence[RecordKey], until: float) -> tuple[bytes, Sequence[Entity]]:
        """Begin a transaction with the read that it rests on: of versions, since data would not fit into a response."""
        transaction = b""
        found: list[Entity] = []
        wanted = [self._key(key) for key in keys]
        while wanted:
            options = (
                ReadOptions(transaction=transaction)
                if transaction
                else ReadOptions(new_transaction=TransactionOptions(read_write={}))
            )
            response = self._client.get().lookup(
                request={
                    "project_id": self._target.project,
                    "database_id": self._target.database,
                    "keys": wanted[:_MOST_KEYS],
                    "read_options": options,
                    "property_mask": PropertyMask(paths=["version", "attempt"]),
                },
                retry=_retry_until(until),
                timeout=self._target.try_seconds,
            )
            transaction = transaction or response.transaction
            found += [result.entity for result in response.found]
            wanted = [*response.deferred, *wanted[_MOST_KEYS:]]
        return transaction, found

    def _rollback(self, transaction: bytes) -> None:
        try:
            self._client.get().rollback(
                request={
                    "project_id": self._target.project,
                    "database_id": self._target.database,
                    "transaction": transaction,
                },
                timeout=self._target.try_seconds,
            )
        except exceptions.GoogleAPIError:
            return  # It only frees locks early; the service drops an idle transaction after a minute.

    def _end(self) -> float:
        return time.monotonic() + self._target.all_seconds

    def _lookup(self, keys: Sequence[RecordKey], until: float) -> list[Entity]:
        found: list[Entity] = []
        wanted = [self._key(key) for key in keys]
        with calling_store("lookup"):
            while wanted:
                response = self._client.get().lookup(
                    request={
                        "project_id": self._target.project,
                        "database_id": self._target.database,
                        "keys": wanted,
                    },
                    retry=_retry_until(until),
                    timeout=self._target.try_seconds,
                )
                found += [result.entity for result in response.found]
                wanted = list(response.deferred)
        return found

    def _mutation(self, change: Change, attempt: bytes) -> Mutation:
        if not isinstance(change, Put):
            return Mutation(delete=self._key(change.key))
        entity = Entity(
            key=self._key(change.key),
            properties={
                "data": Value(blob_value=change.data, exclude_from_indexes=True),
                "version": Value(integer_value=change.version, exclude_from_indexes=True),
                "attempt": Value(blob_value=attempt, exclude_from_indexes=True),
                "expires": Value(
                    timestamp_value=datetime.fromtimestamp(change.expires_at, UTC), exclude_from_indexes=True
                ),
            },
        )
        return Mutation(insert=entity) if change.expected is None else Mutation(update=entity)

    def _key(self, key: RecordKey) -> Key:
        return Key(partition_id=self._partition(), path=[Key.PathElement(kind=_KINDS[key.kind], name=key.id)])

    def _last_number(self, kind: RecordKind) -> Key:
        return Key(partition_id=self._partition(), path=[Key.PathElement(kind=_KINDS[kind], id=_LAST_NUMBER)])

    def _partition(self) -> PartitionId:
        target = self._target
        return PartitionId(project_id=target.project, database_id=target.database, namespace_id=target.namespace)

    def _make_client(self) -> DatastoreClient:
        hide_payloads(DatastoreGrpcTransport)
        host = self._target.emulator_host
        if host is None:
            return DatastoreClient()
        return DatastoreClient(transport=DatastoreGrpcTransport(channel=open_local_channel(host)))


def _in_lookups(keys: Sequence[RecordKey]) -> Iterator[Sequence[RecordKey]]:
    """Keys in groups whose records fit into a response."""
    some: list[RecordKey] = []
    size = 0
    for key in keys:
        size += MOST_BYTES[key.kind]
        if some and (size > _MOST_RESPONSE_BYTES or len(some) == _MOST_KEYS):
            yield some
            some, size = [], MOST_BYTES[key.kind]
        some.append(key)
    if some:
        yield some


def _record(entity: Entity) -> Record:
    # The message wrapper hands out a datetime, whatever its annotations say.
    expires: Any = _field(entity, "expires").timestamp_value
    return Record(
        key=_key_of(entity),
        version=_version_of(entity),
        data=bytes(_field(entity, "data").blob_value),
        expires_at=0 if expires is None else int(expires.timestamp()),
    )


def _is_ours(entity: Entity) -> bool:
    """Whether it stands where a record of ours would: others may have put theirs below one, or under a number."""
    path = entity.key.path
    return len(path) == 1 and bool(path[0].name)


def _key_of(entity: Entity) -> RecordKey:
    element = entity.key.path[-1]
    return RecordKey(next(kind for kind, name in _KINDS.items() if name == element.kind), element.name)


def _version_of(entity: Entity) -> int:
    return int(_field(entity, "version").integer_value)


def _field(entity: Entity, name: str) -> Value:
    """One property; an empty value where somebody else has written an entity without it."""
    return entity.properties[name] if name in entity.properties else Value()


def _retry_until(until: float) -> Retry:
    return _READ_RETRY.with_timeout(max(until - time.monotonic(), 0.0))


def _have_expected_versions(found: Sequence[Entity], changes: Sequence[Change]) -> bool:
    versions = {_key_of(entity): _version_of(entity) for entity in found}
    return all(versions.get(change.key) == change.expected for change in changes)


def _conflict(text: str, *, unanswered: bool) -> RecordConflictError | StoreUnavailableError:
    """The error of a commit that found other versions. A conflict promises that nothing was changed."""
    if unanswered:
        return StoreUnavailableError(f"a commit ended without an answer, and {text}: it may have been made")
    return RecordConflictError(text)


def _all_have(found: Sequence[Entity], attempt: bytes, changes: Sequence[Change]) -> bool:
    """Whether an earlier try of this commit was made: what it put is there, what it deleted is not."""
    attempts = {_key_of(entity): _field(entity, "attempt").blob_value for entity in found}
    return all(
        attempts.get(change.key) == attempt if isinstance(change, Put) else change.key not in attempts
        for change in changes
    )
