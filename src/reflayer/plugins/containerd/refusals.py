"""What containerd's rules forbid: an exception for each of its words for that (``errdefs``)."""

from __future__ import annotations

from reflayer.errors import LayerError


class SnapshotError(LayerError):
    """A request that cannot be granted as things are."""


class NotFoundError(SnapshotError):
    """There is no such snapshot."""


class AlreadyExistsError(SnapshotError):
    """A snapshot is called so already."""


class FailedPreconditionError(SnapshotError):
    """The snapshot is not of the kind for this, or others need it."""


class InvalidArgumentError(SnapshotError):
    """The request makes no sense, whatever there is."""
