"""Queues as messages: what a caller may ask for, the form in which it is stored, and the rules it stands for."""

from datetime import timedelta

from google.protobuf.message import Message

from safedefer.emulator.cloud_tasks import limits
from safedefer.emulator.cloud_tasks.errors import invalid_argument, not_supported
from safedefer.emulator.cloud_tasks.messages import RUNNING, Queue, UpdateQueueRequest
from safedefer.emulator.cloud_tasks.messages import RateLimits as RateLimitsMessage
from safedefer.emulator.cloud_tasks.messages import RetryConfig as RetryConfigMessage
from safedefer.emulator.cloud_tasks.rates import RateLimits, burst_for
from safedefer.emulator.cloud_tasks.retries import RetryRules
from safedefer.emulator.cloud_tasks.times import duration, parse_duration

_OUTPUT_ONLY = ("state", "purge_time")


def stored_queue(requested: Queue, current: Queue | None = None) -> Queue:
    """Return the queue as it is kept and read back: checked, defaults filled in.

    Args:
        requested: Name and settings; what a caller says about state and purge time is ignored.
        current: The queue that this one replaces; it passes on its state and purge time.

    Raises:
        CallError: INVALID_ARGUMENT for a setting out of range, UNIMPLEMENTED for queue-level routing.
    """
    if requested.HasField("http_target") and requested.http_target.ByteSize():
        raise not_supported("Queue.http_target", instead="Set url, headers and oidc_token on each task's HttpRequest.")
    stored = Queue()
    stored.CopyFrom(requested)
    stored.ClearField("http_target")
    for field in _OUTPUT_ONLY:
        stored.ClearField(field)
    _check_rate_limits(requested.rate_limits)
    retry_rules(requested.retry_config)
    if not 0 <= requested.stackdriver_logging_config.sampling_ratio <= 1:
        raise invalid_argument("StackdriverLoggingConfig.samplingRatio must be between 0.0 and 1.0.")
    _fill_rate_limits(stored.rate_limits)
    _fill_retry_config(stored.retry_config)
    stored.state = current.state if current else RUNNING
    if current and current.HasField("purge_time"):
        stored.purge_time.CopyFrom(current.purge_time)
    return stored


def updated_queue(request: UpdateQueueRequest, current: Queue | None) -> Queue:
    """Return the stored form after an update. An empty mask replaces every setting; so does a missing queue.

    Raises:
        CallError: INVALID_ARGUMENT, for an unknown field in the mask too.
    """
    if not request.update_mask.IsValidForDescriptor(Queue.DESCRIPTOR):
        raise invalid_argument("The update mask names a field that Queue does not have.")
    if current is None or not request.update_mask.paths:
        return stored_queue(request.queue, current)
    merged = Queue()
    merged.CopyFrom(current)
    request.update_mask.MergeMessage(_with_masked_parents(request), merged, replace_message_field=True)
    merged.name = current.name
    return stored_queue(merged, current)


def _with_masked_parents(request: UpdateQueueRequest) -> Queue:
    """Return the requested queue with every message that the mask looks into.

    Protobuf leaves out a path whose parent is unset, where an update is to reset the field.
    """
    source = Queue()
    source.CopyFrom(request.queue)
    for path in request.update_mask.paths:
        message: Message = source
        for part in path.split(".")[:-1]:
            message = getattr(message, part)
            message.SetInParent()
    return source


def rate_limits(stored: Queue) -> RateLimits:
    """Return the rate and concurrency that a stored queue stands for."""
    message = stored.rate_limits
    return RateLimits(
        per_second=message.max_dispatches_per_second,
        burst=message.max_burst_size,
        concurrent=message.max_concurrent_dispatches,
    )


def retry_rules(config: RetryConfigMessage) -> RetryRules:
    """Return the rules that a retry configuration stands for, of a queue or of one task.

    Zero and unset mean the service's default. A task's configuration replaces the queue's as a whole.

    Raises:
        CallError: INVALID_ARGUMENT.
    """
    if config.max_attempts < -1:
        raise invalid_argument("RetryConfig.maxAttempts must be greater or equal to -1.")
    if config.max_doublings < 0:
        raise invalid_argument("RetryConfig.maxDoublings cannot be negative.")
    min_backoff = _backoff_setting(config, "min_backoff", "RetryConfig.minBackoff", limits.DEFAULT_MIN_BACKOFF)
    max_backoff = _backoff_setting(config, "max_backoff", "RetryConfig.maxBackoff", limits.DEFAULT_MAX_BACKOFF)
    if min_backoff > max_backoff:
        raise invalid_argument("RetryConfig.minBackoff must be less than or equal to RetryConfig.maxBackoff.")
    max_duration = parse_duration(config.max_retry_duration, "RetryConfig.maxRetryDuration")
    if max_duration < timedelta(0):
        raise invalid_argument("RetryConfig.maxRetryDuration cannot be negative.")
    max_attempts = config.max_attempts or limits.DEFAULT_MAX_ATTEMPTS
    return RetryRules(
        max_attempts=max_attempts if max_attempts > 0 else None,
        max_duration=max_duration or None,
        min_backoff=min_backoff,
        max_backoff=max_backoff,
        max_doublings=config.max_doublings or limits.DEFAULT_MAX_DOUBLINGS,
    )


def _backoff_setting(config: RetryConfigMessage, field: str, label: str, default: timedelta) -> timedelta:
    if not config.HasField(field):
        return default
    setting = parse_duration(config.min_backoff if field == "min_backoff" else config.max_backoff, label)
    if setting < timedelta(0):
        raise invalid_argument(f"{label} cannot be negative.")
    return setting


def _check_rate_limits(message: RateLimitsMessage) -> None:
    # max_burst_size is output only: whatever a caller sets, even a negative number, is ignored.
    for label, value, most in (
        ("maxDispatchesPerSecond", message.max_dispatches_per_second, limits.MAX_DISPATCHES_PER_SECOND),
        ("maxConcurrentDispatches", message.max_concurrent_dispatches, limits.MAX_CONCURRENT_DISPATCHES),
    ):
        if value < 0:
            raise invalid_argument(f"RateLimits.{label} cannot be negative.")
        if not value <= most:  # Written so that NaN is refused as well.
            raise invalid_argument(f"RateLimits.{label} must be less than or equal to {most}.")


def _fill_rate_limits(message: RateLimitsMessage) -> None:
    message.max_dispatches_per_second = message.max_dispatches_per_second or limits.MAX_DISPATCHES_PER_SECOND
    message.max_concurrent_dispatches = message.max_concurrent_dispatches or limits.DEFAULT_CONCURRENT_DISPATCHES
    message.max_burst_size = burst_for(message.max_dispatches_per_second)


def _fill_retry_config(message: RetryConfigMessage) -> None:
    message.max_attempts = message.max_attempts or limits.DEFAULT_MAX_ATTEMPTS
    message.max_doublings = message.max_doublings or limits.DEFAULT_MAX_DOUBLINGS
    if not message.HasField("min_backoff"):
        message.min_backoff.CopyFrom(duration(limits.DEFAULT_MIN_BACKOFF))
    if not message.HasField("max_backoff"):
        message.max_backoff.CopyFrom(duration(limits.DEFAULT_MAX_BACKOFF))
