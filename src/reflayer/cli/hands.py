"""The helper processes of one command, started before it is even known what it has to do.

They come up on another processor while this one imports the program; they end with it.
"""

from __future__ import annotations

from reflayer.copy.cpus import usable_cpus
from reflayer.copy.helpers import Pool

_POOL = Pool(usable_cpus() - 1)
_AHEAD = 3  # enough for most trees; more are started where one turns out to be large


def start() -> None:
    """Start the first of them."""
    _POOL.start(_AHEAD)


def pool() -> Pool:
    """The helpers, for one copy after the other."""
    return _POOL
