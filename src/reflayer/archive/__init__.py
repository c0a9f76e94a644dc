"""Layer tars: apply one to a directory.

The readers know formats and nothing of the file system; ``layer`` and what it uses make entries.
"""

from __future__ import annotations

from reflayer.archive.apply import AppliedLayer, apply_layer
from reflayer.errors import ArchiveError

__all__ = ["AppliedLayer", "ArchiveError", "apply_layer"]
