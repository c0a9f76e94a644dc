"""What a registry asks for: the ``WWW-Authenticate`` header (RFC 9110, 11.6.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME = re.compile(rf"[\s,]*({_TOKEN})(?=[\s,]|$)(?!\s*=)")
_PARAMETER = re.compile(rf'[\s,]*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))')
_LONGEST = 16 << 10  # characters


@dataclass(frozen=True, slots=True)
class Challenge:
    """One of the ways that a registry takes.

    Attributes:
        scheme: in lower case, ``basic`` or ``bearer``.
        parameters: by their names in lower case.
    """

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """The challenges of the headers, in order; what is malformed ends a header."""
    return [one for header in headers for one in _parse(header[:_LONGEST])]


def _parse(header: str) -> list[Challenge]:
    found: list[Challenge] = []
    place = 0
    while match := _SCHEME.match(header, place):
        place = match.end()
        parameters: dict[str, str] = {}
        while inner := _PARAMETER.match(header, place):
            place = inner.end()
            quoted = re.sub(r"\\(.)", r"\1", inner[2] or "")
            parameters.setdefault(inner[1].lower(), inner[3] or quoted)
        found.append(Challenge(match[1].lower(), parameters))
    return found
