"""The eight methods of google.datastore.v1.Datastore, over one storage and one lock."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn, final

import grpc

from safedefer.emulator.clock import Clock
from safedefer.emulator.datastore import messages as m
from safedefer.emulator.datastore.aggregations import aggregate, aggregated_properties
from safedefer.emulator.datastore.entries import Index
from safedefer.emulator.datastore.failures import MAX_LOOKUP_KEYS, CallError, invalid, unsupported
from safedefer.emulator.datastore.keys import EntityKey, is_complete, parse_key, parse_partition, parse_path
from safedefer.emulator.datastore.metadata import is_metadata, metadata_reader
from safedefer.emulator.datastore.mutations import Change, check_pair, plan_change
from safedefer.emulator.datastore.paths import PropertyPath, masked, parse_mask
from safedefer.emulator.datastore.queries import Answer, Query
from safedefer.emulator.datastore.storage import Scan, Storage, Stored
from safedefer.emulator.datastore.transactions import Transaction, Transactions
from safedefer.emulator.faults import Fault, Faults

_SERVICE: Final = "/google.datastore.v1.Datastore/"
# A client receives 4 MiB at the most; a page stays well below, one large entity more included.
_PAGE_BYTES: Final = 2 * 1024 * 1024
_PAGE_ROWS: Final = 300
_FULL, _PROJECTION, _KEY_ONLY = 1, 2, 3
_NOT_FINISHED, _MORE_AFTER_LIMIT, _NO_MORE, _MORE_AFTER_CURSOR = 1, 2, 3, 4
_NON_TRANSACTIONAL: Final = 2
_CALL_FAULTS: Final = ("refuse", "slow")
_COMMIT_FAULTS: Final = ("refuse", "abort", "ambiguous-commit", "slow")


@final
class Surface(grpc.GenericRpcHandler):
    """Answers every method of the service."""

    def __init__(self, clock: Clock, scatter_rate: float, faults: Faults) -> None:
        self._clock = clock
        self._faults = faults
        self._scatter_rate = scatter_rate
        self._lock = threading.Lock()
        self.reset()
        self._methods: dict[str, tuple[Any, Callable[[Any], Any]]] = {
            "Lookup": (m.LookupRequest, self._lookup),
            "RunQuery": (m.RunQueryRequest, self._run_query),
            "RunAggregationQuery": (m.RunAggregationQueryRequest, self._run_aggregation_query),
            "BeginTransaction": (m.BeginTransactionRequest, self._begin_transaction),
            "Commit": (m.CommitRequest, self._commit),
            "Rollback": (m.RollbackRequest, self._rollback),
            "AllocateIds": (m.AllocateIdsRequest, self._allocate_ids),
            "ReserveIds": (m.ReserveIdsRequest, self._reserve_ids),
        }

    def reset(self) -> None:
        """Forget everything."""
        with self._lock:
            self._storage = Storage()
            self._transactions = Transactions(self._storage)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, Any]":
        """Find the handler of a method. gRPC calls this for every call that arrives."""
        name = handler_call_details.method.removeprefix(_SERVICE)

        def handle(request: bytes, context: grpc.ServicerContext) -> Any:
            try:
                found = self._methods.get(name)
                if found is None:
                    raise unsupported(name)
                kind, answer = found
                message = kind.FromString(request)
                if not message.project_id:
                    raise invalid("a request without a project")
                fault = self._faults.draw(*(_COMMIT_FAULTS if name == "Commit" else _CALL_FAULTS))
                with self._lock:
                    if fault:
                        self._fail_before(fault, message)
                    response = answer(message)
                if fault:
                    _fail_after(fault, context)
            except CallError as error:
                _abort(context, error)
            return response

        return grpc.unary_unary_rpc_method_handler(
            handle, response_serializer=lambda message: message.SerializeToString()
        )

    def _fail_before(self, fault: Fault, request: Any) -> None:
        if fault.kind == "abort" and request.WhichOneof("transaction_selector") == "transaction":
            self._transactions.close(self._transactions.find(request.transaction, self._now()))
        if fault.kind in {"abort", "refuse"}:
            raise CallError(fault.code, fault.text)

    def _now(self) -> float:
        return self._clock.now().timestamp()

    def _lookup(self, request: Any) -> Any:
        if len(request.keys) > MAX_LOOKUP_KEYS:
            raise invalid(f"cannot get more than {MAX_LOOKUP_KEYS} keys in a single call")
        response = m.LookupResponse()
        mask = _mask_of(request)
        transaction = self._transaction_of(request.read_options, response)
        size = 0
        for message in request.keys:
            key = parse_key(request.project_id, request.database_id, message)
            if transaction is not None:
                transaction.keys.add(key)
            stored = self._storage.get(key, None if transaction is None else transaction.read_version)
            if stored is None:
                response.missing.add(entity=m.Entity(key=key.message()), version=self._storage.version or 1)
                continue
            size += stored.entity.ByteSize()
            if response.found and size > _PAGE_BYTES:
                response.deferred.append(key.message())
                continue
            _fill_result(response.found.add(), stored, _entity_seen(stored.entity, mask))
        _set_time(response.read_time, self._now())
        return response

    def _run_query(self, request: Any) -> Any:
        if request.WhichOneof("query_type") != "query":
            raise unsupported("GQL")
        if request.HasField("explain_options"):
            raise unsupported("explain_options")
        response = m.RunQueryResponse()
        query, scan = self._read(request, request.query, response)
        mask = _mask_of(request)
        if mask is not None and request.query.projection:
            raise invalid("a property_mask together with a projection")
        answer = query.run(scan, most=_PAGE_ROWS, most_bytes=_PAGE_BYTES)
        batch = response.batch
        batch.entity_result_type = _KEY_ONLY if query.keys_only else _PROJECTION if query.projected else _FULL
        for found in answer.results:
            result = batch.entity_results.add(cursor=found.cursor)
            _fill_result(result, found.stored, _entity_seen(query.entity(found), mask))
        batch.skipped_results, batch.skipped_cursor = answer.skipped, answer.skipped_cursor
        batch.end_cursor = answer.end_cursor
        batch.more_results = _more_results(answer)
        _set_time(batch.read_time, self._now())
        return response

    def _run_aggregation_query(self, request: Any) -> Any:
        if request.WhichOneof("query_type") != "aggregation_query":
            raise unsupported("GQL")
        if request.HasField("explain_options"):
            raise unsupported("explain_options")
        aggregation = request.aggregation_query
        response = m.RunAggregationQueryResponse()
        required = aggregated_properties(aggregation.aggregations)
        query, scan = self._read(request, aggregation.nested_query, response, required=required)
        values = aggregate(aggregation.aggregations, query.run(scan).results)
        result = response.batch.aggregation_results.add()
        for alias, value in values.items():
            result.aggregate_properties[alias].CopyFrom(value)
        response.batch.more_results = _NO_MORE
        _set_time(response.batch.read_time, self._now())
        return response

    def _read(self, request: Any, message: Any, response: Any, *, required: Sequence[str] = ()) -> tuple[Query, Scan]:
        """A query, and what it reads with."""
        partition = parse_partition(request.project_id, request.database_id, request.partition_id)
        query = Query(message, Index(partition, self._scatter_rate), required=required)
        transaction = self._transaction_of(request.read_options, response)
        if query.kind is not None and is_metadata(query.kind):
            if transaction is not None:
                raise unsupported(f"queries of {query.kind} in a transaction")
            return query, metadata_reader(self._storage, partition, query.kind)
        if transaction is None:
            return query, self._storage.reader(partition, query.kind, None)
        transaction.queries.append((partition, query))
        return query, self._storage.reader(partition, query.kind, transaction.read_version)

    def _transaction_of(self, options: Any, response: Any) -> Transaction | None:
        match options.WhichOneof("consistency_type"):
            case "transaction":
                return self._transactions.find(options.transaction, self._now())
            case "new_transaction":
                transaction = self._begin(options.new_transaction)
                response.transaction = transaction.id
                return transaction
            case "read_time":
                raise unsupported("read_time")
            case _:
                return None

    def _begin(self, options: Any) -> Transaction:
        read_only = options.WhichOneof("mode") == "read_only"
        if read_only and options.read_only.HasField("read_time"):
            raise unsupported("read_time")
        return self._transactions.begin(self._now(), read_only=read_only)

    def _begin_transaction(self, request: Any) -> Any:
        return m.BeginTransactionResponse(transaction=self._begin(request.transaction_options).id)

    def _rollback(self, request: Any) -> Any:
        self._transactions.close(self._transactions.find(request.transaction, self._now()))
        self._storage.forget(self._transactions.oldest_read)
        return m.RollbackResponse()

    def _commit(self, request: Any) -> Any:
        transaction = None
        if request.WhichOneof("transaction_selector") == "transaction":
            transaction = self._transactions.find(request.transaction, self._now())
            # Whatever comes of it, the transaction is over: a second commit under its id is refused.
            self._transactions.close(transaction)
            if transaction.read_only and request.mutations:
                raise invalid("a read-only transaction cannot write")
            if request.mutations:
                self._transactions.check_unchanged(transaction)
        elif request.mode != _NON_TRANSACTIONAL and request.WhichOneof("transaction_selector") is None:
            raise invalid("a transactional commit needs a transaction")
        try:
            return self._apply(request)
        finally:
            self._storage.forget(self._transactions.oldest_read)

    def _apply(self, request: Any) -> Any:
        """All mutations are checked before the first is made, so that a refused commit changes nothing."""
        planned: list[Change] = []
        state: dict[EntityKey, tuple[Change, Stored | None]] = {}
        now = self._now()
        for mutation in request.mutations:
            change = plan_change(request, mutation, self._storage.allocate_id)
            planned.append(change)
            before, current = state.get(change.key, (None, None))
            if before is None:
                current = self._storage.get(change.key)
            elif request.mode == _NON_TRANSACTIONAL:
                raise invalid("two mutations of one entity outside of a transaction")
            else:
                check_pair(before, change)
            change.check(current)
            if not change.conflicts:
                change.apply(current, now)
                current = None if change.entity is None else Stored(0, change.entity, now, now)
            state[change.key] = change, current
        return self._write(planned, now)

    def _write(self, planned: list[Change], now: float) -> Any:
        response = m.CommitResponse()
        storage = self._storage
        if any(not change.conflicts for change in planned):
            storage.version += 1
        for change in planned:
            result = response.mutation_results.add(version=storage.version)
            if change.conflicts:
                result.conflict_detected = True
                result.version = storage.version_of(change.key) or 1
                continue
            if change.entity is None and storage.get(change.key) is None:
                continue  # Deleting what is not there changes nothing, and is no conflict for anybody.
            stored = storage.write(change.key, change.entity, storage.version, now)
            if change.entity is not None:
                _set_time(result.create_time, stored.created)
                _set_time(result.update_time, stored.updated)
            result.transform_results.extend(change.results)
            if change.allocated:
                result.key.CopyFrom(change.key.message())
        response.index_updates = len(planned)
        _set_time(response.commit_time, now)
        return response

    def _allocate_ids(self, request: Any) -> Any:
        response = m.AllocateIdsResponse()
        for message in request.keys:
            if is_complete(message):
                raise invalid("ids are allocated for keys that are not complete")
            key = m.Key()
            key.CopyFrom(parse_path(request.project_id, request.database_id, message).message())
            key.path[-1].id = self._storage.allocate_id()
            response.keys.append(key)
        return response

    def _reserve_ids(self, request: Any) -> Any:
        for message in request.keys:
            self._storage.reserve_id(parse_key(request.project_id, request.database_id, message).path[-1][2])
        return m.ReserveIdsResponse()


def _mask_of(request: Any) -> list[PropertyPath] | None:
    return parse_mask(request.property_mask) if request.HasField("property_mask") else None


def _entity_seen(entity: Any, mask: list[PropertyPath] | None) -> Any:
    return entity if mask is None else masked(entity, mask)


def _more_results(answer: Answer) -> int:
    if not answer.is_whole:
        return _NOT_FINISHED
    if answer.has_more:
        return _MORE_AFTER_LIMIT
    return _MORE_AFTER_CURSOR if answer.is_cut else _NO_MORE


def _fill_result(result: Any, stored: Stored, entity: Any) -> None:
    result.entity.CopyFrom(entity)
    result.version = stored.version
    _set_time(result.create_time, stored.created)
    _set_time(result.update_time, stored.updated)


def _set_time(field: Any, moment: float) -> None:
    microseconds = round(moment * 1_000_000)
    field.seconds, field.nanos = microseconds // 1_000_000, microseconds % 1_000_000 * 1_000


def _fail_after(fault: Fault, context: grpc.ServicerContext) -> None:
    if fault.kind == "ambiguous-commit":
        raise CallError(fault.code, fault.text)
    # Slow: the answer is ready and is held back until the caller has given up, or the server stops.
    ended = threading.Event()
    if context.add_callback(ended.set):
        ended.wait(fault.seconds)


def _abort(context: grpc.ServicerContext, error: CallError) -> NoReturn:
    context.abort(error.code, error.text)
    raise AssertionError("abort raises")
