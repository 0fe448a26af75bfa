"""Imports point one way: errors <- core <- flow <- api <- django, with gcp beside flow and the rest at the rim."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

PACKAGE: Final = Path(__file__).resolve().parents[2] / "safedefer"
MODULES: Final = sorted(PACKAGE.rglob("*.py"))

OURS: Final[dict[str, set[str]]] = {
    "errors": set(),
    "core": {"errors", "core"},
    "flow": {"errors", "core", "flow"},
    "api": {"errors", "core", "flow"},
    "api_iteration": {"errors", "core", "flow", "api"},
    "__init__": {"api", "api_iteration", "errors", "core", "flow"},
    "environment": {"flow"},
    "gcp": {"errors", "core", "gcp"},
    "django": {"errors", "core", "flow", "api", "api_iteration", "gcp", "django"},
    "key_ranges": {"django"},
    "apps": {"django"},
    "urls": {"django"},
    "urls_async": {"django"},
    "models": {"django"},
    "migrations": set(),
    "management": {"errors", "core", "flow", "django"},
    "emulator": {"errors", "emulator"},
    "testing": {"errors", "core", "flow", "api", "django", "emulator", "testing"},
    "mypy_plugin": {"mypy_plugin"},
}
"""For each layer, the layers of the package that it may import from."""

THEIRS: Final[dict[str, set[str]]] = {
    "errors": set(),
    "core": {"msgpack", "cryptography"},
    "flow": set(),
    "api": set(),
    "api_iteration": set(),
    "__init__": set(),
    "environment": set(),
    "gcp": {"google", "grpc", "jwt", "cryptography"},
    "django": {"django", "asgiref"},
    "key_ranges": set(),
    "apps": {"django"},
    "urls": {"django"},
    "urls_async": {"django"},
    "models": set(),
    "migrations": {"django"},
    "management": {"django"},
    "emulator": {"google", "grpc", "cryptography", "jwt"},
    "testing": {"django", "pytest"},
    "mypy_plugin": {"mypy"},
}
"""For each layer, the packages that it may import beside the standard library."""

NARROWER: Final[dict[str, set[str]]] = {
    "msgpack": {
        "core/wire.py",
        "core/atoms.py",
        "core/shapes/shape.py",
        "core/shapes/plain.py",
        "core/codec.py",
        "core/iteration/description.py",
    },
    "grpc": {"gcp/local_channel.py", "gcp/faults.py"},
    "jwt": {"gcp/oidc.py", "gcp/jwks.py"},
    "cryptography": {"core/keys.py", "gcp/jwks.py", "gcp/oidc.py"},
    # An application that runs its tests with something else does not have it.
    "pytest": {"testing/pytest_plugin.py"},
}
"""Packages that only these modules of the library import (the emulator is on its own)."""

NARROWER_OURS: Final[dict[tuple[str, str], set[str]]] = {
    # Tests that run in memory load no server.
    ("testing", "emulator"): {"testing/local_cloud.py"},
}
"""Layers of the package that only these modules of a layer import."""


class Import(NamedTuple):
    """One import of a module at run time."""

    line: int
    target: str


def run_time_imports(path: Path) -> Iterator[Import]:
    """Every import in a file, less those under TYPE_CHECKING."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield Import(node.lineno, node.module or "")


def layer_of(path: Path) -> str:
    """The layer of a module: its folder, or its own name at the top."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_module_belongs_to_a_layer() -> None:
    assert {layer_of(path) for path in MODULES} <= OURS.keys()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    layer, name = layer_of(path), path.relative_to(PACKAGE).as_posix()
    wrong = []
    for line, target in run_time_imports(path):
        top, _, rest = target.partition(".")
        if top == "safedefer":
            other = rest.partition(".")[0]
            allowed = other in OURS[layer] and name in NARROWER_OURS.get((layer, other), {name})
        elif top in sys.stdlib_module_names:
            allowed = True
        else:
            allowed = top in THEIRS[layer] and (layer == "emulator" or name in NARROWER.get(top, {name}))
        if not allowed:
            wrong.append(f"safedefer/{name}:{line} imports {target}")
    assert wrong == []


def test_nothing_can_unpickle_evaluate_or_import_by_a_name_from_data() -> None:
    banned = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "copyreg"}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            place = f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec", "compile", "__import__"}, place
                # The one import by name: modules of installed apps, at start-up, from a setting.
                assert node.func.id != "import_module" or path.name == "setup.py", place
            if isinstance(node, ast.Attribute):
                assert node.attr != "import_string", place
        assert not banned & {target.partition(".")[0] for _, target in run_time_imports(path)}, path
