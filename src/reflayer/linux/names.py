"""The part in C: one thing done to many names of an open folder, without the interpreter's lock.

``native`` is None where it was not compiled, or is not wanted: ``REFLAYER_PURE=1``. Its
callers can do all of its work in Python, which is the definition, only slower.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

native: Any = None
try:
    if os.environ.get("REFLAYER_PURE") != "1":
        import reflayer.linux._names as _names

        native = _names
except ImportError:  # there was no compiler at the install
    pass
