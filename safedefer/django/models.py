"""The table of the record store on the ORM."""

from typing import ClassVar

from django.db import models


class StoredRecord(models.Model):
    """One durable record; see `safedefer.core.records.Record`."""

    kind = models.CharField(max_length=16)
    name = models.CharField(max_length=128)
    version = models.BigIntegerField()
    data = models.BinaryField()
    expires_at = models.BigIntegerField(db_index=True)

    class Meta:
        app_label = "safedefer"
        constraints: ClassVar = [models.UniqueConstraint(fields=["kind", "name"], name="safedefer_record_key")]

    def __str__(self) -> str:
        return f"{self.kind} {self.name} version {self.version}"
