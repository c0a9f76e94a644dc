"""Whether it was the command that failed, or what was to run it, before that."""

from __future__ import annotations

import os
from contextlib import suppress

from reflayer.errors import SandboxError, failing, printable
from reflayer.linux.user_namespace import why_no_namespaces
from reflayer.sandbox.process import FAILED, NOT_EXECUTABLE, NOT_FOUND

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.sandbox.runtimes import Runtime


def refuse_failure(log: str, status: int, runtime: Runtime) -> None:
    """Raise a SandboxError where not the command failed, but the runtime before it, by its log."""
    if not status:
        return
    try:
        with open(log) as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        _refuse_bubblewraps(f"{os.path.dirname(log)}/info", status, runtime)
        return
    import json

    for line in lines:
        with suppress(ValueError):
            said = json.loads(line)
            if said.get("level") == "error":
                text = str(said.get("msg", "")).strip()
                status = _status_of(text.lower())
                if status == FAILED and (why := why_no_namespaces()):
                    raise SandboxError(why if runtime.is_oci else f"{printable(text)}: {why}")
                raise SandboxError(printable(text), status, is_told=runtime.is_oci)


def _refuse_bubblewraps(info: str, status: int, runtime: Runtime) -> None:
    """It has no log, and the status 1; it tells that of a command alone that it has come to."""
    if runtime.name != "bwrap" or status != 1:
        return
    with failing(info, "read"), open(info) as file:
        if '"exit-code"' in file.read():
            return
    why = why_no_namespaces()
    raise SandboxError(why or "bubblewrap failed", is_told=not why)


def _status_of(text: str) -> int:
    """As Docker tells it by the words of a runtime."""
    if "exec" not in text and "mount" in text:
        return FAILED
    if "chdir to cwd" in text:
        return NOT_EXECUTABLE
    if "not found" in text or "no such file" in text:
        return NOT_FOUND
    if "permission denied" in text or "is a directory" in text or "exec format error" in text:
        return NOT_EXECUTABLE
    return FAILED
