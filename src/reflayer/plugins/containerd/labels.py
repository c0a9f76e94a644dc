"""The labels of snapshots: names and values that a client sets, reads, and filters by.

They are kept with each snapshot in the records, as they came: none is made here or means anything
here. containerd's own (``containerd.io/snapshot.ref``, ``containerd.io/gc.*``) are among them.
"""

from __future__ import annotations

from reflayer.plugins.containerd.snapshot import InvalidArgumentError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def kept(labels: Mapping[str, str]) -> dict[str, str]:
    """``labels`` without the empty ones, which containerd does not keep."""
    return {name: value for name, value in labels.items() if value}


def changed(
    name: str, old: Mapping[str, str], new: Mapping[str, str], paths: Sequence[str]
) -> dict[str, str]:
    """The labels of snapshot ``name`` after an update of those that ``paths`` name.

    Args:
        name: the snapshot's, for the error.
        old: its labels.
        new: those of the request.
        paths: ``labels`` for all of them, ``labels.KEY`` for one.

    Raises:
        InvalidArgumentError: a path names another field.
    """
    labels = dict(old)
    for path in paths:
        if path == "labels":
            labels = dict(new)
        elif path.startswith("labels."):
            label = path.removeprefix("labels.")
            labels[label] = new.get(label, "")
        else:
            raise InvalidArgumentError(
                f"cannot update {path!r} of snapshot {name}: only its labels"
            )
    return kept(labels)
