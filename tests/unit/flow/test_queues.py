"""What becomes of the queues, whatever the service says."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from safedefer.core.names import QueueName
from safedefer.core.queues import PresentQueue, QueueField, QueueSpec
from safedefer.errors import QueueRefusedError, QueueUnavailableError
from safedefer.flow.queues import QueueOutcome, compare_queues, prepare_queues, synchronise_queues

RATE = QueueField.RATE_PER_SECOND


@dataclass
class Admin:
    """Queues in memory: their rate, or an error to raise for one."""

    rates: dict[str, float] = field(default_factory=dict)
    errors: dict[str, Exception] = field(default_factory=dict)
    made_meanwhile: dict[str, float] = field(default_factory=dict)
    asked: list[tuple[str, timedelta]] = field(default_factory=list)

    def get(self, name: QueueName, *, within: timedelta) -> PresentQueue | None:
        self.asked.append((name, within))
        if name in self.errors:
            raise self.errors[name]
        rate = self.rates.get(name)
        return None if rate is None else PresentQueue(name=name, state="running", values={RATE: rate})

    def create(self, spec: QueueSpec, *, within: timedelta) -> bool:
        assert within
        if spec.name in self.made_meanwhile:
            self.rates[spec.name] = self.made_meanwhile[spec.name]
            return False
        self.rates[spec.name] = float(str(spec.values[RATE]))
        return True

    def update(self, spec: QueueSpec, fields: Collection[QueueField], *, within: timedelta) -> None:
        assert within
        assert [*fields] == [RATE]
        self.rates[spec.name] = float(str(spec.values[RATE]))

    def all(self, *, within: timedelta) -> Sequence[PresentQueue]:
        raise NotImplementedError


def wanted(**rates: float) -> list[QueueSpec]:
    return [QueueSpec(name=QueueName(name), values={RATE: rate}) for name, rate in rates.items()]


def test_missing_queue_is_created_other_one_updated_and_one_as_wanted_left() -> None:
    admin = Admin({"b": 1.0, "c": 3.0, "unknown": 9.0})
    reports = synchronise_queues(admin, wanted(a=1.0, b=2.0, c=3.0))
    assert [(report.name, report.outcome.value) for report in reports] == [
        ("a", "created"),
        ("b", "updated"),
        ("c", "as wanted"),
    ]
    assert [(difference.present, difference.wanted) for difference in reports[1].differences] == [(1.0, 2.0)]
    assert admin.rates == {"a": 1.0, "b": 2.0, "c": 3.0, "unknown": 9.0}


def test_comparison_tells_the_same_and_changes_nothing() -> None:
    admin = Admin({"b": 1.0, "c": 3.0})
    reports = compare_queues(admin, wanted(a=1.0, b=2.0, c=3.0))
    assert [report.outcome for report in reports] == [
        QueueOutcome.MISSING,
        QueueOutcome.DIFFERENT,
        QueueOutcome.AS_WANTED,
    ]
    assert admin.rates == {"b": 1.0, "c": 3.0}


@pytest.mark.parametrize(("theirs", "outcome"), [(1.0, "as wanted"), (5.0, "updated")])
def test_queue_that_another_process_makes_at_the_same_time_is_compared_again(theirs: float, outcome: str) -> None:
    admin = Admin(made_meanwhile={"a": theirs})
    (report,) = synchronise_queues(admin, wanted(a=1.0))
    assert report.outcome.value == outcome
    assert admin.rates == {"a": 1.0}


def test_refusal_of_one_queue_leaves_the_others() -> None:
    admin = Admin(errors={"a": QueueRefusedError("no permission")})
    reports = synchronise_queues(admin, wanted(a=1.0, b=2.0))
    assert [(report.outcome.value, report.problem) for report in reports] == [
        ("failed", "no permission"),
        ("created", ""),
    ]


def test_service_that_does_not_answer_is_asked_once() -> None:
    admin = Admin(errors={"a": QueueUnavailableError("no answer")})
    reports = synchronise_queues(admin, wanted(a=1.0, b=2.0))
    assert [(report.outcome.value, report.problem) for report in reports] == [("failed", "no answer")] * 2
    assert [name for name, _ in admin.asked] == ["a"]


def test_all_queues_share_the_time() -> None:
    admin = Admin()
    clock = iter((0.0, 1.0, 2.0, 6.0))
    reports = synchronise_queues(admin, wanted(a=1.0, b=2.0, c=3.0), now=lambda: next(clock))
    assert [report.outcome.value for report in reports] == ["created", "failed", "failed"]
    assert "too long" in reports[2].problem
    assert admin.asked == [("a", timedelta(seconds=4))]


def test_preparation_logs_what_it_changed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    prepare_queues(Admin({"b": 1.0, "c": 3.0}), wanted(a=1.0, b=2.0, c=3.0))
    assert [record.getMessage() for record in caplog.records] == [
        "queue a was created",
        "queue b was updated: rate_per_second",
    ]


def test_preparation_that_fails_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    prepare_queues(Admin(errors={"a": QueueUnavailableError("no answer")}), wanted(a=1.0, b=2.0))
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.WARNING, "not synchronised: queue a, b; no answer")


def test_preparation_never_raises_and_shows_no_foreign_error(caplog: pytest.LogCaptureFixture) -> None:
    prepare_queues(Admin(errors={"a": ZeroDivisionError("canary")}), wanted(a=1.0))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "ZeroDivisionError" in record.getMessage()
    assert "canary" not in caplog.text
