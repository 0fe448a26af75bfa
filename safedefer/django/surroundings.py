"""SurroundingsSource over Django: the request's trace, the active language, the active time zone."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, Final, final
from zoneinfo import ZoneInfo

from django.conf import settings
from django.core.signals import request_finished, request_started
from django.utils import timezone, translation

from safedefer.core.atoms import zone_names
from safedefer.core.surroundings import Surroundings, make_surroundings

_trace: Final[ContextVar[str | None]] = ContextVar("safedefer_trace", default=None)
_HEADER: Final = b"traceparent"


@final
class DjangoSurroundings:
    """Captures and restores what Django keeps for each thread or coroutine."""

    def capture(self) -> Surroundings:
        """Trace, language and time zone of the running code; a default of the settings is not worth carrying."""
        language = translation.get_language() if settings.USE_I18N else None
        zone = timezone.get_current_timezone_name() if settings.USE_TZ else None
        return make_surroundings(
            _trace.get(),
            None if language == settings.LANGUAGE_CODE else language,
            None if zone == settings.TIME_ZONE else zone,
        )

    @contextmanager
    def restored(self, surroundings: Surroundings) -> Iterator[None]:
        """Run a block in surroundings, beginning from the settings' defaults."""
        zone = surroundings.time_zone
        token = _trace.set(surroundings.traceparent)
        try:
            with ExitStack() as stack:
                if settings.USE_I18N:
                    stack.enter_context(translation.override(_known_language(surroundings.language)))
                if settings.USE_TZ:
                    # Only known names: the constructor would look for others by importing modules.
                    known = zone is not None and zone in zone_names()
                    stack.enter_context(timezone.override(ZoneInfo(zone) if known and zone is not None else None))
                yield
        finally:
            _trace.reset(token)


def _known_language(code: str | None) -> str:
    if code is None:
        return settings.LANGUAGE_CODE
    try:
        return translation.get_supported_language_variant(code)
    except LookupError:
        return settings.LANGUAGE_CODE


def follow_requests() -> None:
    """Remember the `traceparent` of each request while it is answered."""
    request_started.connect(_begin, dispatch_uid="safedefer.trace")
    request_finished.connect(_end, dispatch_uid="safedefer.trace")


def _begin(environ: dict[str, Any] | None = None, scope: dict[str, Any] | None = None, **_: object) -> None:
    if environ is not None:
        _trace.set(environ.get("HTTP_TRACEPARENT"))
    elif scope is not None:
        found = [value for name, value in scope.get("headers", ()) if name == _HEADER]
        _trace.set(found[0].decode("latin-1") if len(found) == 1 else None)


def _end(**_: object) -> None:
    _trace.set(None)
