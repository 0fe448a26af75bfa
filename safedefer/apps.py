"""What INSTALLED_APPS = ["safedefer"] loads."""

from django.apps import AppConfig


class SafeDeferConfig(AppConfig):
    """Starts safedefer once every app is loaded."""

    name = "safedefer"

    def ready(self) -> None:
        """Register the checks, import the modules that hold deferrables, seal the registry."""
        # Django's start-up order: these modules need the app registry, which is complete only now.
        from safedefer.django import checks, setup  # noqa: PLC0415

        checks.register_checks()
        setup.start()
