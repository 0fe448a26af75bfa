"""Every exception of the package, in one tree with a branch for each party who has to act.

Messages hold names, sizes and reasons: no message, attribute or repr holds an argument, body, token, tag or key.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, final

__all__ = [
    "AlreadyExecutedError",
    "ArgumentsRefusedError",
    "BodyDigestError",
    "ClaimsError",
    "CommitRefusedError",
    "ConfigurationError",
    "DeadLetterError",
    "DuplicateFunctionError",
    "FunctionFailedError",
    "InvalidCallError",
    "InvalidFunctionError",
    "InvalidKeyRangesError",
    "InvalidNameError",
    "InvalidOptionError",
    "IterationError",
    "LeaseLostError",
    "MalformedEnvelopeError",
    "OverflowMissingError",
    "PartlyDeferredError",
    "PayloadTooLargeError",
    "QueueNotFoundError",
    "QueueRefusedError",
    "QueueUnavailableError",
    "Reason",
    "ReferenceMissingError",
    "RecordConflictError",
    "RejectedError",
    "RequestRefusedError",
    "SafeDeferError",
    "SignatureError",
    "StoreUnavailableError",
    "TaskExistsError",
    "TaskRefusedError",
    "TokenError",
    "TokenKeysUnavailableError",
    "UnavailableError",
    "UnencodableArgumentError",
    "UnknownFunctionError",
    "UnregisteredFunctionError",
    "UnsupportedQuerySetError",
    "UsageError",
]


@final
class Reason(StrEnum):
    """Why a dispatch ended as it did: the closed set that audit events and rejections draw from."""

    # The request, before anything in it is trusted.
    METHOD_NOT_ALLOWED = "method_not_allowed"
    CONTENT_TYPE_WRONG = "content_type_wrong"
    LENGTH_MISSING = "length_missing"
    LENGTH_WRONG = "length_wrong"
    BODY_TOO_LARGE = "body_too_large"
    # The identity token.
    TOKEN_MISSING = "token_missing"
    TOKEN_MALFORMED = "token_malformed"
    TOKEN_HEADER = "token_header"
    TOKEN_SIGNATURE_REMOVED = "token_signature_removed"
    TOKEN_KEY_UNKNOWN = "token_key_unknown"
    TOKEN_SIGNATURE = "token_signature"
    TOKEN_ISSUER = "token_issuer"
    TOKEN_AUDIENCE = "token_audience"
    TOKEN_EMAIL = "token_email"
    TOKEN_SUBJECT = "token_subject"
    TOKEN_TIMES = "token_times"
    TOKEN_KEYS_UNAVAILABLE = "token_keys_unavailable"
    # The fixed frame.
    FRAME_LENGTH = "frame_length"
    FRAME_MAGIC = "frame_magic"
    FRAME_VERSION = "frame_version"
    FRAME_FLAGS = "frame_flags"
    # The key and the tag.
    KEY_UNKNOWN = "key_unknown"
    KEY_DISABLED = "key_disabled"
    KEY_DESTROYED = "key_destroyed"
    SUITE_MISMATCH = "suite_mismatch"
    TAG_INVALID = "tag_invalid"
    # The claims.
    CLAIMS_MALFORMED = "claims_malformed"
    TYPE_UNSUPPORTED = "type_unsupported"
    AUDIENCE_MISMATCH = "audience_mismatch"
    QUEUE_MISMATCH = "queue_mismatch"
    ISSUED_IN_FUTURE = "issued_in_future"
    LIFETIME_TOO_LONG = "lifetime_too_long"
    NOT_YET_VALID = "not_yet_valid"
    EXPIRED = "expired"
    # The function, the body and the arguments.
    FUNCTION_UNKNOWN = "function_unknown"
    FUNCTION_VERSION_UNKNOWN = "function_version_unknown"
    SCHEMA_CHANGED = "schema_changed"
    OVERFLOW_MISSING = "overflow_missing"
    BODY_LENGTH = "body_length"
    BODY_DIGEST = "body_digest"
    BODY_MALFORMED = "body_malformed"
    BODY_LIMITS = "body_limits"
    ARGUMENTS_MISMATCH = "arguments_mismatch"
    REFERENCE_MISSING = "reference_missing"
    REFERENCES_UNAVAILABLE = "references_unavailable"
    # The ledger.
    ALREADY_EXECUTED = "already_executed"
    ALREADY_DEAD = "already_dead"
    LEASE_HELD = "lease_held"
    LEASE_LOST = "lease_lost"
    STORE_UNAVAILABLE = "store_unavailable"
    REISSUE_FAILED = "reissue_failed"
    # The execution.
    FUNCTION_FAILED = "function_failed"
    POSTPONED = "postponed"
    DROPPED = "dropped"
    REDRIVEN = "redriven"
    SWEPT = "swept"
    NEVER_SENT = "never_sent"
    ACCEPTED = "accepted"
    EXECUTED = "executed"
    DEFERRED = "deferred"
    NOT_CONFIGURED = "not_configured"
    INTERNAL_ERROR = "internal_error"


class SafeDeferError(Exception):
    """Root of every error that safedefer raises."""


# The operator has to act.


class ConfigurationError(SafeDeferError):
    """A setting, a queue or a permission is missing or wrong."""


class QueueNotFoundError(ConfigurationError):
    """The queue does not exist, or is too new to be used."""


class QueueRefusedError(ConfigurationError):
    """Cloud Tasks refused to show or change a queue: a permission, or a value that it does not accept."""


class TaskRefusedError(ConfigurationError):
    """Cloud Tasks refused the task for good: a permission, a service account or a value that it does not accept."""


# The programmer has to act; nothing has been sent.


class UsageError(SafeDeferError):
    """The library was called in a way that cannot work."""


class InvalidNameError(UsageError, ValueError):
    """A name does not have the form that its kind requires."""


class InvalidOptionError(UsageError, TypeError):
    """An option of a task is unknown, not supported or has a wrong value."""


class InvalidFunctionError(UsageError, TypeError):
    """The function cannot be deferred: where it is defined, or what its parameters are annotated with."""


class DuplicateFunctionError(UsageError):
    """Two functions claim the same function name and version."""


class UnregisteredFunctionError(UsageError, TypeError):
    """The callable given to `defer` was never registered with `@deferrable`."""


class InvalidCallError(UsageError, TypeError):
    """The arguments do not fit the function's parameters."""


class UnencodableArgumentError(UsageError, TypeError):
    """An argument holds a value that cannot travel; `path` says where, for example `args[1]["rows"][3]`."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path


class PayloadTooLargeError(UsageError, ValueError):
    """The call is larger than a task may be.

    Attributes:
        size_bytes: Size of what was to be sent.
        limit_bytes: The bound it passed.
    """

    def __init__(self, message: str, *, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(message)
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class InvalidKeyRangesError(UsageError, ValueError):
    """A queryset or its order field cannot be walked in key ranges, or what a key range getter returned is none."""


class TaskExistsError(UsageError):
    """A task of that name exists, or existed too recently, and the caller asked to be told."""


class DeadLetterError(UsageError):
    """A dead letter is not there, or cannot be driven again."""


class IterationError(UsageError):
    """An iteration is not there, or not in a state that allows what was asked of it."""


class UnsupportedQuerySetError(UsageError):
    """A queryset cannot travel as it is; a registered queryset function can."""


class PartlyDeferredError(SafeDeferError):
    """Of many calls some were not deferred.

    Attributes:
        results: For each call, in their order, its handle or its error.
        failed: The calls that were not deferred, each a `Call`. Given to `defer_many` again they keep their identity,
            so that one whose first create went through unnoticed is not made twice.
    """

    def __init__(self, results: Sequence[object], failed: Sequence[object]) -> None:
        self.results: tuple[Any, ...] = tuple(results)
        self.failed: tuple[Any, ...] = tuple(failed)
        errors = [result for result in results if isinstance(result, SafeDeferError)]
        first = f"; the first: {errors[0]}" if errors else ""
        super().__init__(f"{len(errors)} of {len(results)} calls were not deferred{first}")


# The input is refused. Which status answers it is the handler's table.


class RejectedError(SafeDeferError):
    """A dispatch is refused, with a reason from a closed set and nothing of the input."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason
        self.detail = detail


class RequestRefusedError(RejectedError):
    """The HTTP request has not the form of a dispatch."""


class TokenError(RejectedError):
    """The identity token does not prove that our queue called."""


class MalformedEnvelopeError(RejectedError):
    """The fixed frame of the envelope is broken."""


class SignatureError(RejectedError):
    """No live key vouches for the envelope."""


class ClaimsError(RejectedError):
    """The signed claims are not meant for this handler, this queue or this time."""


class UnknownFunctionError(RejectedError):
    """This process has no function of that name and version."""


class BodyDigestError(RejectedError):
    """The body is not the one that was signed."""


class OverflowMissingError(RejectedError):
    """A body that is kept outside its task is not, or not wholly, in the store."""


class ArgumentsRefusedError(RejectedError):
    """The signed body does not decode to arguments of the registered function."""


class AlreadyExecutedError(RejectedError):
    """The ledger knows the task as executed: it is answered with success and not executed again."""


class ReferenceMissingError(RejectedError):
    """A row that an argument refers to is gone."""


# Time has to pass; a retry may help.


class UnavailableError(SafeDeferError):
    """Something that the library depends on did not answer."""


class QueueUnavailableError(UnavailableError):
    """Cloud Tasks could not be reached or did not answer in time. The task may or may not exist."""


class TokenKeysUnavailableError(UnavailableError):
    """The issuer's public keys could not be had, so that no token can be verified now."""


class StoreUnavailableError(UnavailableError):
    """The store of durable records did not answer, or cannot be used as it is."""


class LeaseLostError(UnavailableError):
    """The lease of a task was over, and another worker has claimed it: this worker's end is not recorded."""


class RecordConflictError(UnavailableError):
    """Another writer was first: a record has not the version that a change expects. Nothing was changed."""


# The owner of the deferred function has to act.


class FunctionFailedError(SafeDeferError):
    """The deferred function raised; the original is `__cause__`."""


class CommitRefusedError(SafeDeferError):
    """The database refuses to commit what a function has written, as at a deferred constraint; it is `__cause__`."""
