"""Documents cannot drift: their code compiles, their links lead somewhere, their tables name what the code has."""

import re
from pathlib import Path

import pytest

from safedefer import errors
from safedefer.core import limits
from safedefer.core.options import OPTION_NAMES
from safedefer.django import conf
from safedefer.errors import Reason
from safedefer.gcp import datastore

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "benchmarks/README.md"]


def page(path: str) -> str:
    return (ROOT / "docs" / path).read_text()


def first_column(text: str) -> set[str]:
    """The words in code style in the first column of every table."""
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ") and "`" in line.split("|")[1]]
    return {word for cell in cells for word in re.findall(r"`([^`]+)`", cell)}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_in_documents_compiles(path: Path) -> None:
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)):
        compile(block, f"{path.name} block {number}", "exec")


def test_every_setting_is_documented() -> None:
    text = page("reference/settings.md").partition("Also read")[0]
    assert first_column(text) == set(conf.KEYS)


def test_every_check_is_documented() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "safedefer/django").rglob("*.py"))
    known = set(re.findall(r'"(?:safedefer\.)?([EW]\d{3})"', sources))
    assert set(re.findall(r"safedefer\.([EW]\d{3})", page("reference/checks.md"))) == known


def test_every_error_is_documented() -> None:
    assert first_column(page("reference/errors.md")) == set(errors.__all__) - {"Reason"}


def test_every_reason_is_documented() -> None:
    text = page("how-to/look-into-a-refusal.md")
    named = first_column(text) | set(re.findall(r"`(\w+)`", text.partition("are no refusals")[0].splitlines()[-1]))
    assert {reason.value for reason in Reason} <= named


def test_every_option_is_documented() -> None:
    table = page("reference/options.md").partition("## Of a deferrable")[0]
    assert first_column(table) == {f"_{name}" for name in OPTION_NAMES}


def test_every_promise_names_a_test_that_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page("reference/promises.md"))
    assert {f"_{name}" for name in OPTION_NAMES} <= first_column(page("reference/promises.md"))
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(), (path, name)


def test_every_limit_is_documented() -> None:
    names = {name for name in vars(limits) if name.isupper()}
    assert first_column(page("reference/limits.md")) == names


def test_every_datastore_kind_gets_a_ttl_policy() -> None:
    text = page("how-to/production.md")
    named = re.findall(r"^for kind in ([\w ]+); do$", text, re.MULTILINE)
    kinds = set(datastore._KINDS.values())
    assert [sorted(loop.split()) for loop in named] == [sorted(kinds)]
    assert {word for word in first_column(text) if word.startswith("Safedefer")} == kinds


def test_documents_speak_of_the_project_alone() -> None:
    for path in PAGES:
        assert not re.search(r"/work/|/root/|\bshared/|localhost:\d{4}/.*prototype", path.read_text()), path
