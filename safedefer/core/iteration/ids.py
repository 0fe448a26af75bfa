"""Task ids that follow from what a task is for: whoever creates it again makes no second one."""

from hashlib import sha256
from struct import Struct
from typing import Final

from safedefer.core.names import TASK_ID_BYTES, TaskId
from safedefer.core.pae import encode_pieces

_NUMBERS: Final = Struct(">IQQ")


def slice_task_id(run_id: TaskId, *, shard: int, seq: int, wake: int) -> TaskId:
    """The id of one slice's task."""
    return _derive(b"slice", run_id, shard, seq, wake)


def finalize_task_id(run_id: TaskId) -> TaskId:
    """The id of a run's finalize task: the ledger lets it be completed once."""
    return _derive(b"finalize", run_id, 0, 0, 0)


def item_digest(run_id: TaskId, key: bytes) -> bytes:
    """What a shard keeps of the key of a row that failed."""
    return sha256(encode_pieces(b"safedefer.iteration.item", run_id, key)).digest()


def _derive(purpose: bytes, run_id: TaskId, shard: int, seq: int, wake: int) -> TaskId:
    pieces = encode_pieces(b"safedefer.iteration", purpose, run_id, _NUMBERS.pack(shard, seq, wake))
    return TaskId(sha256(pieces).digest()[:TASK_ID_BYTES])
