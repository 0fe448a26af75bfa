"""The SAFEDEFER setting, and what is read beside it.

Nothing else reads the setting or the environment. Reading does no I/O: what only the metadata server knows stays None
and is asked for when the runtime is built.
"""

from safedefer.django.conf.keys import KeySetting
from safedefer.django.conf.places import LOCAL_SERVICE_ACCOUNT, LocalCloud
from safedefer.django.conf.reading import KEYS, Problem
from safedefer.django.conf.settings import DjangoSettings, Settings, read_settings
from safedefer.django.conf.values import DatastoreSetting, is_loopback

__all__ = [
    "KEYS",
    "LOCAL_SERVICE_ACCOUNT",
    "DatastoreSetting",
    "DjangoSettings",
    "KeySetting",
    "LocalCloud",
    "Problem",
    "Settings",
    "is_loopback",
    "read_settings",
]
