"""A page of memory that all hands of a copy see: who is idle, who failed, what is done.

Every number has one writer, so no locks are needed.
"""

from __future__ import annotations

import mmap
import os

_SLOT = 6  # numbers for each hand
_IDLE, _GAVE, _TOOK, _ENTRIES, _BYTES = range(5)
_FLAGS = 64  # bytes before the slots: the flag of failure, then one for each idle hand

MOST_HANDS = _FLAGS - 1


class Board:
    """The page as one hand sees it.

    Attributes:
        fd: the memory's descriptor, to be given to other processes.
    """

    def __init__(self, hands: int, slot: int = 0, fd: int = -1) -> None:
        """Make the page for ``hands`` hands, or join the one behind ``fd`` as number ``slot``."""
        size = _FLAGS + 8 * _SLOT * hands
        if fd < 0:
            fd = os.memfd_create("reflayer", os.MFD_CLOEXEC)
            os.ftruncate(fd, size)
        self.fd = fd
        self._memory = mmap.mmap(fd, size)
        self._numbers = memoryview(self._memory)[_FLAGS:].cast("Q")
        self._hands = hands
        self._slot = slot
        self._flag = 1 + slot
        self._base = _SLOT * slot

    def calls(self) -> bool:
        """Whether some hand is idle or has failed: one look, cheap enough for each folder."""
        return self._memory.find(b"\x01", 0, 1 + self._hands) >= 0

    def failed(self) -> bool:
        """Whether some hand has met an error."""
        return self._memory[0] == 1

    def fail(self) -> None:
        """Say that this hand has met an error."""
        self._memory[0] = 1

    def rest(self) -> None:
        """Say that this hand is idle."""
        self._memory[self._flag] = 1

    def gave(self, pieces: int = 1) -> None:
        """Count work that is about to be given away; -1 takes it back when it was not."""
        self._numbers[self._base + _GAVE] += pieces

    def took(self) -> None:
        """Count a piece of work that was taken, and be idle no more."""
        self._memory[self._flag] = 0
        self._numbers[self._base + _TOOK] += 1

    def joined(self, slot: int) -> bool:
        """Whether the hand of that number has begun; one that has not needs no waiting for."""
        return self._memory[1 + slot] == 1 or self._numbers[_SLOT * slot + _TOOK] > 0

    def finished(self) -> bool:
        """Whether all hands that have begun are idle and no piece of work is on its way.

        In this order: nothing can be given when all are idle, so what was taken first and what was
        given last are equal only if nothing moved in between.
        """
        numbers = self._numbers
        slots = range(self._hands)
        took = sum(numbers[_SLOT * slot + _TOOK] for slot in slots)
        idle = all(self._memory[1 + slot] or not self.joined(slot) for slot in slots)
        gave = sum(numbers[_SLOT * slot + _GAVE] for slot in slots)
        return idle and gave == took

    def tell(self, entries: int, size: int) -> None:
        """Publish how many entries and bytes this hand has copied in all."""
        self._numbers[self._base + _ENTRIES] = entries
        self._numbers[self._base + _BYTES] = size

    def done(self) -> tuple[int, int]:
        """Entries and bytes that all hands have copied so far."""
        slots = range(0, _SLOT * self._hands, _SLOT)
        entries = sum(self._numbers[base + _ENTRIES] for base in slots)
        return entries, sum(self._numbers[base + _BYTES] for base in slots)

    def close(self) -> None:
        """Let go of the memory."""
        self._numbers.release()
        self._memory.close()
        os.close(self.fd)
