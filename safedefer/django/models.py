"""The tables of the record store on the ORM, and of the outbox."""

from typing import ClassVar

from django.db import models


class StoredRecord(models.Model):
    """One durable record; see `safedefer.core.records.Record`."""

    kind: "models.CharField[str, str]" = models.CharField(max_length=16)
    name: "models.CharField[str, str]" = models.CharField(max_length=128)
    version: "models.BigIntegerField[int, int]" = models.BigIntegerField()
    data: "models.BinaryField[bytes, bytes]" = models.BinaryField()
    expires_at: "models.BigIntegerField[int, int]" = models.BigIntegerField(db_index=True)

    class Meta:
        app_label = "safedefer"
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["kind", "name"], name="safedefer_record_key")
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.name} version {self.version}"


class OutboxCall(models.Model):
    """A sealed call that waits in its caller's transaction; see `safedefer.core.outbox.WaitingCall`."""

    task_id: "models.CharField[str, str]" = models.CharField(max_length=32, primary_key=True)
    envelope: "models.BinaryField[bytes, bytes]" = models.BinaryField()
    created_at: "models.BigIntegerField[int, int]" = models.BigIntegerField(db_index=True)
    leased_until: "models.BigIntegerField[int, int]" = models.BigIntegerField(default=0)

    class Meta:
        app_label = "safedefer"
        db_table = "safedefer_outboxcall"

    def __str__(self) -> str:
        return f"waiting call {self.task_id}"
