"""xattr(7) of a name in an open folder, for types that cannot be opened (links, devices, FIFOs).

Linux had no *at() calls for extended attributes before 6.13, so the folder is reached through its
own descriptor in proc(5); the last name is never followed.
"""

from __future__ import annotations

ACCESS_ACL = "system.posix_acl_access"
DEFAULT_ACL = "system.posix_acl_default"

_OF_TREE = ("user.", "system.posix_acl_")
_OF_FILE_SYSTEM = (
    "SGI_ACL_",  # XFS shows root each ACL a second time
    *("afr.", "bit-rot.", "ec.", "gfid2path.", "glusterfs.", "pgfid."),
)
_OF_GLUSTER_OR_LUSTRE = ("gfid", "fid", "hsm", "link", "lma", "lmv", "lov", "som")


def is_of_tree(attribute: str) -> bool:
    """Whether an attribute belongs to the tree that has it, so that its loss is one.

    The rest belongs to the file system (its properties, and ACLs that no other has) or to the host
    (labels, and hashes with a key of its own: xattr(7), security.*). So what is known is what
    trees have: of names that belong to systems there is no end.
    """
    if attribute.startswith("trusted."):
        name = attribute[len("trusted.") :]
        return name not in _OF_GLUSTER_OR_LUSTRE and not name.startswith(_OF_FILE_SYSTEM)
    if attribute.startswith(_OF_TREE):
        return True
    return attribute == "security.capability"


def path_at(dir_fd: int, name: bytes) -> bytes:
    """What ``name`` in the open folder ``dir_fd`` is called for calls that follow no link."""
    return b"/proc/self/fd/%d/%b" % (dir_fd, name)
