"""What surrounds a call where it is deferred, and again where it runs."""

import re
from dataclasses import dataclass
from typing import Final, final

_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_LANGUAGE: Final = re.compile(r"[A-Za-z0-9@_-]{1,32}")
_TIME_ZONE: Final = re.compile(r"[A-Za-z0-9_+/-]{1,64}")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Trace, language and time zone of the caller; None where there is none of its own.

    Attributes:
        traceparent: The trace that the call belongs to, as W3C Trace Context writes it.
        language: Django's code of a language, such as `pt-br`.
        time_zone: Key of a zone of the IANA database.
    """

    traceparent: str | None = None
    language: str | None = None
    time_zone: str | None = None


NO_SURROUNDINGS: Final = Surroundings()


def make_surroundings(traceparent: str | None, language: str | None, time_zone: str | None) -> Surroundings:
    """Surroundings of what has the right form; the rest is left out, since no call may fail for it."""
    return Surroundings(
        traceparent=_fitting(_TRACEPARENT, traceparent),
        language=_fitting(_LANGUAGE, language),
        time_zone=_fitting(_TIME_ZONE, time_zone),
    )


def _fitting(pattern: re.Pattern[str], value: str | None) -> str | None:
    return value if value is not None and pattern.fullmatch(value) else None
