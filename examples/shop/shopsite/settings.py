"""Settings of the example: a laptop's, with DEBUG on and the local cloud behind it."""

import os
from pathlib import Path

FOLDER = Path(os.environ.get("SHOP_FOLDER", Path(__file__).resolve().parent.parent))

DEBUG = True
SECRET_KEY = "django-insecure-this-is-an-example"
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
INSTALLED_APPS = ["safedefer", "orders"]
ROOT_URLCONF = "shopsite.urls"
MIDDLEWARE = ["django.middleware.common.CommonMiddleware", "django.middleware.csrf.CsrfViewMiddleware"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": FOLDER / "shop.sqlite3",
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            # Readers and a writer at once, and no wait for the disk: what is committed survives any process.
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
        },
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]

# With runserver on its usual port nothing has to be set; the demo serves the site on a port of its own.
SAFEDEFER = {"HANDLER_URL": os.environ["SHOP_HANDLER_URL"]} if "SHOP_HANDLER_URL" in os.environ else {}
SAFEDEFER["STORE"] = os.environ.get("SHOP_STORE", "orm")

# Every security decision as one line of JSON.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "safedefer.django.audit.JsonFormatter"}},
    "handlers": {
        "audit": {
            "class": "logging.FileHandler",
            "filename": FOLDER / "audit.jsonl",
            "delay": True,
            "formatter": "json",
        }
    },
    "loggers": {"safedefer.audit": {"handlers": ["audit"], "level": "INFO", "propagate": False}},
}
