"""Which functions may be registered, under which names, and what their parameters may be."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator
from dataclasses import InitVar, dataclass
from datetime import datetime
from enum import Enum, Flag
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypedDict, TypeVar, Unpack

import pytest

from safedefer.core.function import RegisteredFunction
from safedefer.core.names import FunctionName
from safedefer.core.registry import Registry
from safedefer.errors import (
    DuplicateFunctionError,
    InvalidFunctionError,
    InvalidNameError,
    Reason,
    UnknownFunctionError,
)
from tests.support.builders import Row, Rows

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForCheckers

T = TypeVar("T")


def plain(a: int, b: str = "") -> None: ...


def other(a: int) -> None: ...


async def coroutine(a: int) -> None: ...


def generator(a: int) -> Iterator[int]:
    yield a


def unannotated(a) -> None: ...  # type: ignore[no-untyped-def]


def underscore(_queue: str) -> None: ...


def hidden(a: OnlyForCheckers) -> None: ...


def later(a: DefinedLater) -> None: ...


def with_row(a: Row) -> None: ...


class Thing:
    def method(self, a: int) -> None: ...

    @classmethod
    def class_method(cls, a: int) -> None: ...

    @staticmethod
    def static(a: int) -> None: ...


class Mode(Flag):
    READ = 1


class Color(Enum):
    RED = 1


class Other:
    class Color(Enum):
        RED = 1


@dataclass
class WithInitVar:
    a: InitVar[int]


@dataclass
class WithObject:
    a: object


class Recursive(NamedTuple):
    inner: Recursive | None


class WithOption(TypedDict):
    _queue: str


class FakeModel:
    class _meta:  # noqa: N801  # As Django spells it.
        label_lower = "fake.model"


def with_fake_model(a: FakeModel) -> None: ...


def nested() -> Callable[..., None]:
    def inside(a: int) -> None: ...

    return inside


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda a: None, "lambda"),
        (nested(), "inside a function"),
        (generator, "generator"),
        (Thing.method, "method"),
        (Thing.class_method, "not a function"),
        (Thing().method, "not a function"),
        (print, "not a function"),
        (Thing, "not a function"),
        (5, "not a function"),
        (unannotated, "'a' has no annotation"),
        (underscore, "underscore"),
    ],
)
def test_function_that_cannot_be_deferred_is_refused(function: Any, message: str) -> None:
    with pytest.raises(InvalidFunctionError, match=message):
        RegisteredFunction(function)


def annotated(annotation: object) -> Callable[..., None]:
    def function(a: int) -> None: ...

    function.__qualname__ = "function"
    function.__annotations__ = {"a": annotation}
    return function


@pytest.mark.parametrize(
    "annotation",
    [
        object,
        type[int],
        Callable[[], None],
        dict[int, str],
        list[object],
        tuple[int, object],
        int | object,
        Mode,
        T,
        WithInitVar,
        WithObject,
        Color | Other.Color,
        Literal[Color.RED],
        Iterator[int],
        Exception,
        memoryview,
        complex,
        Recursive,
        tuple[int, Unpack[tuple[str, ...]]],
        Unpack[tuple[int, str]],
    ],
    ids=str,
)
def test_parameter_that_cannot_travel_is_named(annotation: object) -> None:
    with pytest.raises(InvalidFunctionError, match="parameter 'a'"):
        RegisteredFunction(annotated(annotation))


BARE = [getattr(typing, name) for name in ("List", "Dict", "Set", "FrozenSet", "Tuple", "Sequence", "Mapping")]


@pytest.mark.parametrize(
    "annotation",
    [int, None, list, dict, Color, Annotated[int, "metres"], Annotated[int, []], datetime | None, *BARE],
    ids=str,
)
def test_parameter_that_can_travel_is_accepted(annotation: object) -> None:
    assert RegisteredFunction(annotated(annotation)).parameters.all[0].name == "a"


def with_option(**more: Unpack[WithOption]) -> None: ...


def takes_rows(rows: list[Row], how: str) -> None: ...


def takes_whatever(rows: Any) -> None: ...


def takes_nothing() -> None: ...


def takes_rows_by_name(*, rows: list[Row]) -> None: ...


@pytest.mark.parametrize("function", [takes_rows, takes_whatever])
def test_batch_function_takes_a_list_first(function: Callable[..., object]) -> None:
    assert RegisteredFunction(function, batch=True).batch


@pytest.mark.parametrize("function", [plain, takes_nothing, takes_rows_by_name])
def test_batch_function_that_takes_no_list_first_is_refused(function: Callable[..., object]) -> None:
    with pytest.raises(InvalidFunctionError, match="list of rows"):
        RegisteredFunction(function, batch=True)


def test_keyword_that_would_be_an_option_is_refused() -> None:
    with pytest.raises(InvalidFunctionError, match="underscore"):
        RegisteredFunction(with_option)


def test_queryset_is_refused_with_advice() -> None:
    class QuerySet: ...

    with pytest.raises(InvalidFunctionError, match="filtered by"):
        RegisteredFunction(annotated(QuerySet))


def test_default_name_is_module_and_qualified_name() -> None:
    assert RegisteredFunction(plain).name == f"{__name__}.plain"
    assert RegisteredFunction(Thing.static).name == f"{__name__}.Thing.static"
    assert RegisteredFunction(coroutine).name.endswith(".coroutine")


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 129, "\u00e9", "a\n", 5])
def test_name_that_cannot_be_one_is_refused(name: Any) -> None:
    with pytest.raises(InvalidNameError):
        RegisteredFunction(plain, name=name)
    with pytest.raises(InvalidNameError):
        RegisteredFunction(plain, name="ok", aliases=(name,))


@pytest.mark.parametrize("changes", [{"version": 0}, {"version": True}, {"version": "1"}, {"missing": "ignore"}])
def test_registration_with_a_wrong_value_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidFunctionError):
        RegisteredFunction(plain, **changes)


def test_name_that_is_defined_later_is_read_when_the_registry_is_sealed() -> None:
    registry = Registry()
    function = RegisteredFunction(later, name="later")
    registry.register(function)
    registry.seal(Rows())
    assert function.parameters.all[0].shape.render() == "enum DefinedLater"


class DefinedLater(Enum):
    A = 1


def test_name_that_only_checkers_see_is_refused_when_the_registry_is_sealed() -> None:
    registry = Registry()
    registry.register(RegisteredFunction(hidden, name="hidden"))
    with pytest.raises(InvalidFunctionError, match=r"'OnlyForCheckers'.*TYPE_CHECKING"):
        registry.seal(Rows())


def test_class_that_only_looks_like_a_model_is_refused_when_the_registry_is_sealed() -> None:
    registry = Registry()
    registry.register(RegisteredFunction(with_fake_model, name="fake"))
    with pytest.raises(InvalidFunctionError, match="is no model"):
        registry.seal(Rows())
    fine = Registry()
    fine.register(RegisteredFunction(with_row, name="row"))
    fine.seal(Rows())


def test_duplicate_name_is_an_error_that_names_both_places() -> None:
    registry = Registry()
    first, second = RegisteredFunction(plain, name="same"), RegisteredFunction(other, name="same")
    registry.register(first)
    with pytest.raises(DuplicateFunctionError) as caught:
        registry.register(second)
    assert first.where in str(caught.value)
    assert second.where in str(caught.value)
    assert registry.find(FunctionName("same"), 1) is first


def test_duplicate_alias_registers_nothing() -> None:
    registry = Registry()
    registry.register(RegisteredFunction(plain, name="taken"))
    with pytest.raises(DuplicateFunctionError):
        registry.register(RegisteredFunction(other, name="new", aliases=("taken",)))
    with pytest.raises(UnknownFunctionError):
        registry.find(FunctionName("new"), 1)


def test_module_that_is_loaded_again_may_register_again() -> None:
    registry = Registry()
    registry.register(RegisteredFunction(plain, name="same"))
    again = RegisteredFunction(plain, name="same")
    registry.register(again)
    assert registry.find(FunctionName("same"), 1) is again


def test_versions_and_aliases_are_found_and_nothing_else() -> None:
    registry = Registry()
    first = RegisteredFunction(plain, name="new", aliases=("old",))
    second = RegisteredFunction(other, name="new", version=2)
    registry.register(first)
    registry.register(second)
    assert registry.find(FunctionName("old"), 1) is first
    assert registry.find(FunctionName("new"), 2) is second
    assert list(registry) == [first, second]
    for name, version, reason in (
        ("old", 2, Reason.FUNCTION_VERSION_UNKNOWN),
        ("New", 1, Reason.FUNCTION_UNKNOWN),
        ("", 1, Reason.FUNCTION_UNKNOWN),
    ):
        with pytest.raises(UnknownFunctionError) as caught:
            registry.find(FunctionName(name), version)
        assert caught.value.reason is reason


def test_sealed_registry_takes_no_more_and_says_where_to_put_it() -> None:
    registry = Registry()
    registry.seal(Rows())
    assert registry.sealed
    with pytest.raises(InvalidFunctionError, match="MODULES"):
        registry.register(RegisteredFunction(plain, name="late"))


def fingerprint(function: Callable[..., None], name: str = "f", version: int = 1) -> bytes:
    return RegisteredFunction(function, name=name, version=version).ref.fingerprint


def test_fingerprint_changes_with_whatever_decides_what_a_call_means() -> None:
    def base(a: int, b: str = "") -> None: ...
    def renamed(a: int, c: str = "") -> None: ...
    def required(a: int, b: str) -> None: ...
    def retyped(a: int, b: str | None = "") -> None: ...
    def keyword(a: int, *, b: str = "") -> None: ...
    def added(a: int, b: str = "", c: int = 0) -> None: ...

    seen = set()
    for function in (base, renamed, required, retyped, keyword, added):
        function.__qualname__ = function.__name__
        seen.add(fingerprint(function))
    seen.add(fingerprint(base, name="g"))
    seen.add(fingerprint(base, version=2))
    assert len(seen) == 8


def test_fingerprint_is_the_same_on_every_python() -> None:
    def base(a: int | None, b: list[str], *, c: dict[str, float] | None = None, **d: Any) -> None: ...

    base.__qualname__ = "base"
    assert fingerprint(base).hex() == "720649d6c0e8f9f627af2adb3bb07401"
