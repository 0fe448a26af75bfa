"""Invoker, FailureSink and Clock on Django: how a function is called, who hears of its failure, what time it is."""

import inspect
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import datetime
from typing import Any, TypeVar, final

from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings
from django.utils import timezone

from safedefer.django.signals import task_failed

T = TypeVar("T")


@final
class DjangoInvoker:
    """Calls plain functions here; runs coroutine functions on an event loop, with their ORM calls in this thread."""

    def call(self, function: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        """Call the function and wait for its end; what it returns is dropped."""
        if inspect.iscoroutinefunction(function):
            coroutine_function: Callable[..., Coroutine[Any, Any, object]] = function
            async_to_sync(coroutine_function)(*args, **kwargs)
        else:
            function(*args, **kwargs)

    def call_each(
        self,
        function: Callable[..., object],
        firsts: Iterable[object],
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
    ) -> None:
        """Call the function for one first argument after another."""
        if inspect.iscoroutinefunction(function):
            async_to_sync(_await_each)(function, firsts, args, kwargs)
        elif args or kwargs:
            for first in firsts:
                function(first, *args, **kwargs)
        else:
            for first in firsts:
                function(first)

    async def in_thread(self, action: Callable[[], T]) -> T:
        """Run blocking code in the thread that Django's ORM uses for this context."""
        return await sync_to_async(action, thread_sensitive=True)()


async def _await_each(
    function: Callable[..., Coroutine[Any, Any, object]],
    firsts: Iterable[object],
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
) -> None:
    for first in firsts:
        await function(first, *args, **kwargs)


@final
class SignalFailures:
    """Sends `task_failed`."""

    def failed(self, function: str, task_id: str, error: BaseException) -> None:
        """Tell every receiver; an error of one does not keep the others from hearing."""
        task_failed.send_robust(sender=None, function=function, task_id=task_id, error=error)


@final
class DjangoClock:
    """The system's clock; naive datetimes are read as Django's settings say."""

    # Without a function of ours between: an iteration asks before each row.
    time: "staticmethod[[], float]" = staticmethod(time.time)
    """Seconds since 1970 in UTC."""

    def aware(self, moment: datetime) -> datetime:
        """With USE_TZ a naive datetime is in the current time zone, without it in TIME_ZONE."""
        if timezone.is_aware(moment):
            return moment
        return timezone.make_aware(moment, None if settings.USE_TZ else timezone.get_default_timezone())
