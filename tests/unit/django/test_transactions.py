"""Calls that wait for the caller's transaction."""

import pytest
from django.db import transaction

from safedefer.django.transactions import DjangoCommitHook
from safedefer.errors import InvalidOptionError

HOOK = DjangoCommitHook()


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_transaction_is_seen_on_its_own_alias_only() -> None:
    assert not HOOK.in_transaction("default")
    with transaction.atomic(using="other"):
        assert not HOOK.in_transaction("default")
        assert HOOK.in_transaction("other")
        with transaction.atomic(using="default"):
            assert HOOK.in_transaction("default")
    assert not HOOK.in_transaction("other")


@pytest.mark.parametrize("using", ["nowhere", "", "DEFAULT"])
def test_alias_that_there_is_not_is_named(using: str) -> None:
    with pytest.raises(InvalidOptionError, match=f"no database alias {using!r}"):
        HOOK.in_transaction(using)


@pytest.mark.django_db(transaction=True)
def test_action_waits_for_the_outermost_commit() -> None:
    done: list[str] = []
    with transaction.atomic():
        with transaction.atomic():
            HOOK.on_commit("default", lambda: done.append("x"))
        assert done == []
    assert done == ["x"]


def _roll_back(done: list[str]) -> None:
    with transaction.atomic():
        HOOK.on_commit("default", lambda: done.append("never"))
        raise InterruptedError


@pytest.mark.django_db(transaction=True)
def test_action_of_what_was_rolled_back_is_never_called() -> None:
    done: list[str] = []
    with transaction.atomic():
        with pytest.raises(InterruptedError):
            _roll_back(done)
        HOOK.on_commit("default", lambda: done.append("outer"))
    assert done == ["outer"]
    with pytest.raises(InterruptedError):
        _roll_back(done)
    assert done == ["outer"]


@pytest.mark.django_db(transaction=True)
def test_action_outside_of_a_transaction_is_called_at_once() -> None:
    done: list[str] = []
    HOOK.on_commit("default", lambda: done.append("x"))
    assert done == ["x"]
