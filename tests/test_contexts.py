"""Contexts are what those of ``contextlib`` are, and ``cached_property`` that of ``functools``."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from io import StringIO
from types import ModuleType
from typing import Any

import pytest

from reflayer import contexts


@pytest.fixture(params=[contexts, contextlib], ids=["ours", "python"])
def module(request: pytest.FixtureRequest) -> Any:
    """Ours, and Python's: each test is of both."""
    assert isinstance(request.param, ModuleType)
    return request.param


def _noting(module: Any, notes: list[object]) -> Callable[[], Any]:
    @module.contextmanager  # type: ignore[untyped-decorator]
    def block() -> Iterator[str]:
        notes.append("begun")
        try:
            yield "value"
        except KeyError as error:
            notes.append(error)
        finally:
            notes.append("ended")

    begin: Callable[[], Any] = block
    return begin


def _raise_in(block: Any, error: Exception) -> None:
    with block:
        raise error


def test_a_block_begins_ends_and_may_take_an_error(module: Any) -> None:
    notes: list[object] = []
    block = _noting(module, notes)
    with block() as value:
        assert (value, notes) == ("value", ["begun"])
    assert notes == ["begun", "ended"]
    missing = KeyError("x")
    _raise_in(block(), missing)
    assert notes[2:] == ["begun", missing, "ended"]
    other = ValueError("y")
    with pytest.raises(ValueError) as caught, block():
        raise other
    assert caught.value is other
    assert other.__context__ is None
    assert notes[5:] == ["begun", "ended"]


def test_another_error_of_the_block_is_raised_after_the_first(module: Any) -> None:
    @module.contextmanager  # type: ignore[untyped-decorator]
    def block() -> Iterator[None]:
        try:
            yield
        except KeyError as error:
            raise ValueError("other") from error

    with pytest.raises(ValueError, match="other") as caught, block():
        raise KeyError
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_block_that_yields_twice_is_a_fault(module: Any) -> None:
    @module.contextmanager  # type: ignore[untyped-decorator]
    def twice() -> Iterator[None]:
        for _ in range(2):
            with contextlib.suppress(KeyError):
                yield

    with pytest.raises(RuntimeError), twice():
        pass
    with pytest.raises(RuntimeError), twice():
        raise KeyError


def test_a_method_can_be_one(module: Any) -> None:
    class Thing:
        @module.contextmanager  # type: ignore[untyped-decorator]
        def block(self, *, word: str) -> Iterator[tuple[Thing, str]]:
            yield self, word

    one = Thing()
    with one.block(word="x") as value:
        assert value == (one, "x")


def test_what_is_suppressed_and_closed(module: Any) -> None:
    _raise_in(module.suppress(KeyError, OSError), FileNotFoundError())
    with pytest.raises(ValueError), module.suppress(KeyError):
        raise ValueError
    file = StringIO()
    with module.closing(file) as same:
        assert same is file
    assert file.closed


@pytest.mark.parametrize("cached_property", [contexts.cached_property, functools.cached_property])
def test_a_cached_property_is_worked_out_once(cached_property: Any) -> None:
    class Thing:
        asked = 0

        @cached_property  # type: ignore[untyped-decorator]
        def number(self) -> int:
            """How often."""
            self.asked += 1
            return self.asked

    one, other = Thing(), Thing()
    assert (one.number, one.number, one.asked, other.number) == (1, 1, 1, 1)
    assert Thing.number.__doc__ == "How often."
