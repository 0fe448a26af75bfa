"""safedefer in a project whose rows and records are in Datastore."""

from dataclasses import replace

import pytest
from django.core.checks import run_checks
from django.db import transaction
from google.cloud import datastore

from safedefer import defer
from safedefer.django.outbox import DjangoOutbox
from safedefer.emulator import LocalCloud
from safedefer.flow.runtime import current_runtime, installed
from tests.gcloudc.shop.models import Customer, Trace
from tests.gcloudc.shop.tasks import greet, note

WAIT_SECONDS = 20.0


def traces(cloud: LocalCloud) -> list[str]:
    """What deferred functions left behind, once nothing is waiting."""
    assert cloud.tasks.wait_idle(WAIT_SECONDS)
    return list(Trace.objects.values_list("text", flat=True))


def test_settings_are_accepted() -> None:
    assert [message.id for message in run_checks() if str(message.id).startswith("safedefer.")] == ["safedefer.W001"]


def test_call_reaches_its_row(cloud: LocalCloud) -> None:
    ada = Customer.objects.create(name="Ada", city="Graz")
    defer(greet, ada, greeting="Servus")
    assert traces(cloud) == ["Servus Ada of Graz"]


def test_call_is_sent_on_commit(cloud: LocalCloud) -> None:
    with transaction.atomic():
        ada = Customer.objects.create(name="Ada", city="Graz")
        defer(greet, ada)
        assert cloud.tasks.wait_idle(WAIT_SECONDS)
        assert list(datastore.Client(project="local").query(kind=Trace._meta.db_table).fetch()) == []
    assert traces(cloud) == ["Hello Ada of Graz"]


def test_first_call_of_a_process_may_be_one_of_a_transaction(cloud: LocalCloud) -> None:
    # A runtime that has not looked at the database before: the connector cannot name its tables in a transaction.
    with installed(replace(current_runtime(), outbox=DjangoOutbox())):
        with transaction.atomic():
            defer(note, "first")
        assert traces(cloud) == ["first"]


def defer_and_fail() -> None:
    with transaction.atomic():
        defer(note, "never")
        raise ZeroDivisionError


def test_call_of_a_transaction_that_was_rolled_back_is_never_sent(cloud: LocalCloud) -> None:
    with pytest.raises(ZeroDivisionError):
        defer_and_fail()
    defer(note, "after")
    assert traces(cloud) == ["after"]


def test_ledger_is_kept_beside_the_rows(cloud: LocalCloud) -> None:
    defer(note, "once")
    assert traces(cloud) == ["once"]
    kinds = {entity.key.name for entity in datastore.Client(project="local").query(kind="__kind__").fetch()}
    assert {Trace._meta.db_table, "SafedeferLedger"} <= kinds
