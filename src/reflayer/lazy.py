"""Public names of a package that are imported when they are first used (PEP 562).

So that a command starts in a few milliseconds, no module imports what its start does not need.
Names that only annotations use stand under this, in every file of the project:

    TYPE_CHECKING = False
    if TYPE_CHECKING:

Annotations are never evaluated (``from __future__ import annotations``), and mypy takes any name
``TYPE_CHECKING`` for true. The one of ``typing`` would cost each program the import of that.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Codecs with characters of several bytes read two spellings of some as one; UTF-8 does not.
_EVERY_BYTE = bytes(range(256))


def on_first_use(package: dict[str, object], homes: Mapping[str, str]) -> Callable[[str], object]:
    """The ``__getattr__`` of a package, by its ``globals()`` and the module of each public name.

    What it returns raises ImportError where Python would not keep the names of files as they are.
    """

    def find(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package['__name__']!r} has no attribute {name!r}")
        if len(os.fsdecode(_EVERY_BYTE)) < len(_EVERY_BYTE):
            codec = sys.getfilesystemencoding()
            reason = "in which names of files may change: start Python with -X utf8"
            raise ImportError(f"the locale has file names in {codec}, {reason}")
        from importlib import import_module

        value = getattr(import_module(homes[name]), name)
        package[name] = value
        return value

    return find
