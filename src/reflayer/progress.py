"""What a long call tells its caller meanwhile: one protocol for all that takes its time."""

from __future__ import annotations

from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

Progress = Callable[[str, int, int | None], None]
"""Called with a stage, how much of it is done and, where that is known, of how much.

The stages ``fetch``, ``unpack``, ``pack``, ``write`` and ``push`` count bytes, ``clone`` and
``measure`` entries, ``spares`` those. It is called by one thread at a time and some times a second
at the most; what it raises ends the work, of which nothing is left. Where layers are done side by
side the stage is a ``Stage``.
"""


class Stage(str):
    """A stage, and which of its layers are under way.

    Attributes:
        under_way: their numbers, from 1 on.
        layers: how many there are.
    """

    __slots__ = ("layers", "under_way")

    under_way: Sequence[int]
    layers: int

    def __new__(cls, stage: str, under_way: Sequence[int], layers: int) -> Self:
        self = super().__new__(cls, stage)
        self.under_way = under_way
        self.layers = layers
        return self
