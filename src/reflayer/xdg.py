"""Folders of this user, by the XDG Base Directory specification."""

from __future__ import annotations

import os

from reflayer.errors import ReflayerError


def in_home(path: str) -> str | None:
    """``path`` in the user's home; None where ``HOME`` and passwd(5) have no absolute one."""
    base = os.environ.get("HOME", "")
    if not os.path.isabs(base):
        import pwd

        try:
            base = pwd.getpwuid(os.geteuid()).pw_dir
        except KeyError:
            return None
    return os.path.join(base, path) if os.path.isabs(base) else None


def folder(variable: str, default: str) -> str | None:
    """The folder that an environment variable names, else ``default`` in the home, if there is one.

    A relative path in the variable is ignored, as the specification demands.
    """
    path = os.environ.get(variable, "")
    return path if os.path.isabs(path) else in_home(default)


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
