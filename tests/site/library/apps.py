"""An application with relations of every kind."""

from django.apps import AppConfig


class LibraryConfig(AppConfig):
    """Its label is `library`."""

    name = "tests.site.library"
    label = "library"
