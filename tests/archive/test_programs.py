"""What GNU tar and bsdtar pack comes out as they unpack it themselves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.archive.tars import apply, entry, folder, tar, text, xattr
from tests.archive.test_entries import ACL, CAPABILITY
from tests.file_systems import require, require_root
from tests.trees import Facts, assert_same, facts

TIMES = {"mtime": "1234567890.123456789", "atime": "1234567890.123456789"}


@pytest.fixture
def hard_cases(place_on: Callable[[str], Path]) -> Path:
    """A tree of hard cases on XFS, beside it room for more."""
    require_root()
    place = place_on("xfs")
    pax = {
        xattr("user.name"): "value",
        xattr("security.capability"): text(CAPABILITY),
        xattr("system.posix_acl_access"): text(ACL),
    }
    default = {xattr("system.posix_acl_default"): text(ACL), **TIMES}
    apply(
        place / "tree",
        tar(
            folder(".", mode=0o750, uid=3, pax=TIMES),
            folder("dir", mode=0o2775, uid=1, gid=2, pax=default),
            entry("dir/file", os.urandom(100_000), mode=0o4750, uid=1234, gid=5678, pax=pax),
            entry("dir/" + "long" * 60, b"x", pax=TIMES),
            entry("/".join(["deep" * 10] * 30) + "/file", b"deep"),
            entry("old", b"x", mtime=-100),
            entry("link", kind="symlink", target="l" * 300, uid=7, pax=TIMES),
            entry("hard-1", b"hard"),
            entry("hard-2", kind="link", target="hard-1"),
            entry("char", kind="char", device=(1, 3), mode=0o666),
            entry("block", kind="block", device=(7, 1)),
            entry("pipe", kind="fifo", mode=0o600),
            entry("owned", uid=3_000_000, gid=3_000_000),
            entry("bytes-\udcff\n\t\\", b"x"),
            folder("shut", mode=0),
        ),
    )
    with open(place / "tree/sparse", "wb") as file:
        for offset in [start for start, _ in DATA]:
            file.seek(offset)
            file.write(b"data" * 1024)
        file.truncate(50 << 20)
    return place


DATA = tuple((start, start + 4096) for start in (0, 3 << 20, 40 << 20))
GNU = ["--format=gnu", "--format=pax --xattrs --xattrs-include=*", "--format=oldgnu",
       *[f"--format=pax --sparse --sparse-version={v}" for v in ("0.0", "0.1", "1.0")],
       "--format=gnu --sparse"]  # fmt: skip


@pytest.mark.parametrize("options", GNU)
def test_gnu_tar_and_we_unpack_the_same(options: str, hard_cases: Path) -> None:
    require("tar")
    tree, archive = hard_cases / "tree", hard_cases / "archive.tar"
    run = ["tar", "--numeric-owner", *options.split()]
    subprocess.run([*run, "-C", tree, "-cf", archive, "."], check=True)
    (hard_cases / "theirs").mkdir()
    subprocess.run([*run, "-C", hard_cases / "theirs", "-xpf", archive], check=True)

    apply(hard_cases / "ours", archive.read_bytes())

    ours = facts(hard_cases / "ours", atime=False)
    assert_same(ours, facts(hard_cases / "theirs", atime=False))
    if "--sparse" in options:
        assert facts(hard_cases / "ours", holes=True)[b"sparse"].holes == DATA
    if "--xattrs" in options:
        assert_same(ours, facts(tree, atime=False))


@pytest.mark.parametrize(
    ("form", "compression"),
    [
        ("gnutar", []),
        ("ustar", []),
        *[("pax", o) for o in ([], ["-z"], ["--zstd"], ["-J"], ["-j"])],
    ],
)
def test_bsdtar_and_we_unpack_the_same(form: str, compression: list[str], hard_cases: Path) -> None:
    require("bsdtar")
    tree, archive = hard_cases / "tree", hard_cases / "archive.tar"
    if form == "ustar":  # which cannot hold these
        shutil.rmtree(tree / ("deep" * 10))
        for name in ("owned", "old", "link", "dir/" + "long" * 60):
            (tree / name).unlink()
    theirs = hard_cases / "theirs"
    theirs.mkdir()
    run = f"bsdtar --numeric-owner --format {form}".split() + compression
    subprocess.run([*run, "-C", str(tree), "-cf", str(archive), "."], check=True)
    subprocess.run(
        ["bsdtar", "--numeric-owner", "-C", str(theirs), "-xpf", str(archive)], check=True
    )

    apply(hard_cases / "ours", archive.read_bytes())

    assert_same(told(hard_cases / "ours"), told(theirs))
    if form == "pax":
        assert facts(hard_cases / "ours", holes=True)[b"sparse"].holes == DATA


def told(root: Path) -> dict[bytes, Facts]:
    """The facts but for what bsdtar alone does.

    It leaves the times of the root alone, and keeps ACLs as a text that tools for layers do not
    read.
    """
    every = facts(root, atime=False)
    every[b"."] = every[b"."]._replace(mtime=0)
    return {
        path: fact._replace(
            xattrs={a: value for a, value in fact.xattrs.items() if "acl" not in a.lower()}
        )
        for path, fact in every.items()
    }


def test_what_pythons_tarfile_reads_of_a_layer_is_what_comes_out(hard_cases: Path) -> None:
    archive = hard_cases / "archive.tar"
    subprocess.run(["tar", "-C", hard_cases / "tree", "-cf", archive, "."], check=True)
    applied = apply(hard_cases / "ours", archive.read_bytes())
    with tarfile.open(archive) as theirs:
        assert applied.entries == len(theirs.getmembers())


def test_a_file_at_the_end_of_what_umoci_inserts_comes_out(tmp_path: Path) -> None:
    """Its archives end with the last file's last byte."""
    require("umoci")
    layout, image = tmp_path / "layout", f"{tmp_path}/layout:image"
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_bytes(b"content")
    for command in (
        ["init", "--layout", layout],
        ["new", "--image", image],
        ["insert", "--rootless", "--image", image, tmp_path / "tree", "/"],
    ):
        subprocess.run(["umoci", *command], check=True, capture_output=True)
    manifest = json.loads(
        blob(layout, json.loads((layout / "index.json").read_text())["manifests"])
    )
    apply(tmp_path / "out", blob(layout, manifest["layers"]), ownership="ignore")
    assert (tmp_path / "out/file").read_bytes() == b"content"


def blob(layout: Path, descriptors: list[dict[str, str]]) -> bytes:
    """The only blob that a list of descriptors names."""
    (descriptor,) = descriptors
    return (layout / "blobs" / descriptor["digest"].replace(":", "/")).read_bytes()
