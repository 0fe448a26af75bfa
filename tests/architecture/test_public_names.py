"""The public names: importable before Django is set up, documented, and no more than these."""

import inspect
import subprocess
import sys

import safedefer
from safedefer import errors


def test_package_is_importable_without_django_settings() -> None:
    code = "import safedefer, sys; sys.exit('django' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_says_what_it_is() -> None:
    for module in (safedefer, errors):
        for name in module.__all__:
            if name != "Serializable":
                assert inspect.getdoc(getattr(module, name)), name


def test_every_error_is_under_the_one_root() -> None:
    defined = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, BaseException) and value.__module__ == errors.__name__
    }
    assert defined <= set(errors.__all__)
    assert all(issubclass(getattr(errors, name), errors.SafeDeferError) for name in defined)
