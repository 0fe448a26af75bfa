"""CommitHook over Django's transactions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import final

from django.db import DatabaseError, InterfaceError, OperationalError, transaction
from django.utils.connection import ConnectionDoesNotExist

from safedefer.errors import CommitRefusedError, InvalidOptionError, StoreUnavailableError


@final
class DjangoCommitHook:
    """Sends after commit whatever is deferred inside `atomic`."""

    def in_transaction(self, using: str) -> bool:
        """Whether an atomic block is open on the alias in this thread."""
        try:
            return bool(transaction.get_connection(using).in_atomic_block)
        except ConnectionDoesNotExist:
            raise InvalidOptionError(f"option using: there is no database alias {using!r}") from None

    def on_commit(self, using: str, action: Callable[[], object]) -> None:
        """Call `action` when the outermost atomic block of the alias commits."""
        transaction.on_commit(lambda: _call(action), using=using)

    @contextmanager
    def atomic(self, using: str) -> Iterator[None]:
        """An atomic block."""
        is_at_end = False
        try:
            with transaction.atomic(using=using):
                yield
                if transaction.get_rollback(using):
                    raise CommitRefusedError(f"a transaction on {using!r} is to be rolled back: it hides an error")
                is_at_end = True
        except (DatabaseError, InterfaceError) as error:
            problem = f"a transaction on {using!r} could not be ended ({type(error).__name__})"
            # Those two kinds are of the connection, or of a conflict with another transaction: it may succeed later.
            if is_at_end and not isinstance(error, OperationalError | InterfaceError):
                raise CommitRefusedError(problem) from error
            raise StoreUnavailableError(problem) from error


def _call(action: Callable[[], object]) -> None:
    action()
