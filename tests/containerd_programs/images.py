"""Images for containerd, made by hand: layers, and the archives and layouts that hold them."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

from tests.archive.tars import entry, folder, tar, text, xattr
from tests.archive.test_entries import ACL, CAPABILITY
from tests.images.layouts import Layout, sha256

TIME = 1_234_567_890
NAME = "localhost/image"
"""What images are called; the tag follows."""

_COMMANDS = ("cat", "chmod", "ls", "mv", "rm", "sh", "sleep", "stat", "true")


def busybox() -> bytes:
    """A layer with a shell and a few commands, from the static program that Debian packs."""
    program = shutil.which("busybox")
    assert program is not None
    with open(program, "rb") as file:
        data = file.read()
    return tar(
        *(folder(name, mtime=TIME) for name in ("bin", "dev", "etc", "proc", "sys", "tmp")),
        entry("bin/busybox", data, mode=0o755, mtime=TIME),
        *(entry(f"bin/{name}", kind="symlink", target="busybox", mtime=TIME) for name in _COMMANDS),
        entry("etc/passwd", b"root:x:0:0:root:/:/bin/sh\n", mtime=TIME),
    )


def layers() -> tuple[bytes, bytes, bytes, bytes]:
    """Layers with all that is hard about layers: each changes what the one before it made."""
    pax = {
        xattr("user.name"): "value",
        xattr("security.capability"): text(CAPABILITY),
        xattr("system.posix_acl_access"): text(ACL),
    }
    # As tar writes it, a link has all that the file has, whose mode is what the ACL says.
    file: dict[str, Any] = {"mode": 0o770, "uid": 1234, "gid": 5678, "mtime": TIME, "pax": pax}
    first = tar(
        folder("kept", mtime=TIME, mode=0o2751, uid=1, gid=2),
        entry("kept/file", b"first", **file),
        entry("kept/link", kind="link", target="kept/file", **file),
        entry("kept/symlink", kind="symlink", target="file", mtime=TIME),
        entry("kept/null", kind="char", device=(1, 3), mtime=TIME),
        entry("kept/pipe", kind="fifo", mtime=TIME),
        folder("white", mtime=TIME),
        entry("white/gone", b"x", mtime=TIME),
        entry("white/stays", b"x", mtime=TIME),
        folder("white/folder", mtime=TIME),
        entry("white/folder/gone", b"x", mtime=TIME),
        folder("opaque", mtime=TIME),
        entry("opaque/gone", b"x", mtime=TIME),
        folder("opaque/folder", mtime=TIME),
        entry("opaque/folder/gone", b"x", mtime=TIME),
        folder("deep/er/and", mtime=TIME),
        entry("deep/er/and/file", b"x", mtime=TIME),
        folder("deep/er", mtime=TIME + 1),
        folder("deep", mtime=TIME + 2),
    )
    second = tar(
        folder("white", mtime=TIME + 3),
        entry("white/.wh.gone", mtime=TIME),
        entry("white/.wh.folder", mtime=TIME),
        folder("opaque", mtime=TIME + 4, mode=0o700),
        entry("opaque/.wh..wh..opq", mtime=TIME),
        entry("opaque/new", b"new", mtime=TIME),
    )
    third = tar(
        folder("kept", mtime=TIME + 5, mode=0o755),
        # With a new link the file comes again: overlayfs' upper folder needs all of its names.
        entry("kept/other", b"first", **file),
        *(
            entry(name, kind="link", target="kept/other", **file)
            for name in ("kept/file", "kept/link")
        ),
        entry("white/stays", b"replaced", mtime=TIME + 6, mode=0o600),
        folder("white", mtime=TIME + 7),
        entry("deep/er/and", kind="symlink", target="/nowhere", mtime=TIME + 8),
        folder("deep/er", mtime=TIME + 9),
        folder("deep", mtime=TIME + 10),
    )
    fourth = tar(
        folder("kept", mtime=TIME + 11),
        entry("kept/link", b"a file of its own now", mtime=TIME + 12),
        entry("big", os.urandom(3 << 20), mtime=TIME),
    )
    return first, second, third, fourth


def odd_layers() -> tuple[bytes, bytes]:
    """Layers that an applier does not make a right difference of by itself."""
    first = tar(
        folder("folder", mtime=TIME, mode=0o2751, uid=1, gid=2),
        entry("folder/gone", b"x", mtime=TIME),
        folder("folder/inside", mtime=TIME + 1, pax={xattr("user.name"): "value"}),
        entry("folder/link", kind="symlink", target="/folder/inside", mtime=TIME),
        entry("device", kind="char", mode=0o600, mtime=TIME),
        folder("folder", mtime=TIME, mode=0o2751, uid=1, gid=2),
    )
    second = tar(
        entry("folder/.wh.gone", mtime=TIME),
        entry("folder/inside/new", b"new", mtime=TIME),
        entry("folder/link/through", b"through", mtime=TIME),
        entry("folder/device", kind="char", mode=0o600, mtime=TIME + 2),
        entry("folder/modeless", kind="char", mode=0, mtime=TIME + 2),
    )
    return first, second


def layout(place: Path, tag: str, *plain: bytes, **config: object) -> Path:
    """An OCI image layout with one image of these layers."""
    made = Layout(place)
    made.index(**{tag: made.image(*plain, config=config)})
    return place


def archive(place: Path, tag: str, *plain: bytes, **config: object) -> Path:
    """The same in a tar, for ``ctr images import``."""
    made = place.with_suffix(".tar")
    with tarfile.open(made, "w") as file:
        file.add(layout(place, tag, *plain, **config), ".")
    return made


def chain_id(*plain: bytes) -> str:
    """What containerd calls the snapshot of these layers: the OCI specification's chain id."""
    first, *rest = map(sha256, plain)
    for diff_id in rest:
        first = sha256(f"{first} {diff_id}".encode())
    return first
