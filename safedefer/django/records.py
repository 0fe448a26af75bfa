"""RecordStore over the ORM: a row for each record, a conditional write for each change, one transaction a commit."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, final

from django.db import DatabaseError, IntegrityError, InterfaceError, router, transaction

from safedefer.core.records import Change, Put, Record, RecordKey, RecordKind
from safedefer.django.models import StoredRecord
from safedefer.errors import RecordConflictError, StoreUnavailableError

_IN_ONE_QUERY: Final = 500


@final
class OrmRecords:
    """Keeps records in the table of `StoredRecord`, on the database that the project's routers name for it.

    Every write is conditional on the version, so that no lock is held between reading and writing, and the database's
    default isolation is enough.

    Args:
        using: The database alias; None leaves it to the project's routers.
    """

    def __init__(self, using: str | None = None) -> None:
        self._using = using

    @property
    def using(self) -> str:
        """The alias in use. Reads use it too: a replica may not have what was committed a moment ago."""
        return self._using or router.db_for_write(StoredRecord)

    def get(self, keys: Sequence[RecordKey]) -> Mapping[RecordKey, Record]:
        """Read records, with one query for each kind."""
        names: dict[RecordKind, list[str]] = {}
        for key in keys:
            names.setdefault(key.kind, []).append(key.id)
        records: dict[RecordKey, Record] = {}
        with translated("read"):
            for kind, wanted in names.items():
                for start in range(0, len(wanted), _IN_ONE_QUERY):
                    rows = StoredRecord.objects.using(self.using).filter(
                        kind=kind.value, name__in=wanted[start : start + _IN_ONE_QUERY]
                    )
                    records.update({record.key: record for record in map(_record, rows)})
        return records

    def scan(self, kind: RecordKind, *, after: str = "", limit: int) -> Sequence[Record]:
        """Read records along the unique index of kind and name."""
        with translated("read"):
            rows = StoredRecord.objects.using(self.using).filter(kind=kind.value, name__gt=after).order_by("name")
            return [_record(row) for row in rows[:limit]]

    def commit(self, changes: Sequence[Change]) -> None:
        """Make all changes in one transaction, or inside the one that is open."""
        # One order for all writers, so that two of them never wait for each other's rows.
        ordered = sorted(changes, key=lambda change: change.key)
        with translated("write"), transaction.atomic(using=self.using):
            for change in ordered:
                if not _apply(change, self.using):
                    raise RecordConflictError("a record has another version than its change expects")


def _apply(change: Change, using: str) -> bool:
    rows = StoredRecord.objects.using(using).filter(kind=change.key.kind.value, name=change.key.id)
    if not isinstance(change, Put):
        return rows.filter(version=change.expected).delete()[0] == 1
    if change.expected is not None:
        changed = rows.filter(version=change.expected).update(
            version=change.version, data=change.data, expires_at=change.expires_at
        )
        return changed == 1
    row = StoredRecord(
        kind=change.key.kind.value,
        name=change.key.id,
        version=change.version,
        data=change.data,
        expires_at=change.expires_at,
    )
    try:
        # A savepoint: an open transaction of the caller's stays usable.
        with transaction.atomic(using=using):
            row.save(force_insert=True, using=using)
    except IntegrityError:
        return False
    return True


def _record(row: StoredRecord) -> Record:
    return Record(
        key=RecordKey(RecordKind(row.kind), row.name),
        version=row.version,
        data=bytes(row.data),
        expires_at=row.expires_at,
    )


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn the database's errors into ours.

    Raises:
        StoreUnavailableError: The database did not answer, or lacks the table.
    """
    try:
        yield
    except (DatabaseError, InterfaceError) as error:
        raise StoreUnavailableError(
            f"a table of safedefer could not be used to {what} ({type(error).__name__}); "
            "see that the database is up and `manage.py migrate` has been run"
        ) from error
