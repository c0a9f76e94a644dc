"""Platforms: their names made one, and which of several fits best.

Normalised and ordered as containerd's ``platforms`` package does it.
"""

from __future__ import annotations

import os
import re

from reflayer.errors import ImageError, printable
from reflayer.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

_PART = r"[A-Za-z0-9_.-]+"
_ARCHITECTURES = {
    "i386": "386",
    "i486": "386",
    "i586": "386",
    "i686": "386",
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "loongarch64": "loong64",
}
_ARM = {  # uname(2) and Debian's names for it, with the variant that they mean
    "armhf": "v7",
    "armel": "v6",
    "armv5l": "v5",
    "armv5tel": "v5",
    "armv6l": "v6",
    "armv7l": "v7",
    "armv8l": "v8",
}
_SYSTEMS = frozenset(
    ("android", "darwin", "freebsd", "illumos", "linux", "netbsd", "openbsd", "solaris", "windows")
)
_ARM64 = r"v([89])(?:\.([0-9]))?"


@record
class Platform:
    """What an image runs on, in Go's words (OCI image-spec, image-index.md: platform).

    Whatever it is made from is normalised, so that equal ones mean the same: ``arm64/v8`` is
    ``arm64``, ``arm`` is ``arm/v7``. What an image demands of the system beyond that
    (``os.features``) is mandatory, so an image with such is for another platform.
    """

    os: str
    architecture: str
    variant: str = ""
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        system, (architecture, variant) = self.os.lower(), _normal(self.architecture, self.variant)
        object.__setattr__(self, "os", "darwin" if system == "macos" else system)
        object.__setattr__(self, "architecture", architecture)
        object.__setattr__(self, "variant", variant)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``OS/ARCH[/VARIANT]``, ``ARCH`` (of this system) or ``OS`` (on this machine)."""
        parts = text.split("/")
        if len(parts) > 3 or not all(re.fullmatch(_PART, part) for part in parts):
            raise ImageError(
                f"{printable(text[:200])!r} is not a platform: expected OS/ARCH[/VARIANT], "
                "such as linux/arm64"
            )
        if len(parts) > 1:
            system, architecture, variant = (*parts, "")[:3]
            return cls(system, architecture, variant)
        here = cls.of_machine()
        if text.lower() in _SYSTEMS or text.lower() == "macos":
            return cls(text, here.architecture, here.variant)
        return cls(here.os, text)

    @classmethod
    def of_machine(cls) -> Self:
        name = os.uname()
        return cls(name.sysname, name.machine)

    def __str__(self) -> str:
        system = f"{self.os}(+{'+'.join(self.features)})" if self.features else self.os
        return "/".join(part for part in (system, self.architecture, self.variant) if part)

    def fitting(self) -> Iterator[Platform]:
        """The platforms whose images run on this one, best first: itself, then older variants."""
        yield self
        for architecture, variant in _older(self.architecture, self.variant):
            yield Platform(self.os, architecture, variant)


def _normal(architecture: str, variant: str) -> tuple[str, str]:
    architecture, variant = architecture.lower(), variant.lower()
    if architecture in _ARM:
        return "arm", _ARM[architecture]
    architecture = _ARCHITECTURES.get(architecture, architecture)
    if architecture in ("arm", "arm64") and variant.isdigit():
        variant = f"v{variant}"
    match architecture, variant:
        case ("386", _) | ("amd64", "v1") | ("arm64", "v8" | "v8.0"):
            variant = ""
        case "arm64", "v9.0":
            variant = "v9"
        case "arm", "":
            variant = "v7"
    return architecture, variant


def _older(architecture: str, variant: str) -> Iterator[tuple[str, str]]:
    match architecture:
        case "amd64":
            for level in range(_level(variant) - 1, 0, -1):
                yield "amd64", f"v{level}"
            yield "386", ""
        case "arm":
            for level in range(_level(variant) - 1, 4, -1):
                yield "arm", f"v{level}"
        case "arm64":
            yield from _older_arm64(variant)
            for level in range(8, 4, -1):
                yield "arm", f"v{level}"


def _older_arm64(variant: str) -> Iterator[tuple[str, str]]:
    parsed = re.fullmatch(_ARM64, variant or "v8")
    if parsed is None:
        return
    major, minor = int(parsed[1]), int(parsed[2] or 0)
    if major == 9:
        for older in range(minor - 1, -1, -1):
            yield "arm64", f"v9.{older}"
        major, minor = 8, minor + 6  # v9.0 has all that v8.5 has
    for older in range(minor - 1, -1, -1):
        yield "arm64", f"v8.{older}"


def _level(variant: str) -> int:
    number = variant.removeprefix("v")
    return int(number) if number.isdecimal() and len(number) == 1 else 0
