"""What type checkers accept and refuse: every statement of the two files beside this one, for each checker."""

import ast
import json
import os
import re
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from safedefer.core.function import RegisteredFunction
from safedefer.errors import InvalidFunctionError

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
OK, BAD = "cases_ok.py", "cases_bad.py"

GAPS: Final[dict[str, dict[str, set[str]]]] = {
    "mypy with the plugin": {
        # A union of two deferrables is held against the first one's signature.
        OK: {"def w6(flag: bool)"},
        BAD: set(),
    },
    "pyright": {
        # Keyword arguments beside the ones of a TypedDict match no overload.
        # An overloaded function, called directly, has lost its type.
        OK: {'defer(t.kwonly, 1, b="x", **opts)', "_o1: str = t.over", "assert_type(t.over("},
        # Options are not looked for where the function takes anything; a parameter's type has no bound to break.
        BAD: {"def w4(fn: Deferrable[Callable[..., Any]])", "travel"},
    },
}
"""What a checker gets wrong: the beginning of a statement, or a whole category. An entry has to be true."""


class Statement(NamedTuple):
    """One statement of a file of cases."""

    category: str
    first: int
    last: int
    source: str


def statements(file: str) -> list[Statement]:
    """The statements below the first `# [category]` line."""
    text = (HERE / file).read_text()
    lines = text.splitlines()
    categories = {number: line[3:-1] for number, line in enumerate(lines, 1) if re.fullmatch(r"# \[[a-z-]+\]", line)}
    found = []
    for node in ast.parse(text).body:
        first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
        above = [number for number in categories if number < first]
        if above:
            found.append(Statement(categories[max(above)], first, node.end_lineno or first, lines[node.lineno - 1]))
    return found


def mypy_errors(config: str, cache: Path) -> dict[str, dict[int, str]]:
    """Lines with an error, as mypy sees them."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", f"tests/typing/{config}", "--cache-dir", str(cache)]
        + [f"tests/typing/{file}" for file in (OK, BAD)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found: dict[str, dict[int, str]] = {OK: {}, BAD: {}}
    for file, line, message in re.findall(r"^tests/typing/(\w+\.py):(\d+): error: (.*)$", done.stdout, re.M):
        found[file].setdefault(int(line), message)
    return found


def pyright_errors() -> dict[str, dict[int, str]]:
    """Lines with an error, as pyright sees them."""
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--project", str(HERE), "--pythonpath", sys.executable],
        cwd=HERE,
        env={**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    found: dict[str, dict[int, str]] = {OK: {}, BAD: {}}
    for entry in json.loads(done.stdout)["generalDiagnostics"]:
        name = Path(entry["file"]).name
        if entry["severity"] == "error" and name in found:
            found[name].setdefault(entry["range"]["start"]["line"] + 1, entry["message"].partition("\n")[0])
    return found


def compare(checker: str, errors: dict[str, dict[int, str]]) -> list[str]:
    """Where a checker differs from what is expected of it."""
    wrong = []
    for file, refused in ((OK, False), (BAD, True)):
        for statement in statements(file):
            seen = [errors[file][line] for line in range(statement.first, statement.last + 1) if line in errors[file]]
            gap = any(statement.source.startswith(g) or statement.category == g for g in GAPS[checker][file])
            if statement.category in GAPS[checker][file]:
                continue  # A category is a gap as a whole: some of it may be right.
            if (bool(seen) == refused) == gap:
                wrong.append(f"{file}:{statement.first} {statement.source} -> {seen[:1]}{' (no gap)' if gap else ''}")
        lines = {line for statement in statements(file) for line in range(statement.first, statement.last + 1)}
        elsewhere = set(errors[file]) - lines
        wrong += [f"{file}:{line} elsewhere: {errors[file][line]}" for line in sorted(elsewhere)]
    return wrong


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the runs of this module; the first finds it empty."""
    return tmp_path_factory.mktemp("mypy")


@pytest.fixture(scope="module")
def with_plugin(cache: Path) -> dict[str, dict[int, str]]:
    """What mypy says with the plugin."""
    return mypy_errors("mypy.ini", cache)


def test_mypy_with_the_plugin_accepts_the_right_and_refuses_the_wrong(
    with_plugin: dict[str, dict[int, str]],
) -> None:
    assert compare("mypy with the plugin", with_plugin) == []


def test_mypy_says_the_same_with_a_warm_cache(with_plugin: dict[str, dict[int, str]], cache: Path) -> None:
    assert mypy_errors("mypy.ini", cache) == with_plugin


def test_mypy_without_the_plugin_checks_the_methods(tmp_path: Path) -> None:
    errors = mypy_errors("mypy_without_plugin.ini", tmp_path)
    for file, refused in ((OK, False), (BAD, True)):
        for statement in statements(file):
            if statement.category == "methods":
                lines = range(statement.first, statement.last + 1)
                assert any(line in errors[file] for line in lines) == refused, statement.source


def test_pyright_accepts_the_right_and_refuses_the_wrong() -> None:
    assert compare("pyright", pyright_errors()) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("defer(t.add, 1, b=2)", 'Argument "b" to "defer" has incompatible type "int"; expected "str"'),
        ('defer(t.noargs, _qeue="q")', 'Unexpected keyword argument "_qeue" for "defer"; did you mean "_queue"?'),
        ("def s0(a: HttpRequest)", 'Parameter "a" of a deferrable function cannot travel: "HttpRequest"'),
        ("def s16(a: HttpRequest)", 'Parameter "a" of a deferrable function cannot travel: "HttpRequest"'),
        ("def s21(a: int, _queue: str)", 'Parameter "_queue" of a deferrable function: names with an underscore'),
        ("deferrable(lambda x: None)", "A lambda cannot be deferred"),
    ],
)
def test_plugin_says_what_is_wrong(with_plugin: dict[str, dict[int, str]], source: str, message: str) -> None:
    (statement,) = [found for found in statements(BAD) if found.source.startswith(source)]
    said = " ".join(with_plugin[BAD].get(line, "") for line in range(statement.first, statement.last + 1))
    assert message in said


def functions_that_travel(file: str) -> dict[str, Any]:
    """The functions below `# [travel]`, without their decorators."""
    tree = ast.parse((HERE / file).read_text())
    lines = {statement.first for statement in statements(file) if statement.category == "travel"}
    names = []
    kept: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.decorator_list and node.decorator_list[0].lineno in lines:
            node.decorator_list = []
            names.append(node.name)
            kept.append(node)
        elif isinstance(node, ast.ImportFrom | ast.ClassDef) and getattr(node, "module", "") != "tests.typing.functions":
            if not (isinstance(node, ast.ImportFrom) and node.module == "tests.typing"):
                kept.append(node)
        elif isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("TypeVar"):
            kept.append(node)
    module = type(sys)(f"cases_{file}")
    sys.modules[module.__name__] = module
    exec(compile(ast.Module(kept, []), file, "exec"), vars(module))
    return {name: vars(module)[name] for name in names}


@pytest.mark.parametrize(("name", "function"), functions_that_travel(OK).items())
def test_decorator_accepts_at_run_time_what_the_plugin_accepts(name: str, function: typing.Any) -> None:
    assert RegisteredFunction(function).parameters.all


@pytest.mark.parametrize(("name", "function"), functions_that_travel(BAD).items())
def test_decorator_refuses_at_run_time_what_the_plugin_refuses(name: str, function: typing.Any) -> None:
    with pytest.raises(InvalidFunctionError):
        _ = RegisteredFunction(function).parameters
