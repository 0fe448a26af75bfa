"""The heap from which entries can be taken back."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from safedefer.emulator.cloud_tasks.schedule import Schedule

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STEPS = st.lists(st.tuples(st.sampled_from(["put", "discard", "pop"]), st.integers(0, 9), st.integers(0, 9)))


def at(seconds: int) -> datetime:
    return NOW + timedelta(seconds=seconds)


@given(STEPS)
def test_schedule_behaves_like_a_sorted_list(steps: list[tuple[str, int, int]]) -> None:
    schedule: Schedule[int] = Schedule()
    model: dict[int, tuple[datetime, int]] = {}
    for number, (step, key, seconds) in enumerate(steps):
        match step:
            case "put":
                schedule.put(key, at(seconds))
                model[key] = (at(seconds), number)
            case "discard":
                schedule.discard(key)
                model.pop(key, None)
            case _:
                due = {known: entry for known, entry in model.items() if entry[0] <= at(seconds)}
                expected = min(due, key=lambda known: due[known]) if due else None
                assert schedule.pop_due(at(seconds)) == expected
                if expected is not None:
                    del model[expected]
        assert len(schedule) == len(model)
        assert schedule.next_due() == min((due for due, _ in model.values()), default=None)


def test_keys_that_come_and_go_do_not_pile_up() -> None:
    schedule: Schedule[int] = Schedule()
    for key in range(10_000):
        schedule.put(key, at(10**6))
        schedule.discard(key)
    assert len(schedule._heap) < 200


def test_key_that_is_moved_often_does_not_pile_up() -> None:
    schedule: Schedule[str] = Schedule()
    for seconds in range(10_000):
        schedule.put("one", at(seconds))
    assert len(schedule._heap) < 200
    assert schedule.next_due() == at(9_999)
