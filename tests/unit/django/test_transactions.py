"""Calls that wait for the caller's transaction."""

from contextlib import suppress

import pytest
from django.db import DatabaseError, connections, transaction

from safedefer.django.transactions import DjangoCommitHook
from safedefer.errors import CommitRefusedError, InvalidOptionError, StoreUnavailableError
from tests.site.shop.models import Customer, Order

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


@pytest.mark.parametrize("alias", ["default", "postgres"])
@pytest.mark.django_db(transaction=True, databases=["default", "postgres"])
def test_constraint_that_is_looked_at_in_the_end_refuses_the_commit(alias: str) -> None:
    with pytest.raises(CommitRefusedError, match="IntegrityError"), HOOK.atomic(alias):
        Order.objects.using(alias).create(customer_id=-1)
    assert not Order.objects.using(alias).exists()


@pytest.mark.parametrize("alias", ["default", "postgres"])
@pytest.mark.parametrize("statement", ["SELECT 1 FROM nowhere", None])
@pytest.mark.django_db(transaction=True, databases=["default", "postgres"])
def test_error_that_the_block_hides_refuses_its_commit_and_no_other(alias: str, statement: str | None) -> None:
    customers = Customer.objects.using(alias)

    def hide() -> None:
        customers.create(name="inner")
        with suppress(DatabaseError):
            if statement is None:
                customers.create(pk=customers.get(name="inner").pk, name="again")
            else:
                connections[alias].cursor().execute(statement)

    with HOOK.atomic(alias):
        customers.create(name="outer")
        if statement is not None and alias == "default":
            with HOOK.atomic(alias):
                hide()  # SQLite goes on behind a statement that it does not know.
        else:
            with pytest.raises(CommitRefusedError), HOOK.atomic(alias):
                hide()
    kept = ["outer", "inner"] if statement is not None and alias == "default" else ["outer"]
    assert list(customers.order_by("pk").values_list("name", flat=True)) == kept


@pytest.mark.django_db(transaction=True, databases=["postgres"])
def test_connection_that_is_lost_is_an_outage() -> None:
    with pytest.raises(StoreUnavailableError), HOOK.atomic("postgres"):
        _end_this_session("postgres")


def _end_this_session(alias: str) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        found = cursor.fetchone()
    other = connections[alias].copy()
    with other.cursor() as killer:
        killer.execute("SELECT pg_terminate_backend(%s, 5000)", found)
    other.close()


@pytest.mark.django_db(transaction=True)
def test_action_outside_of_a_transaction_is_called_at_once() -> None:
    done: list[str] = []
    HOOK.on_commit("default", lambda: done.append("x"))
    assert done == ["x"]
