"""T24: a call is signed by one revision of the code and executed by another."""

from dataclasses import replace
from typing import Any

import pytest

from safedefer.core.function import RegisteredFunction
from safedefer.core.registry import Registry
from safedefer.django.modelrefs import DjangoReferences
from safedefer.errors import Reason
from safedefer.flow.runtime import install
from tests.site.shop import tasks
from tests.site.shop.tasks import trace
from tests.support.site import Site


def with_functions(site: Site, *functions: RegisteredFunction) -> None:
    """Another revision of the code: other functions under the same keys."""
    registry = Registry()
    for function in functions:
        registry.register(function)
    registry.seal(DjangoReferences())
    runtime = replace(site.runtime, registry=registry)
    install(lambda: runtime)


def same(text: str) -> None:
    trace("same", text)


def optional_added(text: str, more: int = 5) -> None:
    trace("optional added", text, more)


def required_added(text: str, more: int) -> None:
    trace("never")


def renamed(words: str) -> None:
    trace("renamed", words)


def removed() -> None:
    trace("never")


def other_type(text: int) -> None:
    trace("never")


def wider_type(text: str | int | None) -> None:
    trace("wider", text)


@pytest.mark.parametrize(
    ("function", "left"),
    [(optional_added, "optional added x 5"), (renamed, "renamed x"), (wider_type, "wider x")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_T24_compatible_change_runs_and_is_noted(site: Site, function: Any, left: str) -> None:
    wire = site.seal(tasks.note, "x")
    with_functions(site, RegisteredFunction(function, name="shop.note"))
    assert site.post(wire).status == 204
    assert site.traces() == [left]
    assert [event.reason for event in site.events] == [Reason.SCHEMA_CHANGED, Reason.EXECUTED]


def test_T24_unchanged_parameters_are_not_noted(site: Site) -> None:
    wire = site.seal(tasks.note, "x")
    with_functions(site, RegisteredFunction(same, name="shop.note"))
    assert site.post(wire).status == 204
    assert [event.reason for event in site.events] == [Reason.ACCEPTED, Reason.EXECUTED]


@pytest.mark.parametrize("function", [required_added, removed, other_type], ids=lambda f: f.__name__)
def test_T24_incompatible_change_waits_for_a_revision_that_knows_the_call(site: Site, function: Any) -> None:
    wire = site.seal(tasks.note, "x")
    with_functions(site, RegisteredFunction(function, name="shop.note"))
    reply = site.post(wire)
    assert reply.status == 409
    assert site.refusal(reply).reason is Reason.ARGUMENTS_MISMATCH
    with_functions(site, tasks.note.registered)
    assert site.post(wire).status == 204
    assert site.traces() == ["note x"]


def test_T24_keyword_that_was_renamed_is_refused(site: Site) -> None:
    wire = site.seal(tasks.note, text="x")
    with_functions(site, RegisteredFunction(renamed, name="shop.note"))
    assert site.refusal(site.post(wire)).reason is Reason.ARGUMENTS_MISMATCH


def test_T24_unknown_function_and_unknown_version_wait(site: Site) -> None:
    wire = site.seal(tasks.note, "x")
    with_functions(site, RegisteredFunction(same, name="shop.other"))
    assert site.post(wire).status == 409
    with_functions(site, RegisteredFunction(same, name="shop.note", version=2))
    assert site.post(wire).status == 409
    assert [event.reason for event in site.dispatches()] == [
        Reason.FUNCTION_UNKNOWN,
        Reason.FUNCTION_VERSION_UNKNOWN,
    ]
    assert site.traces() == []


def test_T24_alias_and_old_version_still_run(site: Site) -> None:
    wire = site.seal(tasks.note, "x")
    with_functions(
        site,
        RegisteredFunction(same, name="shop.remark", aliases=("shop.note",)),
        RegisteredFunction(renamed, name="shop.note", version=2),
    )
    assert site.post(wire).status == 204
    assert site.traces() == ["same x"]
