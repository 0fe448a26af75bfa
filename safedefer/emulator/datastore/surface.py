"""The eight methods of google.datastore.v1.Datastore, over one storage and one lock."""

import threading
from collections.abc import Callable
from typing import Any, Final, NoReturn, final

import grpc

from safedefer.emulator.clock import Clock
from safedefer.emulator.datastore import messages as m
from safedefer.emulator.datastore.failures import MAX_LOOKUP_KEYS, CallError, aborted, invalid, unsupported
from safedefer.emulator.datastore.keys import EntityKey, is_complete, parse_key, parse_partition, parse_path
from safedefer.emulator.datastore.queries import Query, Row
from safedefer.emulator.datastore.storage import Storage, Stored
from safedefer.emulator.datastore.transactions import Transaction, Transactions
from safedefer.emulator.datastore.values import check_entity
from safedefer.emulator.faults import Fault, Faults

_SERVICE: Final = "/google.datastore.v1.Datastore/"
# A client receives 4 MiB at the most; a page stays well below, one large entity more included.
_PAGE_BYTES: Final = 2 * 1024 * 1024
_PAGE_ROWS: Final = 300
_FULL, _KEY_ONLY = 1, 3
_NOT_FINISHED, _MORE_AFTER_LIMIT, _NO_MORE = 1, 2, 3
_NON_TRANSACTIONAL: Final = 2
_FAIL: Final = 3
_CALL_FAULTS: Final = ("refuse", "slow")
_COMMIT_FAULTS: Final = ("refuse", "abort", "ambiguous-commit", "slow")
_FORBIDDEN: Final = frozenset({("insert", "insert"), ("update", "insert"), ("upsert", "insert"), ("delete", "update")})


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
        if request.HasField("property_mask"):
            raise unsupported("property_mask")
        if len(request.keys) > MAX_LOOKUP_KEYS:
            raise invalid(f"cannot get more than {MAX_LOOKUP_KEYS} keys in a single call")
        response = m.LookupResponse()
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
            _fill_result(response.found.add(), stored)
        _set_time(response.read_time, self._now())
        return response

    def _run_query(self, request: Any) -> Any:
        if request.WhichOneof("query_type") != "query":
            raise unsupported("GQL")
        if request.HasField("property_mask") or request.HasField("explain_options"):
            raise unsupported("property_mask and explain_options")
        response = m.RunQueryResponse()
        query, rows = self._read_rows(request, request.query, response)
        answer = query.run(rows, most=_PAGE_ROWS, most_bytes=_PAGE_BYTES)
        batch = response.batch
        batch.entity_result_type = _KEY_ONLY if query.keys_only else _FULL
        for key, stored, cursor in answer.rows:
            result = batch.entity_results.add(cursor=cursor)
            if query.keys_only:
                result.entity.key.CopyFrom(key.message())
            else:
                _fill_result(result, stored)
        batch.skipped_results, batch.skipped_cursor = answer.skipped, answer.skipped_cursor
        batch.end_cursor = answer.end_cursor
        batch.more_results = (
            _NOT_FINISHED if not answer.is_whole else _MORE_AFTER_LIMIT if answer.has_more else _NO_MORE
        )
        _set_time(batch.read_time, self._now())
        return response

    def _run_aggregation_query(self, request: Any) -> Any:
        if request.WhichOneof("query_type") != "aggregation_query":
            raise unsupported("GQL")
        if request.HasField("explain_options"):
            raise unsupported("explain_options")
        aggregation = request.aggregation_query
        response = m.RunAggregationQueryResponse()
        query, rows = self._read_rows(request, aggregation.nested_query, response)
        if any(part.WhichOneof("operator") != "count" for part in aggregation.aggregations):
            raise unsupported("sum and avg")
        count = query.count(rows)
        result = response.batch.aggregation_results.add()
        for number, part in enumerate(aggregation.aggregations, 1):
            most = part.count.up_to.value if part.count.HasField("up_to") else count
            result.aggregate_properties[part.alias or f"property_{number}"].integer_value = min(count, most)
        response.batch.more_results = _NO_MORE
        _set_time(response.batch.read_time, self._now())
        return response

    def _read_rows(self, request: Any, message: Any, response: Any) -> tuple[Query, list[Row]]:
        partition = parse_partition(request.project_id, request.database_id, request.partition_id)
        query = Query(message, request.project_id, request.database_id, self._scatter_rate)
        transaction = self._transaction_of(request.read_options, response)
        at = None if transaction is None else transaction.read_version
        if transaction is not None and (partition, query.kind) not in transaction.kinds:
            seen = self._storage.scan(partition, query.kind, at)
            transaction.kinds[partition, query.kind] = frozenset((key, stored.version) for key, stored in seen)
        return query, list(self._storage.scan(partition, query.kind, at, low=query.low, high=query.high))

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
        planned: list[_Change] = []
        state: dict[EntityKey, Stored | None] = {}
        for mutation in request.mutations:
            change = self._plan(request, mutation)
            if change.key in state and (
                request.mode == _NON_TRANSACTIONAL
                or any(
                    (before.operation, change.operation) in _FORBIDDEN for before in planned if before.key == change.key
                )
            ):
                raise invalid("two mutations of one entity that do not go together")
            current = state[change.key] if change.key in state else self._storage.get(change.key)
            change.check(current)
            if change.conflicts:
                planned.append(change)
                continue
            state[change.key] = None if change.entity is None else Stored(0, change.entity, 0, 0)
            planned.append(change)
        return self._write(planned)

    def _plan(self, request: Any, mutation: Any) -> "_Change":
        if mutation.HasField("property_mask") or mutation.property_transforms:
            raise unsupported("property masks and transforms of a mutation")
        operation = mutation.WhichOneof("operation")
        if operation is None:
            raise invalid("a mutation without an operation")
        if operation == "delete":
            return _Change(
                operation, parse_key(request.project_id, request.database_id, mutation.delete), None, mutation
            )
        entity = m.Entity()
        entity.CopyFrom(getattr(mutation, operation))
        allocated = not is_complete(entity.key)
        if allocated:
            if operation == "update":
                raise invalid("an update needs a complete key")
            parse_path(request.project_id, request.database_id, entity.key)
            entity.key.path[-1].id = self._storage.allocate_id()
        key = parse_key(request.project_id, request.database_id, entity.key)
        entity.key.CopyFrom(key.message())
        check_entity(entity, request.project_id, request.database_id)
        return _Change(operation, key, entity, mutation, allocated=allocated)

    def _write(self, planned: "list[_Change]") -> Any:
        response = m.CommitResponse()
        now = self._now()
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


@final
class _Change:
    """One mutation, read and checked."""

    def __init__(self, operation: str, key: EntityKey, entity: Any, mutation: Any, *, allocated: bool = False) -> None:
        self.operation = operation
        self.key = key
        self.entity = entity
        self.allocated = allocated
        self.conflicts = False
        self._mutation = mutation

    def check(self, current: Stored | None) -> None:
        """Hold it against the entity that is there.

        Raises:
            CallError: ALREADY_EXISTS, NOT_FOUND, or ABORTED for a base version that was asked to fail.
        """
        if self.operation == "insert" and current is not None:
            raise CallError(grpc.StatusCode.ALREADY_EXISTS, "entity already exists")
        if self.operation == "update" and current is None:
            raise CallError(grpc.StatusCode.NOT_FOUND, "no entity to update")
        if self._mutation.WhichOneof("conflict_detection_strategy") is None:
            return
        if self._mutation.HasField("update_time"):
            raise unsupported("update_time of a mutation")
        if self._mutation.base_version != (0 if current is None else current.version):
            if self._mutation.conflict_resolution_strategy == _FAIL:
                raise aborted()
            self.conflicts = True


def _fill_result(result: Any, stored: Stored) -> None:
    result.entity.CopyFrom(stored.entity)
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
