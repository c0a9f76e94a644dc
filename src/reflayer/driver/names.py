"""What may be a layer's id."""

from __future__ import annotations

from reflayer.errors import LayerError, printable

_FIRST = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_ALLOWED = _FIRST | frozenset("_.-")
_MOST = 128  # characters: a name of NAME_MAX (255) has room for what is added to it


def checked_id(id: str) -> str:
    """``id``, if a layer may be called so: one plain file name, never a path.

    Raises:
        LayerError: it may not.
    """
    if not is_id(id):
        raise LayerError(
            f"{printable(id[:_MOST])!r} is no layer's id: it takes 1 to {_MOST} of a-z, A-Z, 0-9, "
            "'_', '.' and '-', and begins with a letter or digit"
        )
    return id


def is_id(name: str) -> bool:
    """Whether a layer may be called ``name``."""
    return 0 < len(name) <= _MOST and name[0] in _FIRST and _ALLOWED.issuperset(name)
