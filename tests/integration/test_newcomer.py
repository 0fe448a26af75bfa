"""The README's example, pasted into a new Django project."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 30
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
TASKS, CALLS, WIRING, WALK = BLOCKS[:4]
APP_SETTING, URL_SETTING = re.findall(r"^(?:INSTALLED_APPS|urlpatterns) \+= .*$", WIRING, re.MULTILINE)


def run(project: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Django's command line in the project."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=project,
        env={**clean_environment(), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def clean_environment() -> dict[str, str]:
    """The environment less what this test run has set for itself."""
    ours = ("DJANGO_SETTINGS_MODULE", "CLOUD_TASKS_EMULATOR_HOST", "SAFEDEFER_LOCAL_ISSUER", "GOOGLE_CLOUD_PROJECT")
    return {name: value for name, value in os.environ.items() if name not in ours}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A new project with the README's code in it."""
    assert run(tmp_path, "-m", "django", "startproject", "mysite", ".").returncode == 0
    assert run(tmp_path, "manage.py", "startapp", "shop").returncode == 0
    with (tmp_path / "mysite/settings.py").open("a") as settings:
        settings.write(f'{APP_SETTING}\nINSTALLED_APPS += ["shop"]\n')
    with (tmp_path / "mysite/urls.py").open("a") as urls:
        urls.write(f"from django.urls import include\n{URL_SETTING}\n")
    (tmp_path / "shop/models.py").write_text(
        "from django.db import models\n\n\nclass Customer(models.Model):\n    name = models.CharField(max_length=100)\n"
    )
    (tmp_path / "shop/tasks.py").write_text(TASKS)
    assert run(tmp_path, "manage.py", "makemigrations", "shop").returncode == 0
    assert run(tmp_path, "manage.py", "migrate").returncode == 0
    return tmp_path


def started(project: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=project,
        env={**clean_environment(), **environment, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    # Whoever says nothing for that long is ended, so that the line is empty and the test fails.
    watch = threading.Timer(WAIT_SECONDS, process.kill)
    watch.start()
    try:
        return process.stdout.readline().strip()
    finally:
        watch.cancel()


def ended(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.communicate(timeout=20)


def test_readme_example_needs_no_setting_while_debug_is_on(project: Path) -> None:
    done = run(project, "manage.py", "check")
    assert done.returncode == 0, done.stderr
    assert "safedefer.W001" in done.stderr
    assert done.stderr.count("safedefer.") == 1


def test_readme_example_has_its_tests_run(project: Path) -> None:
    assert run(project, "manage.py", "test").returncode == 0
    with (project / "mysite/settings.py").open("a") as settings:
        settings.write("DEBUG = False\n")
    done = run(project, "manage.py", "test")
    assert done.returncode == 1
    assert "safedefer.E003" in done.stderr


def test_readme_example_runs_its_calls(project: Path) -> None:
    # The one thing added: ports that the system chose, where the documentation has fixed ones.
    with (project / "mysite/settings.py").open("a") as settings:
        settings.write('import os\nSAFEDEFER = {"HANDLER_URL": os.environ["SITE_HANDLER_URL"]}\n')
    cloud = started(
        project, "-m", "safedefer.emulator", "--tasks-port", "0", "--issuer-port", "0", "--datastore-port", "0"
    )
    try:
        said = [line_of(cloud) for _ in range(3)]
        exports = dict(line.removeprefix("export ").split("=", 1) for line in said)
        site = started(
            project,
            str(ROOT / "tests/support/serve.py"),
            **exports,
            PYTHONPATH=str(project),
            DJANGO_SETTINGS_MODULE="mysite.settings",
        )
        try:
            url = f"{line_of(site)}/_safedefer/"
            code = f'from shop.models import Customer\nCustomer.objects.create(name="Ada")\n{CALLS}'
            code = code.replace("_countdown=5", "_countdown=0").replace("countdown=5", "countdown=0")
            done = run(project, "manage.py", "shell", "-c", code, **exports, SITE_HANDLER_URL=url)
            assert done.returncode == 0, done.stderr
            assert "charging Ada 9.50" in done.stdout
            charged = sorted(line_of(site) for _ in range(2))
            assert charged == ["charging Ada 9.50 May", "charging Ada 9.50 May"]
            done = run(project, "manage.py", "shell", "-c", WALK, **exports, SITE_HANDLER_URL=url)
            assert done.returncode == 0, done.stderr
            walked = [line_of(site) for _ in range(2)]
            assert walked == ["charging Ada 9.50 May", "charged everybody 9.50 May"]
        finally:
            ended(site)
    finally:
        ended(cloud)


def test_checks_say_exactly_what_is_missing_when_debug_is_off(project: Path) -> None:
    with (project / "mysite/settings.py").open("a") as settings:
        settings.write("DEBUG = False\n")
    done = run(project, "manage.py", "check")
    assert done.returncode == 1
    missing = re.findall(r"\(safedefer\.(E\d+)\) SAFEDEFER\['(\w+)'\] is missing", done.stderr)
    assert sorted({name for _, name in missing}) == [
        "HANDLER_URL",
        "KEYS",
        "LOCATION",
        "PROJECT",
        "SERVICE_ACCOUNT",
        "STORE",
    ]
    code = "from safedefer import defer\nfrom shop.tasks import charge\ndefer(charge, 1, 2)"
    done = run(project, "manage.py", "shell", "-c", code)
    assert done.returncode != 0
    assert "ConfigurationError: safedefer is not configured" in done.stderr


def test_what_the_checks_ask_for_is_all_that_is_needed(project: Path) -> None:
    secret = run(project, "manage.py", "safedefer_keys", "generate").stdout.strip()
    with (project / "mysite/settings.py").open("a") as settings:
        settings.write(
            "DEBUG = False\n"
            "SAFEDEFER = {\n"
            '    "PROJECT": "acme", "LOCATION": "europe-west1", "STORE": "orm",\n'
            '    "HANDLER_URL": "https://shop.example.com/_safedefer/",\n'
            '    "SERVICE_ACCOUNT": "tasks@acme.iam.gserviceaccount.com",\n'
            f'    "KEYS": [{{"id": "first", "secret": "{secret}", "state": "primary"}}],\n'
            "}\n"
        )
    done = run(project, "manage.py", "check")
    assert (done.returncode, done.stderr) == (0, "")
    listed = run(project, "manage.py", "safedefer_keys", "list").stdout
    assert re.fullmatch(r"[0-9a-f]{16}  primary    first\n", listed)
    assert secret not in listed
