"""The tests' Django project in a process of its own, on a database that its parent names."""

import json
import os

from tests.site.settings import *  # noqa: F403

DATABASES = {"default": json.loads(os.environ["WORKER_DATABASE"])}
SAFEDEFER = json.loads(os.environ["WORKER_SAFEDEFER"])
