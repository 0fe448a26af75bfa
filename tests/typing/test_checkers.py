"""What type checkers accept and refuse: every statement of the two files beside this one, for each checker."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Final, NamedTuple, TypeAlias

import pytest

from safedefer.core.function import RegisteredFunction
from safedefer.errors import InvalidFunctionError

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
OK, BAD = "cases_ok.py", "cases_bad.py"

Errors: TypeAlias = dict[str, dict[int, list[str]]]
"""The messages of a checker by file and line."""


class Gap(NamedTuple):
    """Statements that a checker gets wrong: those of a category, or only those that begin so."""

    reason: str
    file: str
    category: str
    only: tuple[str, ...] = ()
    except_for: tuple[str, ...] = ()

    def covers(self, statement: "Statement") -> bool:
        """Whether a statement is among them."""
        if statement.category != self.category or statement.source.startswith(self.except_for):
            return False
        return not self.only or statement.source.startswith(self.only)


WITH_PLUGIN: Final = "mypy with the plugin"
WITHOUT_PLUGIN: Final = "mypy without the plugin"
PYRIGHT: Final = "pyright"

_UNION: Final = "a union of two deferrables is held against the first one's signature"
_NO_OPTIONS: Final = "an option is taken for a keyword argument that the function does not have"
_LOST: Final = "a generic or overloaded function loses its type variables and variants"
_NO_BOUND: Final = "what @deferrable takes cannot be bounded by types alone"
_ANY: Final = "a function of any parameters takes whatever an option is given"

GAPS: Final[dict[str, list[Gap]]] = {
    WITH_PLUGIN: [Gap(_UNION, OK, "indirect", ("def w6(",))],
    WITHOUT_PLUGIN: [
        Gap(_LOST, OK, "overloaded", ('defer(t.over, "x", 1)',)),
        Gap(_LOST, OK, "call", ("_g1: int =", "_o1: str =")),
        Gap(_LOST, OK, "methods-generic", except_for=("t.over.defer(1)",)),
        Gap(_LOST, OK, "results", ("assert_type(t.over(", "assert_type(t.ident(")),
        Gap(_LOST, BAD, "generic", ("defer(t.ident, None",)),
        Gap(_NO_OPTIONS, OK, "static", ('defer(Svc.inner, 1, b="x", _queue',)),
        Gap(_NO_OPTIONS, OK, "options"),
        Gap(_NO_OPTIONS, OK, "iteration-options"),
        Gap(_NO_OPTIONS, OK, "mixed", except_for=("defer(t.varkw",)),
        Gap(_NO_OPTIONS, OK, "dict", except_for=("defer(t.add, *pair)",)),
        Gap(_NO_OPTIONS, OK, "indirect", ("def w2(", "def w3(", "async def w10(")),
        Gap(_NO_OPTIONS, OK, "adefer", tuple(f"async def a{number}(" for number in (3, 4, 7, 9, 10))),
        Gap(_NO_OPTIONS, OK, "results", ('assert_type(defer(t.add, 1, b="x", _queue',)),
        Gap(_ANY, BAD, "indirect", ("def w4(",)),
        Gap("a union is not held against every member", BAD, "indirect", ("def w6(",)),
        Gap(_NO_BOUND, BAD, "lambda"),
        Gap(_NO_BOUND, BAD, "method"),
        Gap(_NO_BOUND, BAD, "recursive"),
        Gap(_NO_BOUND, BAD, "travel", except_for=("def s20(a)",)),
    ],
    PYRIGHT: [
        Gap("keywords beside the ones of a TypedDict match no overload", OK, "dict", ("defer(t.kwonly",)),
        Gap(_LOST, OK, "call", ("_o1: str =",)),
        Gap(_LOST, OK, "methods-generic", ('t.over.defer("x"', "t.over.options(", "async def m2(")),
        Gap(_LOST, OK, "results", ("assert_type(t.over(",)),
        Gap(_ANY, BAD, "indirect", ("def w4(",)),
        Gap(_NO_BOUND, BAD, "lambda", ("deferrable(name=",)),
        Gap(_NO_BOUND, BAD, "method"),
        Gap(_NO_BOUND, BAD, "recursive"),
        Gap(_NO_BOUND, BAD, "travel", except_for=("def s13(a: T)", "def s20(a)")),
    ],
}
"""What each checker gets wrong. The tests fail for an entry that is no longer true, too."""


class Statement(NamedTuple):
    """One statement of a file of cases."""

    category: str
    lines: range
    source: str

    def messages(self, errors: dict[int, list[str]]) -> list[str]:
        """What a checker says of it."""
        return [message for line in self.lines for message in errors.get(line, [])]


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
            last = node.end_lineno or first
            found.append(Statement(categories[max(above)], range(first, last + 1), lines[node.lineno - 1]))
    return found


def run(*command: str, cwd: Path) -> str:
    """The output of a checker, which may have found errors but must not have failed."""
    environment = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def mypy_errors(config: str, cache: Path) -> Errors:
    """What mypy says of the two files."""
    files = [f"tests/typing/{file}" for file in (OK, BAD)]
    output = run("mypy", "--config-file", f"tests/typing/{config}", "--cache-dir", str(cache), *files, cwd=ROOT)
    found: Errors = {OK: {}, BAD: {}}
    for file, line, message in re.findall(r"^tests/typing/(\w+\.py):(\d+): error: (.*)$", output, re.MULTILINE):
        found[file].setdefault(int(line), []).append(message)
    return found


def pyright_errors() -> Errors:
    """What pyright says of the two files."""
    output = run("pyright", "--outputjson", "--project", str(HERE), "--pythonpath", sys.executable, cwd=HERE)
    found: Errors = {OK: {}, BAD: {}}
    for entry in json.loads(output)["generalDiagnostics"]:
        name = Path(entry["file"]).name
        if entry["severity"] == "error" and name in found:
            line = entry["range"]["start"]["line"] + 1
            found[name].setdefault(line, []).append(entry["message"].partition("\n")[0])
    return found


def differences(checker: str, errors: Errors) -> list[str]:
    """Where a checker differs from what is expected of it."""
    wrong = []
    for file in (OK, BAD):
        gaps = [gap for gap in GAPS[checker] if gap.file == file]
        for statement in statements(file):
            said = statement.messages(errors[file])
            is_right = bool(said) == (file == BAD)
            if is_right == any(gap.covers(statement) for gap in gaps):
                what = "is right, and no gap" if is_right else f"is wrong: {said[:1]}"
                wrong.append(f"{file}:{statement.lines.start} [{statement.category}] {statement.source} {what}")
        inside = {line for statement in statements(file) for line in statement.lines}
        wrong += [f"{file}:{line} {errors[file][line]}" for line in sorted(set(errors[file]) - inside)]
    return wrong


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of the run with our plugin, which finds it empty."""
    return tmp_path_factory.mktemp("mypy")


@pytest.fixture(scope="module")
def with_plugin(cache: Path) -> Errors:
    """What mypy says with our plugin beside the one of django-stubs."""
    return mypy_errors("mypy.ini", cache)


def test_mypy_with_the_plugin_accepts_the_right_and_refuses_the_wrong(with_plugin: Errors) -> None:
    assert differences(WITH_PLUGIN, with_plugin) == []


def test_mypy_without_the_plugin_has_these_gaps_and_no_others(tmp_path: Path) -> None:
    assert differences(WITHOUT_PLUGIN, mypy_errors("mypy_without_plugin.ini", tmp_path)) == []


def test_pyright_has_these_gaps_and_no_others() -> None:
    assert differences(PYRIGHT, pyright_errors()) == []


def test_mypy_says_the_same_with_a_warm_cache(with_plugin: Errors, cache: Path) -> None:
    assert mypy_errors("mypy.ini", cache) == with_plugin


def test_plugin_needs_no_other_plugin(with_plugin: Errors, tmp_path: Path) -> None:
    assert mypy_errors("mypy_alone.ini", tmp_path) == with_plugin


@pytest.mark.parametrize("checker", GAPS)
def test_every_gap_is_of_some_statement(checker: str) -> None:
    for gap in GAPS[checker]:
        sources = [statement.source for statement in statements(gap.file) if statement.category == gap.category]
        assert sources, gap
        for beginning in gap.only + gap.except_for:
            assert any(source.startswith(beginning) for source in sources), (gap, beginning)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("defer(t.add, 1, b=2)", 'Argument "b" to "defer" has incompatible type "int"; expected "str"'),
        ('defer(t.noargs, _qeue="q")', 'Unexpected keyword argument "_qeue" for "defer"; did you mean "_queue"?'),
        ('defer(t.kwonly, 1, b="x", _queue=1)', 'Argument "_queue" to "defer" has incompatible type "int"; expected'),
        ("t.ident.defer(1, 2)", 'Argument 2 to "defer" of "Deferrable" has incompatible type "int"; expected "list'),
        ("def s0(a: HttpRequest)", 'Parameter "a" of a deferrable function cannot travel: "HttpRequest"'),
        ("def s16(a: HttpRequest)", 'Parameter "a" of a deferrable function cannot travel: "HttpRequest"'),
        ("def s46(", 'Parameter "first" of a deferrable function cannot travel: "HttpRequest"'),
        ("def s20(a)", 'Parameter "a" of a deferrable function has no annotation'),
        ("def s21(a: int, _queue: str)", 'Parameter "_queue" of a deferrable function: names with an underscore'),
        ("def e0(a: Tree)", 'Parameter "a" of a deferrable function cannot travel: "Tree"'),
        ("deferrable(lambda x: None)", "A lambda cannot be deferred"),
        ('deferrable(name="l1")(lambda: None)', "A lambda cannot be deferred"),
    ],
)
def test_plugin_says_what_is_wrong(with_plugin: Errors, source: str, message: str) -> None:
    (statement,) = [found for found in statements(BAD) if found.source.startswith(source)]
    assert message in " ".join(statement.messages(with_plugin[BAD]))


def test_plugin_errors_have_its_code(with_plugin: Errors) -> None:
    for statement in statements(BAD):
        if statement.category in ("lambda", "travel", "recursive"):
            assert any(said.endswith("[safedefer]") for said in statement.messages(with_plugin[BAD])), statement.source


def functions_that_travel(file: str) -> dict[str, Callable[..., object]]:
    """The functions below `# [travel]`, without their decorators, beside the definitions above every category."""
    first = statements(file)[0].lines.start
    travelling = {statement.lines.stop - 1 for statement in statements(file) if statement.category == "travel"}
    kept: list[ast.stmt] = []
    names: list[str] = []
    for node in ast.parse((HERE / file).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno in travelling:
            node.decorator_list = []
            names.append(node.name)
            kept.append(node)
        elif node.lineno < first and not _registers_functions(node):
            kept.append(node)
    module = ModuleType(f"tests.typing.at_run_time.{file}")
    sys.modules[module.__name__] = module
    exec(compile(ast.Module(kept, []), file, "exec"), vars(module))
    return {name: vars(module)[name] for name in names}


def _registers_functions(node: ast.stmt) -> bool:
    # The deferred functions beside this file stay out of the registry of the other tests.
    return isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests.typing")


@pytest.mark.parametrize("function", functions_that_travel(OK).values(), ids=lambda function: function.__name__)
def test_decorator_accepts_when_run_what_the_plugin_accepts(function: Callable[..., object]) -> None:
    assert RegisteredFunction(function).parameters.all


@pytest.mark.parametrize("function", functions_that_travel(BAD).values(), ids=lambda function: function.__name__)
def test_decorator_refuses_when_run_what_the_plugin_refuses(function: Callable[..., object]) -> None:
    with pytest.raises(InvalidFunctionError):
        _ = RegisteredFunction(function).parameters
