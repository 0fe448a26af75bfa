"""Every bound on size, depth and time, with its unit and where the number comes from."""

from datetime import timedelta
from typing import Final

# Cloud Tasks refuses a stored task above 2^20 - 7 bytes; the rest is room for what the service adds to it.
MAX_INLINE_TASK_BYTES: Final = 1_000_000

MAX_BODY_BYTES: Final = 8 * 1024 * 1024
"""Default cap of an encoded body, inline or not."""

MAX_CLAIMS_BYTES: Final = 4_096
"""All names at their longest, plus the fixed parts, stay below it."""

MAX_REQUEST_BYTES: Final = 1_048_576
"""What the handler reads at most: Cloud Tasks holds no task larger than 1 MiB."""

MAX_DEPTH: Final = 32
"""Nesting of an argument, ext values included."""

MAX_NODES: Final = 500_000
"""Values in one body: elements, keys and containers together."""

MAX_RELATED: Final = 16
"""Relations that one model instance takes along, and MAX_RELATED_DEPTH of them in a row."""

MAX_RELATED_DEPTH: Final = 4

MAX_TOKEN_BYTES: Final = 4_096
"""An identity token of Google's is below 1.5 kB."""

MAX_SCHEDULE_AHEAD: Final = timedelta(days=30)
"""Cloud Tasks: no more than 720 hours in the future."""

MAX_AGE: Final = timedelta(days=31)
"""From the time a task may run to the time it expires: Cloud Tasks keeps no task longer."""

CLOCK_SKEW: Final = timedelta(seconds=30)

QUEUE_SYNC_TIME: Final = timedelta(seconds=5)
"""For all queues together, before the first task that a process sends."""

MAX_QUEUE_RATE: Final = 500
MAX_QUEUE_CONCURRENCY: Final = 5_000
"""Cloud Tasks: dispatches per second of a queue, and at once."""

MIN_DISPATCH_DEADLINE: Final = timedelta(seconds=15)
MAX_DISPATCH_DEADLINE: Final = timedelta(minutes=30)
DEFAULT_DISPATCH_DEADLINE: Final = timedelta(minutes=10)
"""Cloud Tasks, HTTP targets: 15 s to 30 min, 10 min if none is given."""

MIN_KEY_BYTES: Final = 32
"""A root secret carries at least the security of HMAC-SHA-256."""

LEASE_RESERVE: Final = timedelta(seconds=30)
"""A lease outlives the dispatch deadline by this much: the queue may give up on a worker that still runs."""

RECORD_RESERVE: Final = timedelta(hours=2)
"""Records outlive the envelope they belong to by more than the longest dispatch that may still be under way."""

OVERFLOW_CHUNK_BYTES: Final = 900_000
"""One record of an overflowed body. A Datastore entity holds a little more than 1,000,000 bytes."""

OVERFLOW_COMMIT_BYTES: Final = 8_100_000
"""One commit of an overflowed body. A Datastore request holds 10 MiB."""

MAX_CONDITIONS: Final = 500
MAX_CONDITION_DEPTH: Final = 16
MAX_RELATED_NAMES: Final = 100
"""Of a queryset that travels as a description."""

MAX_BATCH_TASKS: Final = 100
"""Cloud Tasks, creates in one call."""

MAX_BATCH_BYTES: Final = 3_500_000
"""Of the tasks of one batch: the response repeats them, and a client receives 4 MiB."""

OUTBOX_DELAY: Final = timedelta(seconds=30)
"""Younger calls in the outbox are left to the process that has committed them."""

OUTBOX_AGE: Final = timedelta(days=1)
"""A call that Cloud Tasks refuses for so long becomes a dead letter."""

SWEEP_BUCKET: Final = timedelta(minutes=2)
SWEEP_LONG_BUCKET: Final = timedelta(hours=1)
"""One sweep of the outbox follows each bucket of time in which calls were kept; the long one is for transactions that
took longer than the short one waits."""

DEAD_LETTER_AGE: Final = timedelta(days=90)
"""How long a dead letter is kept for a person."""

DEAD_LETTER_SLOTS: Final = 256
"""Dead letters that no signature vouches for, at the most: whoever writes to the queue could make any number."""

MAX_SKEW_ATTEMPTS: Final = 50
"""Dispatches of a task that this revision does not know enough of, before it becomes a dead letter."""

MAX_SKEW_AGE: Final = timedelta(days=1)
"""Nor before that much time has passed since it could first run: a deploy, or a rollback, may be under way."""

MAX_SHARDS: Final = 1_000
"""Of one iteration. They are inserted in one commit."""

MAX_SLICE: Final = timedelta(minutes=9, seconds=30)
"""The longest a slice of an iteration works."""

CLOUD_RUN_TIMEOUT: Final = timedelta(minutes=5)
CLOUD_RUN_MAX_TIMEOUT: Final = timedelta(minutes=60)
"""Cloud Run ends requests after 5 min unless a service says otherwise, which it can up to 60 min."""

MIN_ITEM_RESERVE: Final = timedelta(seconds=10)
"""What a slice leaves of its time, or three times the slowest recent row if that is more."""

BATCH_TIME: Final = timedelta(seconds=5)
FIRST_BATCH_ROWS: Final = 20
MAX_BATCH_ROWS: Final = 20_000
"""Rows that a slice reads at once: what it works through in that time, at most that many."""

READING_TIME: Final = timedelta(milliseconds=100)
LARGE_ROWS_BATCH: Final = 500
"""No more rows than are read in that time, so that large rows do not fill the memory; but that many always."""

MAX_CALL_ROWS: Final = 500
"""Rows that a callback with `batch=True` is called for at once."""

SLOW_CALL: Final = timedelta(seconds=30)
"""A callback of an iteration that takes longer is warned about."""

CHECKPOINT_INTERVAL: Final = timedelta(seconds=2)
"""A slice that was stopped repeats no more than about that, or one row."""

MIN_CHECKPOINT_INTERVAL: Final = timedelta(milliseconds=250)
"""Pages that take less share a checkpoint, unless the slice before was stopped."""

MIN_ITEM_BACKOFF: Final = timedelta(seconds=10)
MAX_ITEM_BACKOFF: Final = timedelta(minutes=10)
"""Between two calls for a row that fails: doubled each time."""

ITERATION_SILENCE: Final = timedelta(minutes=45)
"""A shard that was not heard of for so long gets a new task from a sweep. Longer than any lease."""

ITERATION_AGE: Final = timedelta(days=400)
"""How long the rows of an iteration are kept after they were last written."""

ITERATION_KEPT: Final = timedelta(days=90)
"""The run's own row, once it has ended."""
