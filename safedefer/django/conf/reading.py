"""One reading of the SAFEDEFER setting, and the problems that it meets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Final, TypeVar, final

from safedefer.errors import ConfigurationError, InvalidNameError

KEYS: Final = (
    "ALLOWED_EMAILS",
    "AUDIENCE",
    "BODY_CAP",
    "DATASTORE",
    "DEFAULT_QUEUE",
    "ENVIRONMENT",
    "HANDLER_ID",
    "HANDLER_URL",
    "INLINE_LIMIT",
    "ITERATION_TIME_LIMIT",
    "KEYS",
    "LOCATION",
    "MAX_AGE",
    "MODULES",
    "PROJECT",
    "QUERYSET_DESCRIPTIONS",
    "QUEUES",
    "SERVICE_ACCOUNT",
    "OUTBOX",
    "STORE",
    "SYNC_QUEUES",
)
T = TypeVar("T")


@final
@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong with the settings. An id that starts with E keeps safedefer from starting."""

    id: str
    message: str
    hint: str

    @property
    def is_error(self) -> bool:
        """Whether safedefer can not start with it."""
        return self.id.startswith("E")

    def __str__(self) -> str:
        return f"(safedefer.{self.id}) {self.message} {self.hint}"


@final
@dataclass(slots=True, repr=False)
class Reading:
    """One reading of the settings, and the problems it meets."""

    given: Mapping[str, object]
    environ: Mapping[str, str]
    debug: bool
    problems: list[Problem] = field(default_factory=list)

    def error(self, id: str, message: str, hint: str = "") -> None:  # noqa: A002  # As Django's checks call it.
        """Keep a problem; the ids that start with W are warnings."""
        self.problems.append(Problem(id, message, hint))

    def parse(self, key: str, parser: Callable[[object], T], default: T) -> T:
        """The value of a key, or the default where it is absent or wrong, which is a problem."""
        if key not in self.given:
            return default
        try:
            return parser(self.given[key])
        except (InvalidNameError, ConfigurationError) as error:
            self.error("E002", f"SAFEDEFER['{key}']: {error}.")
            return default

    def check_keys(self) -> None:
        """Tell of every key that is none, so that a typo cannot switch a protection off."""
        for key in self.given:
            if key not in KEYS:
                near = get_close_matches(str(key), KEYS, n=1)
                hint = f"Did you mean {near[0]}?" if near else f"Known keys are {', '.join(KEYS)}."
                self.error("E001", f"SAFEDEFER has an unknown key {key!r}.", hint)
