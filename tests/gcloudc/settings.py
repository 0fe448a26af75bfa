"""A small Django project whose database is Datastore, through django-gcloud-connectors."""

import os
from pathlib import Path
from tempfile import mkdtemp

SECRET_KEY = "a-long-and-secret-key-for-the-tests-of-gcloudc-0123456789"
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django.contrib.contenttypes", "safedefer", "tests.gcloudc.shop"]
ROOT_URLCONF = "tests.site.urls"
DATABASES = {
    "default": {
        "ENGINE": "gcloudc.db.backends.datastore",
        "PROJECT": "local",
        # The backend demands the name of a file that it may write its special indexes to.
        "INDEXES_FILE": str(Path(mkdtemp(prefix="safedefer-gcloudc-")) / "indexes.yaml"),
    }
}
SAFEDEFER = {"HANDLER_URL": os.environ["SITE_HANDLER_URL"], "STORE": "datastore", "PROJECT": "local"}
