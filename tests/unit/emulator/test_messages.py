"""The hand-written types of the protobuf classes against the classes themselves."""

import ast
from pathlib import Path

import pytest

from safedefer.emulator.cloud_tasks import messages

STUB = ast.parse(Path(messages.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
CLASSES = [node for node in STUB.body if isinstance(node, ast.ClassDef) and hasattr(messages, node.name)]


def declared_fields(node: ast.ClassDef) -> set[str]:
    return {
        line.target.id for line in node.body if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    }


@pytest.mark.parametrize("node", CLASSES, ids=lambda node: str(node.name))
def test_declared_fields_exist(node: ast.ClassDef) -> None:
    fields = getattr(messages, node.name).DESCRIPTOR.fields_by_name
    assert declared_fields(node) <= set(fields)


def test_every_public_name_is_declared() -> None:
    declared = {node.name for node in STUB.body if isinstance(node, ast.ClassDef)}
    declared |= {
        node.target.id for node in STUB.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    declared |= {
        alias.asname for node in STUB.body if isinstance(node, ast.ImportFrom) for alias in node.names if alias.asname
    }
    assert set(vars(messages)["__all__"]) <= declared
