"""The labels of snapshots, names and values that a client sets; and the filters that it finds by.

Labels are kept with each snapshot in the records, as they came: none is made here or means anything
here. containerd's own (``containerd.io/snapshot.ref``, ``containerd.io/gc.*``) are among them.

A filter, in containerd's language, is selectors with commas between them, all of which have to
match; one filter of those in a request of List is enough. A selector is a field, or a field, an
operator and a value::

    kind==active,labels."containerd.io/gc.root"
    name~=/^k8s\\.io/,parent!=""

``==`` and ``!=`` compare the whole value, ``~=`` searches for a regular expression, and a field
alone asks whether it is there. Quotes are double ones, with Go's escapes; a regular expression may
also stand between slashes or bars. The grammar is in containerd's package ``filters``.
"""

from __future__ import annotations

import re

from reflayer.plugins.containerd.records import InvalidArgumentError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from reflayer.plugins.containerd.records import Snapshot

    # A field by its path, and what its value, None where it is absent, must be.
    Selector = tuple[tuple[str, ...], Callable[[str | None], bool]]

_QUOTED = r'"(?:[^\\\n"]|\\.)*"'
_EXPRESSION = r"/(?:[^\\\n/]|\\.)*/|\|(?:[^\\\n|]|\\.)*\|"  # in place of quotes
_BARE = r'(?![/|".=!~])[^\s,]+'
_FIELD = rf"(?:[A-Za-z0-9_]+|{_QUOTED})"
_SELECTOR = re.compile(
    rf"\s*(?P<path>{_FIELD}(?:\.\s*{_FIELD})*)"
    rf"(?:\s*(?P<operator>==|!=)(?![=!~])\s*(?P<value>{_QUOTED}|{_BARE})"
    rf"|\s*~=(?![=!~])\s*(?P<expression>{_QUOTED}|{_EXPRESSION}|{_BARE}))?"
    r"(?=,|\Z)"
)
_PART = re.compile(_FIELD)
_ESCAPE = re.compile(
    rb"\\(?:([abfnrtv])|([0-7]{3})|x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))"
)
_CONTROLS = dict(zip(b"abfnrtv", b"\a\b\f\n\r\t\v", strict=True))


def kept(labels: Mapping[str, str]) -> dict[str, str]:
    """``labels`` without the empty ones, which containerd does not keep."""
    return {name: value for name, value in labels.items() if value}


def changed(
    name: str, old: Mapping[str, str], new: Mapping[str, str], paths: Sequence[str]
) -> dict[str, str]:
    """The ``old`` labels of snapshot ``name`` where ``paths`` name none, else the ``new`` ones.

    A path is ``labels`` for all of them, ``labels.KEY`` for one; no other field can be changed.
    """
    labels = dict(old)
    for path in paths:
        if path == "labels":
            labels = dict(new)
        elif path.startswith("labels."):
            label = path.removeprefix("labels.")
            labels[label] = new.get(label, "")
        else:
            text = f"cannot update {path!r} of snapshot {name}: only its labels"
            raise InvalidArgumentError(text)
    return kept(labels)


def parse_filters(texts: Sequence[str]) -> Callable[[Snapshot], bool]:
    """Whether a snapshot matches one of ``texts``; without any, each does.

    Raises:
        InvalidArgumentError: one of them is no filter.
    """
    ways = [_selectors(text) if text else [] for text in texts]

    def match(snapshot: Snapshot) -> bool:
        return not ways or any(
            all(matches(_field(snapshot, path)) for path, matches in way) for way in ways
        )

    return match


def _field(snapshot: Snapshot, path: tuple[str, ...]) -> str | None:
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


def _selectors(text: str) -> list[Selector]:
    found = []
    at = -1
    while at < len(text):
        at += 1  # behind a comma
        match = _SELECTOR.match(text, at)
        try:
            if match is None:
                raise ValueError("a field is expected, or a field, ==, != or ~=, and a value")
            found.append(_selector(match))
        except ValueError as error:
            where = f"filter {text!r}, after {at} characters"
            raise InvalidArgumentError(f"{where}: {error}") from error
        at = match.end()
    return found


def _selector(match: re.Match[str]) -> Selector:
    path = tuple(_meant(part) for part in _PART.findall(match["path"]))
    if match["expression"]:
        value = _meant(match["expression"])
        try:
            search = re.compile(value).search
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"{value!r} is no regular expression: {error}") from error
        return path, lambda found: search(found or "") is not None
    if match["operator"]:
        value = _meant(match["value"])
        if match["operator"] == "==":
            return path, lambda found: found == value
        return path, lambda found: (found or "") != value
    return path, lambda found: found is not None


def _meant(text: str) -> str:
    """A name or value without its quotes and Go's escapes, some of which are bytes of UTF-8."""
    quote = text[0].encode()
    if quote not in (b'"', b"/", b"|"):
        if not text.isprintable():
            raise ValueError(f"{text!r} has to be quoted")
        return text

    def meant(escape: re.Match[bytes]) -> bytes:
        control, octal, byte, short, long, char = escape.groups()
        if control:
            return bytes((_CONTROLS[control[0]],))
        if char:
            if char not in (b"\\", quote):
                raise ValueError(f"{escape[0].decode(errors='replace')} is no escape")
            return bytes(char)
        number = int(octal, 8) if octal else int(byte or short or long, 16)
        if number > (0xFF if octal else 0x10FFFF):
            raise ValueError(f"{escape[0].decode()} is no character")
        return bytes((number,)) if octal or byte else chr(number).encode(errors="replace")

    return _ESCAPE.sub(meant, text[1:-1].encode()).decode(errors="surrogateescape")
