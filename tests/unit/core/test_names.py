"""Names: what each may hold, and that nothing of a wrong one is shown."""

from collections.abc import Callable
from enum import Enum, StrEnum
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedefer.core.names import (
    parse_environment_name,
    parse_function_name,
    parse_handler_id,
    parse_location_name,
    parse_project_name,
    parse_queue_name,
    parse_task_id,
    parse_task_name,
)
from safedefer.errors import InvalidNameError


class Kind(NamedTuple):
    """A kind of name."""

    parse: Callable[[object], str]
    longest: int
    good: list[str]
    bad: list[str]


KINDS = {
    "function": Kind(parse_function_name, 128, ["a", "shop.note", "A_b.c:d-9", "."], ["a/b", "a b", "a\u00e9", "a@"]),
    "queue": Kind(parse_queue_name, 100, ["default", "A-9", "-"], ["a_b", "a.b", "projects/p/queues/q"]),
    "project": Kind(parse_project_name, 100, ["acme", "example.com:acme", "a-1"], ["a_b", "a/b"]),
    "location": Kind(parse_location_name, 64, ["europe-west1"], ["Europe-west1", "europe_west1", "a.b"]),
    "environment": Kind(parse_environment_name, 64, ["production", "Blue_2.x-y"], ["a b", "a:b", "a/b"]),
    "handler": Kind(parse_handler_id, 256, ["/_safedefer/", "~", '!"#'], ["/ x/", "/\u00fc/", "/\t/", "\x7f"]),
    "task": Kind(parse_task_name, 500, ["a", "A_-9"], ["a/b", "a.b", "projects/p/locations/l/queues/q/tasks/t"]),
}
ANYONES_BAD = ["", " ", "a\n", "\na", "a\0", "\u0130", "\uff41", "a\u200b", "\ud800"]


@pytest.mark.parametrize(
    ("kind", "value"),
    [(kind, value) for kind, about in KINDS.items() for value in [*about.bad, *ANYONES_BAD]],
)
def test_name_with_a_wrong_character_is_refused(kind: str, value: str) -> None:
    with pytest.raises(InvalidNameError):
        KINDS[kind].parse(value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [None, 5, 5.0, True, b"default", ["default"], ("default",), {"a": 1}, object(), str])
def test_name_that_is_no_string_is_refused(kind: str, value: object) -> None:
    with pytest.raises(InvalidNameError, match="expected a string"):
        KINDS[kind].parse(value)


@pytest.mark.parametrize("kind", KINDS)
def test_name_is_accepted_up_to_its_longest_and_no_longer(kind: str) -> None:
    parse, longest, _, _ = KINDS[kind]
    assert parse("a" * longest) == "a" * longest
    with pytest.raises(InvalidNameError):
        parse("a" * (longest + 1))


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, about in KINDS.items() for value in about.good])
def test_name_comes_back_as_it_was(kind: str, value: str) -> None:
    assert KINDS[kind].parse(value) == value


class Queue(StrEnum):
    BILLING = "billing"


class OldQueue(str, Enum):  # noqa: UP042  # Django has such classes.
    BILLING = "billing"


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [Queue.BILLING, OldQueue.BILLING, Text("billing")])
def test_name_of_a_subclass_of_str_becomes_a_plain_str(kind: str, value: str) -> None:
    name = KINDS[kind].parse(value)
    assert type(name) is str
    assert name == "billing"


@pytest.mark.parametrize("kind", KINDS)
def test_refusal_shows_nothing_of_the_value(kind: str) -> None:
    with pytest.raises(InvalidNameError) as caught:
        KINDS[kind].parse("CANARY \n")
    assert "CANARY" not in f"{caught.value!r} {caught.value}"


@pytest.mark.parametrize("kind", KINDS)
@given(st.text(max_size=20))
def test_accepted_names_are_ascii_without_spaces(kind: str, value: str) -> None:
    try:
        name = KINDS[kind].parse(value)
    except InvalidNameError:
        return
    assert name.isascii()
    assert name.isprintable()
    assert " " not in name


@pytest.mark.parametrize("value", [b"", b"t" * 15, b"t" * 17, "t" * 16, None, 16, bytearray(16), [0] * 16])
def test_task_id_of_another_form_is_refused(value: object) -> None:
    with pytest.raises(InvalidNameError):
        parse_task_id(value)


def test_task_id_of_sixteen_bytes_is_accepted() -> None:
    assert parse_task_id(bytes(16)) == bytes(16)
