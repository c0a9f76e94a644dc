"""JSON documents from others: read within limits, and asked for nothing that need not be there."""

from __future__ import annotations

import json
import re

from reflayer.errors import ImageError, printable
from reflayer.images.model.descriptor import Descriptor, check_digest, media_type
from reflayer.images.model.platform import Platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn, TypeVar

    Type = TypeVar("Type")

_LARGEST_SIZE = 2**63 - 1  # off_t
_ESCAPE = re.compile(  # the group: of a surrogate pair only one half
    r"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.", re.S
)
_WORDS = {str: "a string", int: "a whole number", list: "a list", dict: "an object"}


class Document:
    """An object of a JSON document.

    A member that is absent or null is empty; one of another type than asked for is an ImageError.

    Attributes:
        what: the document in words, for messages.
        fields: its members, of whatever types they are.
    """

    __slots__ = ("fields", "what")

    def __init__(self, fields: dict[str, object], what: str) -> None:
        self.fields = fields
        self.what = what

    @classmethod
    def parse(cls, data: bytes, what: str) -> Document:
        value = parse_json(data, what)
        if not isinstance(value, dict):
            raise ImageError(f"{what} is not a JSON object")
        return cls(value, what)

    def string(self, key: str) -> str:
        return self._member(key, str) or ""

    def required_string(self, key: str) -> str:
        """A member that is a string, and there, and not empty."""
        return self.string(key) or self._refuse(f"has no {key!r}")

    def child(self, key: str) -> Document | None:
        value = self._member(key, dict)
        return None if value is None else Document(value, self.what)

    def children(self, key: str) -> Iterator[Document]:
        for value in self._member(key, list) or ():
            if not isinstance(value, dict):
                self._refuse(f"has something else than objects in {key!r}")
            yield Document(value, self.what)

    def strings(self, key: str) -> list[str]:
        values = self._member(key, list) or []
        if not all(isinstance(value, str) for value in values):
            self._refuse(f"has something else than strings in {key!r}")
        return values

    def words(self, key: str) -> list[str]:
        """A command's words; it may be one word alone, as Docker reads and early ones were."""
        value = self.fields.get(key)
        return [value] if isinstance(value, str) else self.strings(key)

    def descriptor(self) -> Descriptor:
        digest, size = self.required_string("digest"), self._member("size", int)
        check_digest(digest)
        if size is None or not 0 <= size <= _LARGEST_SIZE:
            self._refuse(f"gives {digest} no proper size")
        annotations = self.child("annotations")
        said = annotations.fields if annotations else {}
        return Descriptor(
            media_type=self.media_type(),
            digest=digest,
            size=size,
            annotations={key: value for key, value in said.items() if isinstance(value, str)},
            platform=platform.platform() if (platform := self.child("platform")) else None,
        )

    def platform(self) -> Platform | None:
        """The platform that this object speaks of; None where it names no architecture."""
        architecture = self.string("architecture")
        if not architecture:
            return None
        return Platform(
            self.string("os") or "linux",
            architecture,
            self.string("variant"),
            tuple(self.strings("os.features")),
        )

    def media_type(self) -> str:
        """The member ``mediaType``, without its parameters and in lower case (RFC 9110)."""
        return media_type(self.string("mediaType"))

    def _member(self, key: str, kind: type[Type]) -> Type | None:
        value = self.fields.get(key)
        if value is None:
            return None
        if not isinstance(value, kind) or isinstance(value, bool):
            self._refuse(f"has {key!r} that is not {_WORDS[kind]}")
        return value

    def _refuse(self, reason: str) -> NoReturn:
        raise ImageError(f"{self.what} {reason}")


def parse_json(data: bytes, what: str) -> object:
    """The value of a JSON text (RFC 8259).

    What is not UTF-8, and half a surrogate pair, becomes U+FFFD, as Go's ``encoding/json`` has it.
    """
    try:
        text = data.decode(errors="replace")
        text = _ESCAPE.sub(lambda found: r"\ufffd" if found[1] else found[0], text)
        value: object = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{what} is not JSON: {printable(str(error))}") from error
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
