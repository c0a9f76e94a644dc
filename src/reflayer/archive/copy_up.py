"""What stands in layers below is made in a difference as it is there: overlayfs' copy up."""

from __future__ import annotations

import os
import stat

from reflayer.walk.facts import Facts, list_attributes, read_attributes, read_attributes_at
from reflayer.walk.folders import NEW_FILE, OPEN_FILE, identity, open_noatime
from reflayer.walk.overlay import difference_attributes, is_whiteout
from reflayer.walk.stack import Union

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from reflayer.walk.metadata import Metadata
    from reflayer.walk.overlay import Marks
    from reflayer.walk.stack import Part

    Inode = tuple[int, int]
    Name = tuple[list[bytes], bytes]
    """The folder's path, name by name, and the name in it."""


def folder_facts(part: Part, skip: Callable[[str], None] | None = None) -> Facts:
    """The metadata of a folder below as a difference has it; ``part`` is the topmost of it.

    With ``skip`` the attributes of the system are in it, too, as ``read_attributes`` has them.
    """
    found = read_attributes(part.fd, list_attributes(part.fd), skip)
    return _facts(part, part.status(os.fstat(part.fd)), found)


def copy_up(
    part: Part,
    status: os.stat_result,
    name: bytes,
    dst: int,
    metadata: Metadata,
    marks: Marks,
    copy: Callable[[int, int, int, int], None] | None = None,
    skip: Callable[[str], None] | None = None,
) -> None:
    """Make the file ``name`` of ``part``, with ``status`` in its tree, in the open folder ``dst``.

    It gets no other name. ``copy`` copies content, as ``Method.copy`` does; ``skip`` is as for
    ``folder_facts``.
    """
    facts = _facts(part, status, read_attributes_at(part.fd, name, skip))
    if not stat.S_ISREG(status.st_mode) and not is_whiteout(status):
        mode: int | None = -1
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=part.fd), name, dir_fd=dst)
            mode = None
        else:
            os.mknod(name, status.st_mode, status.st_rdev, dir_fd=dst)
        metadata.set_all_at(dst, name, facts, -1, -1, mode)
        return
    fd = os.open(name, NEW_FILE, 0o600, dir_fd=dst)
    try:
        if is_whiteout(status):  # a device of the tree
            facts.attributes = {**facts.attributes, **marks.device}
        else:
            if copy is None:
                from reflayer.copy.method import Method  # which few layers need

                copy = Method("auto").copy
            src = open_noatime(name, part.fd, OPEN_FILE)
            try:
                copy(src, fd, status.st_size, status.st_dev)
            finally:
                os.close(src)
        metadata.set_all(fd, facts, -1, -1, -1)
    finally:
        os.close(fd)


def linked_names(root: Union) -> dict[Inode, list[Name]]:
    """The names of each inode that has several, in a whole tree."""
    found: dict[Inode, list[Name]] = {}
    todo: list[tuple[list[bytes], list[Part]]] = [([], root.parts)]
    while todo:
        path, tops = todo.pop()
        with Union.beneath(b"/".join(path), tops) as above, above.enter(b".") as here:
            # ``here`` is opened as for a walk: its access time stays.
            for name, part in here.names().items():
                status = os.stat(name, dir_fd=part.fd, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    with here.enter(name) as inside:
                        todo.append(([*path, name], tops_of(inside, root)))
                elif status.st_nlink > 1:
                    found.setdefault(identity(status), []).append((path, name))
    return found


def tops_of(folder: Union, root: Union) -> list[Part]:
    """The roots of the layers that have a folder."""
    return [root.parts[part.layer] for part in folder.parts]


def _facts(part: Part, status: os.stat_result, attributes: dict[str, bytes]) -> Facts:
    return Facts(status, difference_attributes(part.attributes(attributes)))
