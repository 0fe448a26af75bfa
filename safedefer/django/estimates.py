"""How many rows a queryset has, roughly: within a bounded time, and without ever failing."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

from django.db import DatabaseError, InterfaceError, connections, transaction
from django.db.models import QuerySet

MAX_COUNT_TIME: Final = timedelta(seconds=2)
MAX_COUNTED: Final = 1_000_000
_STEPS_BETWEEN_LOOKS: Final = 10_000
"""Instructions of SQLite's virtual machine."""


def estimate_rows(queryset: QuerySet[Any], *, within: timedelta = MAX_COUNT_TIME) -> int | None:
    """The number of rows, for a progress bar or a choice.

    Exact where they are counted within the time, up to a million. Otherwise PostgreSQL's planner is asked, and other
    databases answer None: unknown.
    """
    rows = queryset.order_by().select_related(None)
    try:
        with _stopping_after(queryset.db, within):
            counted = rows[: MAX_COUNTED + 1].count()
    except (DatabaseError, InterfaceError):
        counted = MAX_COUNTED + 1
    if counted <= MAX_COUNTED:
        return counted
    return _planned(rows)


def _planned(rows: QuerySet[Any]) -> int | None:
    if connections[rows.db].vendor != "postgresql":
        return None
    try:
        with transaction.atomic(using=rows.db, savepoint=True):
            plan = json.loads(rows.explain(format="json"))
        return int(plan[0]["Plan"]["Plan Rows"])
    except (DatabaseError, InterfaceError, ValueError, LookupError, TypeError):
        return None


@contextmanager
def _stopping_after(using: str, within: timedelta) -> Iterator[None]:
    """Have the database give up on queries after a time, where it can; the caller's transaction stays usable."""
    connection = connections[using]
    if connection.vendor == "postgresql":
        with transaction.atomic(using=using), connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('statement_timeout')")
            (before,) = cursor.fetchone()
            milliseconds = max(1, within // timedelta(milliseconds=1))
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", [str(milliseconds)])
            yield
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", [before])
    elif connection.vendor == "sqlite":
        connection.ensure_connection()
        deadline = time.monotonic() + within.total_seconds()
        connection.connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS_BETWEEN_LOOKS)
        try:
            yield
        finally:
            connection.connection.set_progress_handler(None, 0)
    else:
        yield
