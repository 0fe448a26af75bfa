"""The order of values and of keys, across all types."""

import itertools

import pytest

from safedefer.emulator.datastore.failures import CallError
from safedefer.emulator.datastore.keys import EntityKey, parse_key
from safedefer.emulator.datastore.paths import parse_property_path
from safedefer.emulator.datastore.values import sort_key
from tests.unit.emulator.datastore.values import KEYS_IN_ORDER, VALUES_IN_ORDER


def test_values_are_ordered_across_all_types() -> None:
    groups = [[sort_key(value, "p", "") for value in group] for group in VALUES_IN_ORDER]
    for group in groups:
        assert len(set(group)) == 1
    for (lower, *_), (higher, *_) in itertools.combinations(groups, 2):
        assert lower < higher
        assert not higher < lower


def test_keys_are_ordered_element_by_element_ids_before_names() -> None:
    assert sorted(KEYS_IN_ORDER, reverse=True) == list(reversed(KEYS_IN_ORDER))


@pytest.mark.parametrize("entity_key", KEYS_IN_ORDER)
def test_key_survives_its_message(entity_key: EntityKey) -> None:
    assert parse_key("p", "", entity_key.message()) == entity_key


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("a", ("a",)),
        ("a.b", ("a", "b")),
        (r"a\.b.c", ("a.b", "c")),
        (r"a\\.b", ("a\\", "b")),
        ("a b.\u00e9", ("a b", "\u00e9")),
    ],
)
def test_property_path_is_read_with_its_escapes(text: str, path: tuple[str, ...]) -> None:
    assert parse_property_path(text) == path


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a..b", "a\\", r"a\b"])
def test_property_path_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(CallError):
        parse_property_path(text)
