"""A local Datastore over the real gRPC protocol. State is in memory only."""

from safedefer.emulator.datastore.server import DatastoreServer

__all__ = ["DatastoreServer"]
