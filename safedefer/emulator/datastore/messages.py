"""The protobuf classes of google.datastore.v1: the raw ones behind the proto-plus wrappers of the package."""

from typing import Any

from google.cloud.datastore_v1 import types

# The raw classes are made at run time and have no types: this is the one module that treats them as Any.
AllocateIdsRequest: Any = types.AllocateIdsRequest.pb()
AllocateIdsResponse: Any = types.AllocateIdsResponse.pb()
BeginTransactionRequest: Any = types.BeginTransactionRequest.pb()
BeginTransactionResponse: Any = types.BeginTransactionResponse.pb()
CommitRequest: Any = types.CommitRequest.pb()
CommitResponse: Any = types.CommitResponse.pb()
LookupRequest: Any = types.LookupRequest.pb()
LookupResponse: Any = types.LookupResponse.pb()
ReserveIdsRequest: Any = types.ReserveIdsRequest.pb()
ReserveIdsResponse: Any = types.ReserveIdsResponse.pb()
RollbackRequest: Any = types.RollbackRequest.pb()
RollbackResponse: Any = types.RollbackResponse.pb()
RunAggregationQueryRequest: Any = types.RunAggregationQueryRequest.pb()
RunAggregationQueryResponse: Any = types.RunAggregationQueryResponse.pb()
RunQueryRequest: Any = types.RunQueryRequest.pb()
RunQueryResponse: Any = types.RunQueryResponse.pb()
Entity: Any = types.Entity.pb()
EntityResult: Any = types.EntityResult.pb()
Key: Any = types.Key.pb()
QueryResultBatch: Any = types.QueryResultBatch.pb()
Value: Any = types.Value.pb()
