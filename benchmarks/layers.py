"""An image of ten layers: a tree, and nine on top that do what is done to layers.

They add and change and delete, replace folders and put them back, link, and rename a large folder:
all that any engine's own layers have. Python's ``tarfile`` writes them, so nothing that is measured
has a part in it, and of the same tree the image is always the same.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import sys
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from random import Random

from benchmarks.places import tree

NAME = "layers"
"""The image's tag, and its name when the archive is loaded is ``bench:layers``."""

Entry = tuple[tarfile.TarInfo, bytes]

_TIME = 1_600_000_000_123_456_789  # nanoseconds
_NO_ATTRIBUTES: Mapping[str, bytes] = {}
_KEPT = frozenset({"bin", "lib64", "sbin"})  # folders of programs, so that the image can be run
_WAYS = 11  # among which the tree's folders are dealt out
_FOLDERS, _FILES = 60, 40  # of the program that is added, and then renamed: files of each folder
_CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # capabilities(7)
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def layered_image(source: Path, folder: Path) -> Path:
    """Make ``folder``, an OCI image layout with the image of ``source``; return its archive.

    The archive is the layout in a tar, beside it. Docker reads that as what ``docker save`` writes.
    """
    archive = folder.with_name(f"{folder.name}.tar")
    if archive.exists():
        return archive
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)
    layers, diff_ids = [], []
    for layer in _layers(source):
        plain = _tar(layer)
        diff_ids.append(_digest(plain))
        layers.append(_blob(blobs, gzip.compress(plain, 6, mtime=0), _LAYER))
    rootfs = {"type": "layers", "diff_ids": diff_ids}
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}
    described = _blob(blobs, _json(config), _CONFIG)
    top = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": described, "layers": layers}
    manifest = _blob(blobs, _json(top), _MANIFEST)
    manifest["annotations"] = {"org.opencontainers.image.ref.name": NAME}
    (folder / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
    (folder / "index.json").write_bytes(_json({"schemaVersion": 2, "manifests": [manifest]}))
    docker = {
        "Config": _place(described),
        "Layers": [_place(layer) for layer in layers],
        "RepoTags": [f"bench:{NAME}"],
    }
    (folder / "manifest.json").write_bytes(_json([docker]))
    with tarfile.open(archive, "w") as tar:
        tar.add(folder, "")
    return archive


def _layers(source: Path) -> Iterator[list[Entry]]:
    """The entries of each layer, the lowest first."""
    base = list(_entries_of(source))
    yield base
    random = Random(0)
    ways = _dealt_out(entry for entry, _ in base)
    yield [*_program("srv/app", random), _symlink("srv/current", "app")]
    yield _added(ways[0])
    yield _changed(ways[1], random)
    yield _other_metadata(ways[2])
    yield _deleted(ways[3], ways[4])
    yield _replaced(ways[5], ways[6], ways[7], ways[8])
    yield _put_back(ways[7], ways[8])
    yield _linked(ways[9], ways[10])
    yield [*_program("srv/application", random), _deletion("srv/app"), _deletion("srv/current")]


_Folder = tuple[tarfile.TarInfo, list[tarfile.TarInfo]]  # and the files in it


def _dealt_out(entries: Iterable[tarfile.TarInfo]) -> list[list[_Folder]]:
    """The folders that have files and no folders in them, dealt out among the layers.

    Those of programs are left out.
    """
    folders: dict[str, _Folder] = {}
    nested = set()
    for entry in entries:
        above = os.path.dirname(entry.name)
        if entry.isdir():
            nested.add(above)
            folders[entry.name] = (entry, [])
        elif entry.isreg() and above in folders:
            folders[above][1].append(entry)
    leaves = [
        folder
        for name, folder in sorted(folders.items())
        if folder[1] and name not in nested and os.path.basename(name) not in _KEPT
    ]
    return [leaves[way::_WAYS] for way in range(_WAYS)]


def _program(root: str, random: Random) -> Iterator[Entry]:
    """Many small files."""
    yield _folder(root)
    for number in range(_FOLDERS):
        yield _folder(f"{root}/{number}")
        for file in range(_FILES):
            content = random.randbytes(random.randrange(40, 2000)).hex().encode()
            yield _file(f"{root}/{number}/{file}.py", content, uid=1000)


def _added(folders: list[_Folder]) -> list[Entry]:
    """Some large files; and small ones in folders of the tree that the layer has no entries for."""
    random = Random(1)
    return [
        _folder("opt"),
        *(_file(f"opt/library-{number}.so", random.randbytes(1 << 20)) for number in range(4)),
        _file("opt/tool", b"#!/bin/sh\n", mode=0o4755),
        *(_file(f"{folder.name}/added", b"added\n") for folder, _ in folders),
    ]


def _changed(folders: list[_Folder], random: Random) -> list[Entry]:
    """New contents; only every second folder has an entry."""
    changed = []
    for number, (folder, files) in enumerate(folders):
        changed += [_folder(folder.name)] * (number % 2)
        changed += [_file(file.name, random.randbytes(3000).hex().encode()) for file in files]
    return changed


def _other_metadata(folders: list[_Folder]) -> list[Entry]:
    return [_folder(folder.name, mode=0o2750, gid=50) for folder, _ in folders]


def _deleted(folders: list[_Folder], more: list[_Folder]) -> list[Entry]:
    """Every second file of some, others as a whole, and a part of the program."""
    return [
        *(_deletion(file.name) for _, files in folders for file in files[::2]),
        *(_deletion(folder.name) for folder, _ in more),
        *(_deletion(f"srv/app/{number}") for number in range(10)),
    ]


def _replaced(
    opaque: list[_Folder], anew: list[_Folder], by_file: list[_Folder], by_link: list[_Folder]
) -> list[Entry]:
    """A folder by another, by an opaque one or with its names deleted; by a file; by a link."""
    entries = []
    for folder, _ in opaque:
        entries += [_folder(folder.name, mode=0o700), _file(f"{folder.name}/.wh..wh..opq")]
        entries += [_file(f"{folder.name}/replaced", b"replaced\n")]
    for folder, files in anew:
        entries += [_folder(folder.name), *(_deletion(file.name) for file in files)]
        entries += [_file(f"{folder.name}/anew", b"anew\n")]
    entries += [_file(folder.name, b"a file\n") for folder, _ in by_file]
    entries += [_symlink(folder.name, "/nowhere") for folder, _ in by_link]
    return entries


def _put_back(by_file: list[_Folder], by_link: list[_Folder]) -> list[Entry]:
    """What a file and a link replaced is a folder again."""
    entries = []
    for folder, files in [*by_file, *by_link]:
        entries += [_folder(folder.name), *(_file(file.name, b"back\n") for file in files)]
    return entries


def _linked(folders: list[_Folder], more: list[_Folder]) -> list[Entry]:
    """Files with several names, some in the place of the tree's, and files with attributes."""
    entries = []
    for folder, files in folders:
        entries.append(_file(f"{folder.name}/linked", b"linked\n"))
        names = (name for file in files for name in (file.name, f"{file.name}.again"))
        entries += [_hard_link(name, f"{folder.name}/linked") for name in names]
    for _, files in more:
        attributes = {"user.text": b"text", "security.capability": _CAPABILITY}
        entries += [_file(file.name, b"capable\n", attributes=attributes) for file in files]
    return entries


def _entries_of(source: Path) -> Iterator[Entry]:
    """The tree's own, in a fixed order; without sockets, which no archive has."""
    with tarfile.TarFile(fileobj=io.BytesIO(), mode="w") as links:  # it knows hard links
        for path in [source, *sorted(source.rglob("*"))]:
            status = path.lstat()
            if stat.S_ISSOCK(status.st_mode):
                continue
            info = links.gettarinfo(path, str(path.relative_to(source)))
            info.uname = info.gname = ""
            info.pax_headers = _records(status.st_mtime_ns, _attributes(path))
            yield info, path.read_bytes() if info.isreg() else b""


def _attributes(path: Path) -> dict[str, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def _file(
    name: str,
    content: bytes = b"",
    mode: int = 0o644,
    uid: int = 0,
    attributes: Mapping[str, bytes] = _NO_ATTRIBUTES,
) -> Entry:
    info = _entry(name, tarfile.REGTYPE, mode, attributes)
    info.size, info.uid = len(content), uid
    return info, content


def _folder(name: str, mode: int = 0o755, gid: int = 0) -> Entry:
    info = _entry(name, tarfile.DIRTYPE, mode)
    info.gid = gid
    return info, b""


def _symlink(name: str, target: str) -> Entry:
    info = _entry(name, tarfile.SYMTYPE, 0o777)
    info.linkname = target
    return info, b""


def _hard_link(name: str, target: str) -> Entry:
    info = _entry(name, tarfile.LNKTYPE, 0o644)
    info.linkname = target
    return info, b""


def _deletion(name: str) -> Entry:
    above, _, last = name.rpartition("/")
    return _file(f"{above}/.wh.{last}")


def _entry(
    name: str, kind: bytes, mode: int, attributes: Mapping[str, bytes] = _NO_ATTRIBUTES
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = kind, mode
    info.pax_headers = _records(_TIME, attributes)
    return info


def _records(mtime: int, attributes: Mapping[str, bytes]) -> dict[str, str]:
    """What a PAX header tells: a time in nanoseconds, and attributes as GNU tar writes them."""
    seconds, fraction = divmod(mtime, 10**9)
    values = {f"SCHILY.xattr.{name}": value for name, value in attributes.items()}
    told = {name: value.decode("utf-8", "surrogateescape") for name, value in values.items()}
    return {"mtime": f"{seconds}.{fraction:09}", **told}


def _tar(entries: Iterable[Entry]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _blob(blobs: Path, data: bytes, media_type: str) -> dict[str, object]:
    """Add a blob; return its descriptor."""
    digest = _digest(data)
    (blobs / digest.removeprefix("sha256:")).write_bytes(data)
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _place(descriptor: Mapping[str, object]) -> str:
    return f"blobs/{descriptor['digest']}".replace(":", "/")


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


if __name__ == "__main__":
    print(layered_image(tree(sys.argv[1]), Path(sys.argv[2])))
