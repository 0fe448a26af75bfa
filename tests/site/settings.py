"""The Django project that the tests run in."""

import atexit
import shutil
import tempfile
from pathlib import Path

# Files, since the handler runs in threads of its own, which would share one connection to a database in memory.
_FOLDER = Path(tempfile.mkdtemp(prefix="safedefer-tests-"))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)


def _sqlite(name: str) -> dict[str, object]:
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": _FOLDER / f"{name}.sqlite3",
        "TEST": {"NAME": _FOLDER / f"{name}-test.sqlite3"},
        # Without IMMEDIATE two writers that have both read would refuse each other instead of waiting.
        "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
    }


SECRET_KEY = "of-the-tests-and-of-nothing-else"
DEBUG = True
INSTALLED_APPS = ["django.contrib.contenttypes", "safedefer", "tests.site.shop", "tests.site.library"]
ROOT_URLCONF = "tests.site.urls"
POSTGRES_FOLDER = _FOLDER / "postgres"
"""Where the tests start a PostgreSQL of their own; it listens on a socket in that folder."""

DATABASES = {
    "default": _sqlite("default"),
    "other": _sqlite("other"),
    "postgres": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "postgres",
        "USER": "postgres",
        "HOST": str(POSTGRES_FOLDER),
    },
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "/static/"
MEDIA_URL = "/media/"
USE_TZ = True
TIME_ZONE = "Europe/Vienna"
ALLOWED_HOSTS = ["*"]
SAFEDEFER: dict[str, object] = {}

# Django 6.1 wants to be told where mail goes; earlier versions do not look at this.
MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}
