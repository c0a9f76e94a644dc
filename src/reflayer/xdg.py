"""Folders of this user, by the XDG Base Directory specification."""

from __future__ import annotations

import os

from reflayer.errors import ReflayerError


def home() -> str | None:
    """The user's home; None where neither ``HOME`` nor passwd(5) has an absolute path for it."""
    path = os.environ.get("HOME", "")
    if not os.path.isabs(path):
        import pwd

        try:
            path = pwd.getpwuid(os.geteuid()).pw_dir
        except KeyError:
            return None
    return path if os.path.isabs(path) else None


def folder(variable: str, default: str) -> str | None:
    """The folder that an environment variable names, else ``default`` in the home, if there is one.

    A relative path in the variable is ignored, as the specification demands.
    """
    path = os.environ.get(variable, "")
    return path if os.path.isabs(path) else in_home(default)


def in_home(path: str) -> str | None:
    """``path`` in the user's home; None where there is none."""
    base = home()
    return base and os.path.join(base, path)


def expanded(path: str) -> str:
    """``path`` with the home in place of a ``~`` that no shell has replaced, as in ``--root=~/x``.

    Raises:
        ReflayerError: there is no home.
    """
    if path != "~" and not path.startswith("~/"):
        return path
    found = in_home(path[2:])
    if found is None:
        raise ReflayerError(f"{path}: this user has no home: give a path without ~, or set HOME")
    return found
