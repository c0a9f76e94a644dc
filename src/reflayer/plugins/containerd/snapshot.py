"""One snapshot, as it is recorded; and what containerd's rules forbid to do with one."""

from __future__ import annotations

from enum import IntEnum

from reflayer.errors import LayerError
from reflayer.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Kind(IntEnum):
    """What a snapshot is, by the numbers of the protocol."""

    VIEW = 1
    ACTIVE = 2
    COMMITTED = 3


@record
class Snapshot:
    """One snapshot.

    Attributes:
        name: its name, of a committed one, or its key; the client's namespace is part of it.
        parent: the name of the committed one that it was made from, or empty.
        kind: what it is.
        folder: the id of its layer in the driver; of a view of a parent, the parent's.
        created: nanoseconds since 1970; of a committed one, when it was committed.
        updated: nanoseconds since 1970, when its labels were last changed.
        labels: by name; none is empty.
        size: bytes on disk that it takes itself, counted when it was committed.
        inodes: its own inodes, counted then, too.
    """

    name: str
    parent: str
    kind: Kind
    folder: str
    created: int
    updated: int
    labels: Mapping[str, str]
    size: int = 0
    inodes: int = 0

    @property
    def has_own_folder(self) -> bool:
        """Whether its folder is its own: a view of a parent shows that of its parent."""
        return self.kind is not Kind.VIEW or not self.parent


class SnapshotError(LayerError):
    """A request that cannot be granted as things are, by a word of containerd's ``errdefs``."""


class NotFoundError(SnapshotError):
    """There is no such snapshot."""


class AlreadyExistsError(SnapshotError):
    """A snapshot is called so already."""


class FailedPreconditionError(SnapshotError):
    """The snapshot is not of the kind for this, or others need it."""


class InvalidArgumentError(SnapshotError):
    """The request makes no sense, whatever there is."""
