"""Public names of a package that are imported when they are first used (PEP 562)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def on_first_use(package: dict[str, object], homes: Mapping[str, str]) -> Callable[[str], object]:
    """The ``__getattr__`` of a package, so that its import costs nothing.

    Args:
        package: the package's ``globals()``.
        homes: the module that each public name is in.
    """

    def find(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package['__name__']!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(homes[name]), name)
        package[name] = value
        return value

    return find
