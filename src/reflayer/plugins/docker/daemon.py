"""Which process a daemon is: told from a later one that has got its number."""

from __future__ import annotations

from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_STATE, _STARTED = 0, 19  # of what follows the name in /proc/PID/stat (proc(5))
_DEAD = (b"Z", b"X")  # its parent has not waited for it yet


@dataclass(frozen=True, slots=True)
class Daemon:
    """A process of this boot.

    Attributes:
        process: its id; 0 where nobody can tell, as from another namespace.
        started: when, in clock ticks since the boot; 0 where it is not running.
    """

    process: int
    started: int

    @classmethod
    def running(cls, process: int) -> Self:
        """The one that has the id ``process`` now."""
        try:
            with open(f"/proc/{process}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return cls(process, 0)
        return cls(process, 0 if fields[_STATE] in _DEAD else int(fields[_STARTED]))

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """From what ``str`` made of one; or its id alone, as older records have it.

        Raises:
            ValueError: it is neither.
        """
        process, _, started = text.partition(b" ")
        return cls(int(process), int(started)) if started else cls.running(int(process))

    def __str__(self) -> str:
        """Both numbers."""
        return f"{self.process} {self.started}"

    def is_alive(self) -> bool:
        """Whether it still runs; False where nobody can tell."""
        return self.started != 0 and Daemon.running(self.process) == self
