"""Credential helpers, ``docker-credential-NAME`` (the protocol of docker-credential-helpers)."""

from __future__ import annotations

import re
import subprocess

from reflayer.errors import RegistryError, printable
from reflayer.images.document import Document
from reflayer.images.registry.access import Credentials

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_NONE = "credentials not found in native keychain"  # the protocol's words; many have others
_TOKEN_USER = "<token>"  # the user whose password is an identity token
_PATIENCE = 120  # seconds: some ask the user


def ask_helper(name: str, server: str) -> Credentials | None:
    """What the helper ``name`` has for ``server``; None where it has nothing.

    Raises:
        RegistryError: it is not installed, or fails. What it printed may be secret, and is not
            told.
    """
    if not _NAME.fullmatch(name):
        raise RegistryError(f"{printable(name)!r} is not the name of a credential helper")
    program = f"docker-credential-{name}"
    try:
        done = subprocess.run(
            [program, "get"],
            input=server.encode(),
            capture_output=True,
            check=False,
            timeout=_PATIENCE,
        )
    except subprocess.TimeoutExpired:
        raise RegistryError(f"{program} has not answered within {_PATIENCE} seconds") from None
    except OSError as error:
        raise RegistryError(f"{program} cannot be run: {error.strerror}") from error
    if done.returncode:
        if _NONE in done.stdout.decode(errors="replace"):
            return None
        raise RegistryError(f"{program} failed for {server} with the status {done.returncode}")
    if not done.stdout.strip():
        return None
    answer = Document.parse(done.stdout, f"the answer of {program}")
    user, secret = answer.string("Username"), answer.string("Secret")
    if not secret:
        return None
    if user == _TOKEN_USER:
        return Credentials("", "", secret, f"from {program}")
    return Credentials(user, secret, origin=f"from {program}")
