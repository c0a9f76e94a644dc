"""containerd's filter language: which snapshots a request of List asks for.

A filter is selectors with commas between them, all of which have to match; one filter of several is
enough. A selector is a field, or a field, an operator and a value::

    kind==active,labels."containerd.io/gc.root"
    name~=/^k8s\\.io/,parent!=""

``==`` and ``!=`` compare the whole value, ``~=`` searches for a regular expression, and a field
alone asks whether it is there. Quotes are double ones, with Go's escapes; a regular expression may
also stand between slashes or bars. The grammar is in containerd's package ``filters``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from reflayer.plugins.containerd.snapshot import InvalidArgumentError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reflayer.plugins.containerd.snapshot import Snapshot

    Matches = Callable[[str | None], bool]

_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"[A-Za-z0-9_]+")
_OPERATOR = re.compile(r"[=!~]+")
_VALUE = re.compile(r"(?![/|\".=!~])[^\s,]+")
_QUOTED = {
    quote: re.compile(rf"{re.escape(quote)}((?:[^\\\n{quote}]|\\.)*){re.escape(quote)}")
    for quote in '"/|'
}
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv])|([0-7]{3})|x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))"
)
_CONTROLS = dict(zip("abfnrtv", b"\a\b\f\n\r\t\v", strict=True))


@dataclass(frozen=True, slots=True)
class Selector:
    """One condition: a field by its path, and what its value, None where it is absent, must be."""

    path: tuple[str, ...]
    matches: Matches


@dataclass(frozen=True, slots=True)
class Filter:
    """Several ways to match, each a number of selectors; without any, everything matches."""

    ways: tuple[tuple[Selector, ...], ...]

    def match(self, snapshot: Snapshot) -> bool:
        """Whether the snapshot is one of those asked for."""
        return not self.ways or any(
            all(selector.matches(field(snapshot, selector.path)) for selector in way)
            for way in self.ways
        )


def field(snapshot: Snapshot, path: tuple[str, ...]) -> str | None:
    """The value of a field, None where the snapshot has none that is called so."""
    match path[0]:
        case "name":
            return snapshot.name
        case "parent":
            return snapshot.parent
        case "kind":
            return snapshot.kind.name.lower()
        case "labels":
            return snapshot.labels.get(".".join(path[1:]))
    return None


def parse_filters(texts: Sequence[str]) -> Filter:
    """The filter that matches what one of ``texts`` does.

    Raises:
        InvalidArgumentError: one of them is no filter.
    """
    return Filter(tuple(_Parser(text).selectors() if text else () for text in texts))


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def selectors(self) -> tuple[Selector, ...]:
        found = [self._selector()]
        while self._at < len(self._text):
            if self._text[self._at] != ",":
                raise self._error("a comma or the end is expected")
            self._at += 1
            found.append(self._selector())
        return tuple(found)

    def _selector(self) -> Selector:
        path = [self._field()]
        while self._text.startswith(".", self._at):
            self._at += 1
            path.append(self._field())
        if self._text[self._at : self._at + 1] in ("", ","):
            return Selector(tuple(path), _is_there)
        return Selector(tuple(path), self._condition())

    def _field(self) -> str:
        self._skip(_SPACE)
        if self._text.startswith('"', self._at):
            return self._quoted()
        name = self._skip(_NAME)
        if not name:
            raise self._error("a field's name is expected")
        return name

    def _condition(self) -> Matches:
        self._skip(_SPACE)
        started = self._at
        operator = self._skip(_OPERATOR)
        match operator:
            case "==":
                value = self._value('"')
                return lambda found: found == value
            case "!=":
                value = self._value('"')
                return lambda found: (found or "") != value
            case "~=":
                return self._expression()
        self._at = started
        raise self._error("==, != or ~= is expected")

    def _expression(self) -> Matches:
        value = self._value('"/|')
        try:
            expression = re.compile(value)
        except (re.error, RecursionError, OverflowError) as error:
            raise self._error(f"{value!r} is no regular expression: {error}") from error
        return lambda found: expression.search(found or "") is not None

    def _value(self, quotes: str) -> str:
        self._skip(_SPACE)
        first = self._text[self._at : self._at + 1]
        if first and first in quotes:
            return self._quoted()
        value = self._skip(_VALUE)
        if not value or not value.isprintable():
            raise self._error("a value is expected")
        return value

    def _quoted(self) -> str:
        found = _QUOTED[self._text[self._at]].match(self._text, self._at)
        if found is None:
            raise self._error("the quote has no end")
        value = self._unescaped(found[1], found[0][0])
        self._at = found.end()
        return value

    def _unescaped(self, text: str, quote: str) -> str:
        value = bytearray()
        end = 0
        for escape in _ESCAPE.finditer(text):
            value += text[end : escape.start()].encode()
            value += self._escaped(escape, quote)
            end = escape.end()
        value += text[end:].encode()
        return value.decode(errors="surrogateescape")

    def _escaped(self, escape: re.Match[str], quote: str) -> bytes:
        control, octal, byte, short, long, char = escape.groups()
        if control:
            return bytes((_CONTROLS[control],))
        if char:
            if char not in ("\\", quote):
                raise self._error(f"{escape[0]} is no escape")
            return char.encode()
        number = int(octal, 8) if octal else int(byte or short or long, 16)
        if number > (0xFF if octal else 0x10FFFF):
            raise self._error(f"{escape[0]} is no character")
        return bytes((number,)) if octal or byte else chr(number).encode(errors="replace")

    def _skip(self, what: re.Pattern[str]) -> str:
        found = what.match(self._text, self._at)
        if found is None:
            return ""
        self._at = found.end()
        return found[0]

    def _error(self, what: str) -> InvalidArgumentError:
        return InvalidArgumentError(f"filter {self._text!r}, after {self._at} characters: {what}")


def _is_there(value: str | None) -> bool:
    return value is not None
