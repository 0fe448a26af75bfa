"""Every bound of the service, with its unit. They are the published quotas unless a comment says otherwise."""

from datetime import timedelta

MAX_TASK_BYTES = 2**20 - 7
"""Size of the task as stored, serialized. The published 1 MiB less seven bytes is what the real service enforces."""
MAX_HEADER_BYTES = 80 * 1024
"""All names and values of one task's headers together stay below this."""
MAX_URL_CHARACTERS = 2083
"""Length of a url after characters that cannot travel as they are have been percent-encoded."""
MAX_BATCH_CREATES = 100
MAX_REQUEST_BYTES = (MAX_BATCH_CREATES + 1) * 2**20
"""What gRPC must let in, so that the largest legal batch arrives: 100 tasks and their frames."""

MIN_DISPATCH_DEADLINE = timedelta(seconds=15)
MAX_DISPATCH_DEADLINE = timedelta(minutes=30)
DEFAULT_DISPATCH_DEADLINE = timedelta(minutes=10)
MAX_SCHEDULE_AHEAD = timedelta(hours=720)
TASK_RETENTION = timedelta(days=31)
MAX_CALL_DEADLINE = timedelta(seconds=30)

MAX_DISPATCHES_PER_SECOND = 500
MAX_CONCURRENT_DISPATCHES = 5000
DEFAULT_CONCURRENT_DISPATCHES = 1000
DEFAULT_MAX_ATTEMPTS = 100
DEFAULT_MIN_BACKOFF = timedelta(milliseconds=100)
DEFAULT_MAX_BACKOFF = timedelta(hours=1)
DEFAULT_MAX_DOUBLINGS = 16

MAX_QUEUES_PER_PAGE = 9800
MAX_TASKS_PER_PAGE = 1000
PAGE_TOKEN_LIFE = timedelta(hours=2)

DEFAULT_TASK_NAME_MEMORY = timedelta(hours=24)
"""How long the name of a finished or deleted task stays taken. The service says: up to 24 hours."""
DEFAULT_QUEUE_NAME_MEMORY = timedelta(days=3)
"""How long the name of a deleted queue stays taken. The service's pages say 3 days in one place and 7 in another."""
