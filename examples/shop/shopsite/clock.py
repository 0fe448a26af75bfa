"""One clock for the local cloud and the site, which `make demo` moves on so that nobody has to wait for a lease."""

import os
from datetime import datetime
from pathlib import Path

from django.conf import settings
from django.utils import timezone

from safedefer.django.conf import read_settings
from safedefer.django.setup import build_runtime
from safedefer.emulator import FileClock
from safedefer.flow.runtime import install


class SharedClock:
    """The machine's clock, moved on by what stands in a file that the local cloud reads as well."""

    def __init__(self, path: str) -> None:
        self._clock = FileClock(Path(path))

    def time(self) -> float:
        """Seconds since 1970 in UTC."""
        return self._clock.now().timestamp()

    def aware(self, moment: datetime) -> datetime:
        """A naive datetime is read as Django's settings say."""
        return moment if timezone.is_aware(moment) else timezone.make_aware(moment)


def follow_clock(path: str) -> None:
    """Let leases, claims and tokens go by that clock, in this process."""
    safedefer, problems = read_settings(settings, os.environ)
    if safedefer is None:
        raise SystemExit("\n".join(str(problem) for problem in problems))
    ready = safedefer
    install(lambda: build_runtime(ready, SharedClock(path)))
