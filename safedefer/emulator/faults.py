"""The plan of faults of one server of the local cloud: which operation goes wrong, and how.

Pure: what a fault does is the business of the server that draws it. Each kind of fault draws from a generator of its
own, once for each operation, whether the kind is switched on or not. So what becomes of the k-th operation depends on
the seed and on the rate of that kind alone.
"""

import difflib
import random
import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final, final

import grpc

_MOST_SECONDS: Final = timedelta(days=30).total_seconds()
_CODES: Final[Mapping[str, grpc.StatusCode]] = {code.name: code for code in grpc.StatusCode}
_REFUSALS: Final = frozenset(grpc.StatusCode) - {grpc.StatusCode.OK}
_NO_ANSWER: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.CANCELLED,
    }
)
"""What a caller sees who does not learn whether the call was made."""


class FaultError(ValueError):
    """A fault that there is not, or that was asked for in a way that makes no sense."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way for an operation to go wrong.

    Attributes:
        kind: Its name.
        code: The status that answers the call, of a fault that answers one.
        seconds: How long it lasts; 0 for a fault that takes no time.
    """

    kind: str
    code: grpc.StatusCode = grpc.StatusCode.UNKNOWN
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """What the answer says: whoever reads it in a log should not look for another cause."""
        return f"injected fault: {self.kind}"


@final
@dataclass(frozen=True, slots=True)
class FaultKind:
    """A fault that a server offers.

    Attributes:
        usual: The fault as it is where nothing else is asked for.
        codes: The statuses that may be asked for.
    """

    usual: Fault
    codes: frozenset[grpc.StatusCode] = frozenset()

    def make(self, *, code: grpc.StatusCode | None = None, seconds: float | None = None) -> Fault:
        """Return the fault, with another code or duration if one is given.

        Raises:
            FaultError: It has no code or no duration, or not this one.
        """
        name = self.usual.kind
        if code is not None and code not in self.codes:
            choice = ", ".join(sorted(each.name for each in self.codes))
            raise FaultError(f"{name} cannot answer {code.name}" + (f"; choose from {choice}" if choice else ""))
        if seconds is not None and not self.usual.seconds:
            raise FaultError(f"{name} has no duration")
        if seconds is not None and not 0 < seconds <= _MOST_SECONDS:
            raise FaultError(f"{name} lasts more than 0 seconds and no more than 30 days, not {seconds:g}")
        return replace(self.usual, code=code or self.usual.code, seconds=seconds or self.usual.seconds)


CLOUD_TASKS_FAULTS: Final = (
    FaultKind(Fault(kind="duplicate")),
    FaultKind(Fault(kind="delay", seconds=10.0)),
    FaultKind(Fault(kind="reorder")),
    FaultKind(Fault(kind="drop-response")),
    FaultKind(Fault(kind="refuse-create", code=grpc.StatusCode.UNAVAILABLE), _REFUSALS),
    FaultKind(Fault(kind="ambiguous-create", code=grpc.StatusCode.UNAVAILABLE), _NO_ANSWER),
)
DATASTORE_FAULTS: Final = (
    FaultKind(Fault(kind="abort", code=grpc.StatusCode.ABORTED)),
    FaultKind(Fault(kind="ambiguous-commit", code=grpc.StatusCode.UNAVAILABLE), _NO_ANSWER),
    FaultKind(Fault(kind="refuse", code=grpc.StatusCode.UNAVAILABLE), _REFUSALS),
    FaultKind(Fault(kind="slow", seconds=60.0)),
)


@final
class Faults:
    """Which operations of one server go wrong. Every method may be called from any thread."""

    def __init__(self, kinds: Sequence[FaultKind], *, seed: int = 0) -> None:
        """Start without faults."""
        self._kinds = {kind.usual.kind: kind for kind in kinds}
        self._seed = seed
        self._lock = threading.Lock()
        self.reset()

    def set(self, kind: str, rate: float, *, code: grpc.StatusCode | None = None, seconds: float | None = None) -> None:
        """Let a share of all operations go wrong from now on: 0 means none, 1 means all.

        Args:
            kind: Name of the fault.
            rate: The share.
            code: The status that answers, for a fault that has one.
            seconds: How long, for a fault that takes time.

        Raises:
            FaultError: There is no such fault, or no such rate, code or duration.
        """
        fault = self._find(kind).make(code=code, seconds=seconds)
        _check_rate(kind, rate)
        with self._lock:
            self._rates[kind] = (rate, fault)

    def next(self, kind: str, count: int, *, code: grpc.StatusCode | None = None, seconds: float | None = None) -> None:
        """Let the next `count` operations go wrong, behind those that were asked for before.

        Raises:
            FaultError: There is no such fault, code or duration, or `count` is below 1.
        """
        fault = self._find(kind).make(code=code, seconds=seconds)
        if count < 1:
            raise FaultError(f"the next {count} operations are none")
        with self._lock:
            self._next[kind].extend([fault] * count)

    def once(self, kind: str, *, code: grpc.StatusCode | None = None, seconds: float | None = None) -> None:
        """Let the next operation go wrong.

        Raises:
            FaultError: There is no such fault, code or duration.
        """
        self.next(kind, 1, code=code, seconds=seconds)

    def load(self, text: str) -> None:
        """Set rates as the command line writes them: `abort=0.2,refuse=0.01:UNAVAILABLE,slow=0.1:5`.

        Raises:
            FaultError: The text cannot be read; nothing was changed.
        """
        rates: dict[str, tuple[float, Fault]] = {}
        for part in filter(None, text.split(",")):
            name, rate, fault = self._parse(part.strip())
            if name in rates:
                raise FaultError(f"{name} is given twice")
            rates[name] = (rate, fault)
        with self._lock:
            self._rates |= rates

    def reset(self) -> None:
        """End all faults, forget what happened, and begin every sequence of draws anew."""
        with self._lock:
            # A text as seed is hashed the same way in every process.
            self._random = {name: random.Random(f"{self._seed} {name}") for name in self._kinds}  # noqa: S311  # No secret.
            self._rates: dict[str, tuple[float, Fault]] = {}
            self._next: dict[str, deque[Fault]] = {name: deque() for name in self._kinds}
            self._happened: Counter[str] = Counter()

    @property
    def happened(self) -> Mapping[str, int]:
        """How many operations were struck in each way since the last reset; 0 for those that never were."""
        with self._lock:
            return Counter(self._happened)

    def draw(self, *kinds: str) -> Fault | None:
        """Decide what becomes of one operation: the first of `kinds` that strikes it, or None.

        Each kind draws once, also behind one that has struck. The fault is counted as having happened.
        """
        struck: Fault | None = None
        with self._lock:
            for kind in kinds:
                chance = self._random[kind].random()
                if struck is None:
                    struck = self._strike(kind, chance)
            if struck is not None:
                self._happened[struck.kind] += 1
        return struck

    def _strike(self, kind: str, chance: float) -> Fault | None:
        if self._next[kind]:
            return self._next[kind].popleft()
        if kind not in self._rates:
            return None
        rate, fault = self._rates[kind]
        return fault if chance < rate else None

    def _find(self, name: str) -> FaultKind:
        kind = self._kinds.get(name)
        if kind is None:
            near = difflib.get_close_matches(name, self._kinds, 1)
            advice = f"did you mean {near[0]}?" if near else "there are " + ", ".join(self._kinds)
            raise FaultError(f"there is no fault {name!r} here; {advice}")
        return kind

    def _parse(self, part: str) -> tuple[str, float, Fault]:
        name, equals, value = part.partition("=")
        if not equals:
            raise FaultError(f"{part!r} is not of the form KIND=RATE, KIND=RATE:CODE or KIND=RATE:SECONDS")
        kind = self._find(name)
        rate, colon, detail = value.partition(":")
        share = _parse_rate(name, rate)
        if not colon:
            return name, share, kind.usual
        if kind.usual.seconds:
            return name, share, kind.make(seconds=_parse_seconds(name, detail))
        if not kind.codes:
            raise FaultError(f"{name} takes a rate and nothing else")
        if detail not in _CODES:
            raise FaultError(f"{detail!r} is no gRPC status; write one as UNAVAILABLE")
        return name, share, kind.make(code=_CODES[detail])


def _parse_rate(name: str, text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        raise FaultError(f"the rate of {name} is a number between 0 and 1, not {text!r}") from None
    _check_rate(name, rate)
    return rate


def _check_rate(name: str, rate: float) -> None:
    if not 0 <= rate <= 1:
        raise FaultError(f"the rate of {name} lies between 0 and 1, not at {rate:g}")


def _parse_seconds(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise FaultError(f"the duration of {name} is a number of seconds, not {text!r}") from None
