"""T27: a second way to run a function forgets a check of the first."""

import ast
import copy
import pickle  # noqa: TID251  # What must not work.
from pathlib import Path
from typing import Any

import pytest

import safedefer
from safedefer.core import signing
from safedefer.core.signing import VerifiedBody, VerifiedEnvelope, verify_body
from safedefer.flow import calling, iteration_walk
from tests.support.builders import make_envelope, verified

PACKAGE = Path(safedefer.__file__).parent


@pytest.mark.parametrize("cls", [VerifiedEnvelope, VerifiedBody])
def test_T27_verified_types_cannot_be_made_by_hand(cls: Any) -> None:
    with pytest.raises(TypeError):
        cls()
    with pytest.raises(TypeError):
        cls(b"body")


@pytest.mark.parametrize("value", [verified(make_envelope()), verify_body(verified(make_envelope()))])
@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps])
def test_T27_verified_values_can_be_neither_copied_nor_stored(value: object, how: Any) -> None:
    with pytest.raises(TypeError):
        how(value)


def test_T27_verified_types_are_final() -> None:
    for cls in (VerifiedEnvelope, VerifiedBody):
        assert getattr(cls, "__final__", False)


def uses_of(name: str) -> list[str]:
    """Where a name is called in the package, as `file function`."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                place = f"{path.relative_to(PACKAGE).as_posix()} {function.name}"
                calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
                found += [place for call in calls if ast.unparse(call).startswith(name)]
    return found


def test_T27_verified_types_are_made_in_one_place() -> None:
    assert uses_of("object.__new__(VerifiedEnvelope") == ["core/signing.py verify_envelope"]
    assert uses_of("object.__new__(VerifiedBody") == ["core/signing.py verify_body"]


def test_T27_functions_are_called_in_one_place_that_wants_a_verified_body() -> None:
    assert uses_of("runtime.invoker.call(") == ["flow/calling.py call_verified"]
    # Of an iteration, what is called for each row and at its end comes from the body of its verified plan.
    assert sorted(uses_of("call_function(")) == [
        "flow/execute.py _verify_and_execute",
        "flow/iterate.py _finalize",
    ]
    assert uses_of("runtime.invoker.call_each(") == ["flow/calling.py call_verified_for_each"]
    assert uses_of("call_verified(") == ["flow/calling.py call_function"]
    assert uses_of("call_verified_for_each(") == ["flow/iteration_slice.py _call_for_each"]
    # A queryset function is called by who defers, and where a verified plan names it.
    assert sorted(uses_of("function.function(")) == ["api_iteration.py _source", "flow/calling.py make_queryset"]
    assert uses_of("make_queryset(") == ["flow/iteration_walk.py _open_source"]
    assert calling.make_queryset.__annotations__["body"] is signing.VerifiedBody
    assert calling.call_verified.__annotations__["body"] is signing.VerifiedBody
    assert calling.call_verified_for_each.__annotations__["body"] is signing.VerifiedBody
    assert iteration_walk.Walk.__annotations__["body"] is signing.VerifiedBody
    assert calling.call_function.__annotations__["body"] is signing.VerifiedBody


def test_T27_arguments_are_decoded_from_a_verified_body_only() -> None:
    from safedefer.core.codec import decode_arguments

    assert decode_arguments.__annotations__["body"] is signing.VerifiedBody
