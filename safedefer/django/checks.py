"""System checks with lasting ids: docs/reference/checks.md lists them."""

import os
import re
import sys
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from django.apps import AppConfig
from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register  # noqa: A004  # Django's own name.
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router
from django.urls import NoReverseMatch, reverse

from safedefer.django.conf import Problem, Settings, read_settings
from safedefer.django.models import OutboxCall
from safedefer.django.outbox import has_table
from safedefer.django.records import OrmRecords


def register_checks() -> None:
    """Have `manage.py check`, and every command that runs the checks, look at the settings."""
    register(check_project, "safedefer")
    register(check_outbox, Tags.database)


def check_project(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """What `check_settings` says of the project's settings as they are written.

    Django's test runner turns DEBUG off before it runs the checks: a project that needs nothing on a laptop would need
    keys for its tests, which use none.
    """
    state = getattr(sys.modules.get("django.test.utils"), "_TestState", None)
    if getattr(getattr(state, "saved_data", None), "debug", False) and not django_settings.DEBUG:
        return _check(_AsWritten())
    return check_settings(app_configs, **kwargs)


class _AsWritten:
    """Django's settings with the DEBUG that they had before the test runner came."""

    DEBUG = True

    def __getattr__(self, name: str) -> Any:
        return getattr(django_settings, name)


def check_settings(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> list[CheckMessage]:  # noqa: ARG001
    """Every problem of the SAFEDEFER setting, and of where the handler is mounted."""
    return _check(django_settings)


def _check(given: object) -> list[CheckMessage]:
    settings, problems = read_settings(given, os.environ)
    messages = [_message(problem) for problem in problems]
    if settings is not None:
        messages += [*_check_store(settings), *_check_mount(settings)]
    return messages


def check_outbox(
    app_configs: Sequence[AppConfig] | None = None,  # noqa: ARG001
    databases: Sequence[str] | None = None,
    **kwargs: Any,  # noqa: ARG001
) -> list[CheckMessage]:
    """Databases without the outbox: `manage.py check --database` looks, and so does `migrate`."""
    settings, _ = read_settings(django_settings, os.environ)
    if settings is None or not settings.outbox:
        return []
    return [
        Warning(
            f"The database {using!r} has no outbox: calls deferred in its transactions are lost if the process dies "
            "between commit and sending.",
            hint=f"Run `manage.py migrate --database {using}`, or set SAFEDEFER['OUTBOX'] to False.",
            id="safedefer.W006",
        )
        for using in databases or ()
        if router.allow_migrate_model(using, OutboxCall) and _is_migrated(using) and not has_table(using)
    ]


def _is_migrated(using: str) -> bool:
    """Whether anything was ever migrated: before the first time, everything is missing."""
    return has_table(using, "django_migrations")


def _message(problem: Problem) -> CheckMessage:
    kind = Error if problem.is_error else Warning
    return kind(problem.message, hint=problem.hint or None, id=f"safedefer.{problem.id}")


def _check_store(settings: Settings) -> list[CheckMessage]:
    if settings.store != "orm":
        return []
    alias = OrmRecords().using
    if connections[alias].settings_dict["ENGINE"].startswith("gcloudc."):
        # Its unique constraints and conditional updates are not what the ledger rests on.
        return [
            Error(
                f'SAFEDEFER["STORE"] is "orm", but the database {alias!r} is Datastore.',
                hint='Set it to "datastore".',
                id="safedefer.E012",
            )
        ]
    return []


def _check_mount(settings: Settings) -> list[CheckMessage]:
    path = urlsplit(settings.handler_url).path
    try:
        mounted = reverse("safedefer:handler")
    except (NoReverseMatch, ImproperlyConfigured, AttributeError):
        return [
            Warning(
                "safedefer.urls is mounted nowhere: this site can defer calls, but cannot execute them.",
                hint='Add path("_safedefer/", include("safedefer.urls")) to the URLconf of the site that executes.',
                id="safedefer.W003",
            )
        ]
    if mounted != path:
        # A dispatch to another path would be redirected or not found; a redirect would carry the token along.
        return [
            Error(
                f"The handler is mounted at {mounted}, but SAFEDEFER['HANDLER_URL'] ends in {path or '/'}.",
                hint="Make both the same, to the slash.",
                id="safedefer.E010",
            )
        ]
    return _check_redirects(settings, path)


def _check_redirects(settings: Settings, path: str) -> list[CheckMessage]:
    """What would answer a dispatch with a redirect, before it comes to the handler."""
    messages: list[CheckMessage] = []
    exempt = any(re.search(pattern, path.lstrip("/")) for pattern in django_settings.SECURE_REDIRECT_EXEMPT)
    if django_settings.SECURE_SSL_REDIRECT and not exempt:
        if settings.local is not None:
            messages.append(
                Warning(
                    "SECURE_SSL_REDIRECT redirects the dispatches of the local cloud, which come over http.",
                    hint="Turn it off where DEBUG is on.",
                    id="safedefer.W004",
                )
            )
        elif django_settings.SECURE_PROXY_SSL_HEADER is None:
            messages.append(
                Warning(
                    "SECURE_SSL_REDIRECT redirects every dispatch where a proxy ends TLS and Django cannot see it.",
                    hint="Set SECURE_PROXY_SSL_HEADER as the proxy does, or exempt the handler's path in "
                    "SECURE_REDIRECT_EXEMPT.",
                    id="safedefer.W005",
                )
            )
    host = urlsplit(settings.handler_url).hostname or ""
    if django_settings.PREPEND_WWW and not host.startswith("www."):
        messages.append(
            Error(
                f"PREPEND_WWW redirects every dispatch to www.{host}, and its token with it.",
                hint="Let SAFEDEFER['HANDLER_URL'] begin with www, or turn PREPEND_WWW off.",
                id="safedefer.E011",
            )
        )
    return messages
