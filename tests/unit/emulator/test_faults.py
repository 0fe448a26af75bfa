"""The plan of faults: a function of seed, rate and number of the operation, and what it says to a bad request."""

import subprocess
import sys

import grpc
import pytest

from safedefer.emulator.faults import CLOUD_TASKS_FAULTS, DATASTORE_FAULTS, Fault, FaultError, Faults

OPERATIONS = 400


def struck(faults: Faults, kind: str, count: int = OPERATIONS) -> list[int]:
    """The numbers of the operations that a kind of fault strikes, among the next `count`."""
    return [number for number in range(count) if faults.draw(kind)]


def test_without_rates_nothing_goes_wrong() -> None:
    faults = Faults(DATASTORE_FAULTS, seed=1)
    assert struck(faults, "abort") == []
    assert faults.happened == {}


@pytest.mark.parametrize(("rate", "count"), [(0.0, 0), (1.0, OPERATIONS)])
def test_rates_0_and_1_are_exact(rate: float, count: int) -> None:
    faults = Faults(DATASTORE_FAULTS)
    faults.set("abort", rate)
    assert len(struck(faults, "abort")) == count
    assert faults.happened["abort"] == count


def test_share_that_is_struck_is_about_the_rate() -> None:
    faults = Faults(DATASTORE_FAULTS, seed=7)
    faults.set("abort", 0.25)
    assert 0.2 < len(struck(faults, "abort")) / OPERATIONS < 0.3


def test_same_seed_strikes_the_same_operations_and_another_seed_others() -> None:
    plans = []
    for seed in (7, 7, 8):
        faults = Faults(DATASTORE_FAULTS, seed=seed)
        faults.set("abort", 0.5)
        plans.append(struck(faults, "abort"))
    assert plans[0] == plans[1] != plans[2]


def test_same_seed_strikes_the_same_operations_in_another_process() -> None:
    code = (
        "from safedefer.emulator.faults import *; f = Faults(DATASTORE_FAULTS, seed=7); f.set('abort', 0.5);"
        "print([n for n in range(400) if f.draw('abort')])"
    )
    faults = Faults(DATASTORE_FAULTS, seed=7)
    faults.set("abort", 0.5)
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == str(struck(faults, "abort"))


def test_kinds_draw_apart_from_each_other() -> None:
    alone, beside = Faults(DATASTORE_FAULTS, seed=7), Faults(DATASTORE_FAULTS, seed=7)
    alone.set("abort", 0.3)
    beside.set("abort", 0.3)
    beside.set("slow", 0.3)
    alone_struck = [number for number in range(OPERATIONS) if (f := alone.draw("slow", "abort")) and f.kind == "abort"]
    both = [(number, fault.kind) for number in range(OPERATIONS) if (fault := beside.draw("slow", "abort"))]
    slow = {number for number, kind in both if kind == "slow"}
    assert slow
    assert [number for number, kind in both if kind == "abort"] == [n for n in alone_struck if n not in slow]


def test_kind_that_is_switched_on_later_strikes_as_if_it_had_been_on() -> None:
    early, late = Faults(DATASTORE_FAULTS, seed=7), Faults(DATASTORE_FAULTS, seed=7)
    early.set("abort", 0.5)
    whole = struck(early, "abort")
    struck(late, "abort", 100)
    late.set("abort", 0.5)
    assert [number + 100 for number in struck(late, "abort", OPERATIONS - 100)] == [n for n in whole if n >= 100]


def test_next_operations_are_struck_in_the_order_of_asking() -> None:
    faults = Faults(DATASTORE_FAULTS)
    faults.next("refuse", 2, code=grpc.StatusCode.INTERNAL)
    faults.once("refuse", code=grpc.StatusCode.UNAVAILABLE)
    drawn = [faults.draw("refuse") for _ in range(4)]
    codes = [grpc.StatusCode.INTERNAL, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE]
    assert drawn == [*(Fault(kind="refuse", code=code) for code in codes), None]
    assert faults.happened == {"refuse": 3}


def test_next_fault_waits_behind_one_that_struck_the_same_operation() -> None:
    faults = Faults(DATASTORE_FAULTS)
    faults.once("refuse")
    faults.once("abort")
    drawn = [fault.kind if (fault := faults.draw("refuse", "abort")) else None for _ in range(3)]
    assert drawn == ["refuse", "abort", None]


def test_reset_ends_faults_and_begins_the_draws_anew() -> None:
    faults = Faults(DATASTORE_FAULTS, seed=7)
    faults.set("abort", 0.5)
    first = struck(faults, "abort")
    faults.once("abort")
    faults.reset()
    assert struck(faults, "abort", 10) == []
    assert faults.happened == {}
    faults.reset()
    faults.set("abort", 0.5)
    assert struck(faults, "abort") == first


def test_text_of_the_command_line_sets_rates_codes_and_durations() -> None:
    faults = Faults(CLOUD_TASKS_FAULTS)
    faults.load("duplicate=1, delay=1:2.5,refuse-create=1:PERMISSION_DENIED,ambiguous-create=1")
    assert faults.draw("duplicate") == Fault(kind="duplicate")
    assert faults.draw("delay") == Fault(kind="delay", seconds=2.5)
    assert faults.draw("refuse-create") == Fault(kind="refuse-create", code=grpc.StatusCode.PERMISSION_DENIED)
    assert faults.draw("ambiguous-create") == Fault(kind="ambiguous-create", code=grpc.StatusCode.UNAVAILABLE)
    assert faults.draw("reorder") is None
    faults.load("")
    assert faults.draw("duplicate")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("abort", "not of the form KIND=RATE"),
        ("abort=often", "the rate of abort is a number between 0 and 1, not 'often'"),
        ("abort=", "the rate of abort is a number"),
        ("abort=1.5", "between 0 and 1, not at 1.5"),
        ("abort=-0.1", "between 0 and 1"),
        ("abort=nan", "between 0 and 1"),
        ("abrot=0.1", "did you mean abort?"),
        ("unheard=0.1", "there are abort, ambiguous-commit, refuse, slow"),
        ("duplicate=0.1", "there is no fault 'duplicate' here"),
        ("abort=0.1,abort=0.2", "abort is given twice"),
        ("abort=0.1:ABORTED", "abort takes a rate and nothing else"),
        ("refuse=0.1:unavailable", "'unavailable' is no gRPC status"),
        ("refuse=0.1:5", "'5' is no gRPC status"),
        ("refuse=0.1:OK", "refuse cannot answer OK"),
        ("ambiguous-commit=0.1:PERMISSION_DENIED", "choose from CANCELLED, DEADLINE_EXCEEDED, INTERNAL, UN"),
        ("slow=0.1:UNAVAILABLE", "the duration of slow is a number of seconds"),
        ("slow=0.1:0", "slow lasts more than 0 seconds"),
        ("slow=0.1:nan", "slow lasts more than 0 seconds"),
        ("slow=0.1:1e9", "no more than 30 days"),
    ],
)
def test_bad_text_says_what_is_wrong_and_changes_nothing(text: str, problem: str) -> None:
    faults = Faults(DATASTORE_FAULTS)
    with pytest.raises(FaultError) as caught:
        faults.load(f"refuse=1,{text}" if not text.startswith("refuse") else text)
    assert problem in str(caught.value)
    assert faults.draw("refuse") is None


def test_bad_calls_are_refused_as_bad_texts_are() -> None:
    faults = Faults(CLOUD_TASKS_FAULTS)
    with pytest.raises(FaultError, match="did you mean duplicate"):
        faults.once("duplicates")
    with pytest.raises(FaultError, match="between 0 and 1"):
        faults.set("duplicate", 2)
    with pytest.raises(FaultError, match="duplicate has no duration"):
        faults.set("duplicate", 0.5, seconds=1)
    with pytest.raises(FaultError, match="duplicate cannot answer ABORTED"):
        faults.once("duplicate", code=grpc.StatusCode.ABORTED)
    with pytest.raises(FaultError, match="next 0 operations"):
        faults.next("duplicate", 0)
