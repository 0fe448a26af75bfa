"""The pytest plugin, in a project of its own that has nothing but the how-to's code and the installed package."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/how-to/test-tasks.md").read_text(), re.DOTALL)
MODELS, FIXTURES, ITERATION, TEST_CASE, WHOLE_WAY, DOUBLED = BLOCKS

SETTINGS = """
DEBUG = True
INSTALLED_APPS = ["safedefer", "shop"]
ROOT_URLCONF = "urls"
SECRET_KEY = "x"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3", "TEST": {"NAME": "t.sqlite3"}}}
USE_TZ = True
STATIC_URL = "/static/"
"""
URLS = """
from django.urls import include, path

urlpatterns = [path("_safedefer/", include("safedefer.urls"))]
"""
QUEUES = 'SAFEDEFER = {"QUEUES": [{"name": "mail"}]}\n'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The how-to's application."""
    files = {
        "settings.py": SETTINGS,
        "urls.py": URLS,
        "shop/__init__.py": "",
        "shop/models.py": MODELS,
        "shop/tasks.py": "import shop.models\n",
        "pytest.ini": "[pytest]\nfilterwarnings = error\nDJANGO_SETTINGS_MODULE = settings\npythonpath = .\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the project, without what this test run has set for itself."""
    names = ("PATH", "HOME", "LANG", "VIRTUAL_ENV", "TMPDIR")
    environ = {name: os.environ[name] for name in names if name in os.environ}
    return subprocess.run(
        [sys.executable, *arguments], cwd=project, env=environ, capture_output=True, text=True, check=False, timeout=120
    )


def test_fixtures_of_the_how_to_are_there_and_its_tests_pass(project: Path) -> None:
    (project / "test_shop.py").write_text(FIXTURES + ITERATION)
    done = run(project, "-m", "pytest", "-q")
    assert "4 passed" in done.stdout, done.stdout + done.stderr


def test_test_case_of_the_how_to_passes_with_djangos_own_runner(project: Path) -> None:
    (project / "test_shop.py").write_text(TEST_CASE)
    done = run(project, "-W", "error", "-m", "django", "test", "--settings=settings", "--pythonpath=.")
    assert done.returncode == 0, done.stderr
    assert "Ran 1 test" in done.stderr


def test_local_cloud_of_the_how_to_calls_the_live_server(project: Path) -> None:
    (project / "settings.py").write_text(SETTINGS + QUEUES)
    again = "assert len(safedefer_local_cloud.tasks.attempts) == 2\n"
    doubled = DOUBLED.replace("...", f"{WHOLE_WAY.partition(':')[2].strip()}\n    {again}")
    (project / "test_shop.py").write_text("from shop.models import place_order\n\n" + WHOLE_WAY + "\n\n" + doubled)
    done = run(project, "-m", "pytest", "-q")
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_failing_task_is_shown_with_its_own_error(project: Path) -> None:
    (project / "test_shop.py").write_text(
        "from shop.models import fail\n\n\n"
        "def test_it(deferred_tasks):\n    fail.defer('an order')\n    deferred_tasks.process_task_queues()\n"
    )
    done = run(project, "-m", "pytest", "-q")
    assert "1 failed" in done.stdout, done.stdout + done.stderr
    assert "LookupError: an order" in done.stdout
    assert "TaskFailedError: shop.fail in queue default ended as failed: function_failed (LookupError)" in done.stdout


def test_plugin_leaves_a_project_without_django_alone(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(
        "import sys\n\n\ndef test_other():\n    assert 'safedefer.testing.pytest_plugin' in sys.modules\n"
        "    assert 'safedefer.emulator' not in sys.modules\n    assert 'google.cloud' not in sys.modules\n"
    )
    done = run(tmp_path, "-W", "error", "-m", "pytest", "-q", "-W", "error", "-p", "no:django")
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_testing_is_importable_before_django_is_set_up(tmp_path: Path) -> None:
    code = "import safedefer.testing, sys; sys.exit('pytest' in sys.modules or 'safedefer.emulator' in sys.modules)"
    assert run(tmp_path, "-W", "error", "-c", code).returncode == 0


def test_capturing_before_django_is_set_up_says_what_to_do(tmp_path: Path) -> None:
    done = run(tmp_path, "-c", "from safedefer.testing import capture_tasks\nwith capture_tasks(): pass")
    assert 'add "safedefer" to INSTALLED_APPS and call django.setup()' in done.stderr
