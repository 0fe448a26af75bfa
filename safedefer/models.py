"""What Django looks up by name: the models of the app `safedefer`."""

from safedefer.django.models import StoredRecord

__all__ = ["StoredRecord"]
