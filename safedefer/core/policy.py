"""Holds verified claims against what this handler expects: for whom, through which queue, and when."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final, final

from safedefer.core.claims import Audience, Claims
from safedefer.core.limits import CLOCK_SKEW, MAX_AGE, MAX_SCHEDULE_AHEAD
from safedefer.core.names import EnvironmentName, HandlerId, LocationName, ProjectName, QueueName
from safedefer.errors import ClaimsError, Reason

_SKEW_SECONDS: Final = int(CLOCK_SKEW.total_seconds())


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Who this handler is, and how long an envelope may live."""

    environment: EnvironmentName
    project: ProjectName
    location: LocationName
    handler: HandlerId
    max_age: timedelta = MAX_AGE

    def audience(self, queue: QueueName) -> Audience:
        """The audience of an envelope that is sent to this handler through a queue."""
        return Audience(
            environment=self.environment,
            project=self.project,
            location=self.location,
            queue=queue,
            handler=self.handler,
        )

    def check_audience(self, claims: Claims, queue: str | None) -> None:
        """Refuse claims that are meant for another handler or came through another queue.

        Args:
            queue: What the dispatch says of its queue; believed, since the identity token was checked before.
        Raises:
            ClaimsError: `AUDIENCE_MISMATCH` or `QUEUE_MISMATCH`.
        """
        if claims.audience != self.audience(claims.audience.queue):
            raise ClaimsError(Reason.AUDIENCE_MISMATCH)
        if claims.audience.queue != queue:
            raise ClaimsError(Reason.QUEUE_MISMATCH)

    def check_times(self, claims: Claims, now: float) -> None:
        """Refuse claims that are not of this time. A clock may be off by 30 seconds.

        Raises:
            ClaimsError: `CLAIMS_MALFORMED`, `LIFETIME_TOO_LONG`, `ISSUED_IN_FUTURE`, `EXPIRED` or `NOT_YET_VALID`.
        """
        issued_at, not_before, expires_at = claims.issued_at, claims.not_before, claims.expires_at
        if not issued_at <= not_before <= expires_at:
            raise ClaimsError(Reason.CLAIMS_MALFORMED)
        if (
            expires_at - not_before > self.max_age.total_seconds()
            or not_before - issued_at > MAX_SCHEDULE_AHEAD.total_seconds() + _SKEW_SECONDS
        ):
            raise ClaimsError(Reason.LIFETIME_TOO_LONG)
        if issued_at > now + _SKEW_SECONDS:
            raise ClaimsError(Reason.ISSUED_IN_FUTURE)
        if now > expires_at + _SKEW_SECONDS:
            raise ClaimsError(Reason.EXPIRED)
        if now < not_before - _SKEW_SECONDS:
            raise ClaimsError(Reason.NOT_YET_VALID)
