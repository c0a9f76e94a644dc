"""What a long call tells its caller meanwhile: one protocol for all that takes its time."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]
"""Called with a stage, how much of it is done and, where that is known, of how much.

The stages ``fetch``, ``unpack``, ``pack``, ``write`` and ``push`` count bytes, ``clone`` and
``measure`` entries, ``spares`` those. It is called by one thread at a time and some times a second
at the most; what it raises ends the work, of which nothing is left.
"""
