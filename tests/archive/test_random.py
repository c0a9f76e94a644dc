"""Random layers come out as they should, and broken ones do no harm."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reflayer.errors import ArchiveError
from tests.archive.tars import Entry, apply, entry, folder, header, tar, xattr
from tests.archive.test_formats import old_gnu, pax_1_0
from tests.file_systems import require_root
from tests.trees import facts

NAMES = st.sampled_from(["a", "b", "c", "d"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
KINDS = st.sampled_from(["file", "folder", "folder", "folder", "symlink", "fifo"])
Node = tuple[str, int, bytes]  # type, mode, content
NODES = st.tuples(KINDS, st.sampled_from([0o600, 0o755, 0o4711]), st.binary(max_size=8))
Tree = dict[str, Node]


@contextmanager
def new_root() -> Iterator[Path]:
    """A folder that is gone afterwards, in one with something else."""
    place = Path(tempfile.mkdtemp(prefix="reflayer-test-"))
    try:
        (place / "outside").mkdir()
        (place / "outside/file").write_text("outside")
        yield place / "root"
        assert (place / "outside/file").read_text() == "outside"
        assert sorted(path.name for path in place.iterdir()) in (
            ["outside", "root"],
            ["outside"],
        )
        assert [path.name for path in (place / "outside").iterdir()] == ["file"]
    finally:
        shutil.rmtree(place, ignore_errors=True)


def closed(nodes: Tree) -> Tree:
    """The part of ``nodes`` that is a tree, all folders of it being there."""
    tree: Tree = {}
    for path in sorted(nodes):
        above = path.rpartition("/")[0]
        if not above or tree.get(above, ("",))[0] == "folder":
            tree[path] = nodes[path]
    return tree


TREES = st.dictionaries(PATHS, NODES, max_size=16).map(closed)


def entries(tree: Tree) -> list[Entry]:
    """An entry for each node, folders before their content."""
    return [
        entry(
            path,
            content if kind == "file" else b"",
            kind=kind,
            mode=mode,
            target="no/where" if kind == "symlink" else "",
            mtime=len(path),
        )
        for path, (kind, mode, content) in tree.items()
    ]


def expected(tree: Tree) -> dict[str, object]:
    """What ``seen`` has to be."""
    return {
        path: (
            kind,
            0o777 if kind == "symlink" else mode,
            len(path),
            content if kind == "file" else b"",
        )
        for path, (kind, mode, content) in tree.items()
    }


def seen(root: Path) -> dict[str, object]:
    """What is there, in the terms of ``Node``."""
    kinds = {0o100000: "file", 0o040000: "folder", 0o120000: "symlink", 0o010000: "fifo"}
    told: dict[str, object] = {}
    for path, fact in facts(root).items():
        kind = kinds[fact.type]
        content = (root / path.decode()).read_bytes() if kind == "file" else b""
        told[path.decode()] = (kind, fact.mode, fact.mtime // 10**9, content)
    del told["."]
    return told


@settings(max_examples=60, deadline=None)
@given(tree=TREES, data=st.data())
def test_a_random_layer_comes_out_whatever_the_order_of_its_entries(
    tree: Tree, data: st.DataObject
) -> None:
    require_root()  # a random mode may shut its owner out
    order = data.draw(st.permutations(entries(tree)))
    with new_root() as root:
        apply(root, tar(*order))
        assert seen(root) == expected(tree)


@settings(max_examples=100, deadline=None)
@given(lower=TREES, upper=TREES, data=st.data())
def test_a_random_layer_hides_and_replaces_what_lower_layers_have(
    lower: Tree, upper: Tree, data: st.DataObject
) -> None:
    require_root()  # a random mode may shut its owner out
    hidden = data.draw(st.sets(st.sampled_from(sorted(lower)))) if lower else set()
    folders = sorted(path for path in {**lower, **upper} if {**lower, **upper}[path][0] == "folder")
    opaque = data.draw(st.sets(st.sampled_from(folders))) if folders else set()

    def is_hidden(path: str) -> bool:
        parts = path.split("/")
        ways = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        return (
            not hidden.isdisjoint(ways)
            or not opaque.isdisjoint(ways[:-1])
            or any(upper.get(way, ("folder",))[0] != "folder" for way in ways[:-1])
        )

    # The parents of a whiteout are folders in every layer that has them.
    merged = {path: node for path, node in lower.items() if not is_hidden(path)}
    lost = {
        path
        for path in upper
        if upper[path][0] == "folder" and lower.get(path, ("folder",))[0] != "folder"
    }
    merged = {path: node for path, node in merged.items() if path not in lost}
    merged.update(upper)

    layer = entries(upper)
    for path in [f"{p.rpartition('/')[0]}/.wh.{p.rpartition('/')[2]}" for p in sorted(hidden)] + [
        f"{p}/.wh..wh..opq" for p in sorted(opaque)
    ]:
        layer.insert(data.draw(st.integers(0, len(layer))), entry(path.lstrip("/")))
    with new_root() as root:
        apply(root, tar(*entries(lower)))
        apply(root, tar(*layer))
        assert seen(root) == expected(merged)


SEEDS = [
    tar(
        folder("./"), folder("dir"), entry("dir/file", b"content", pax={xattr("user.x"): "y"}),
        entry("link", kind="symlink", target="dir"), entry("link/other", b"x"),
        entry("hard", kind="link", target="dir/file"), entry("dev", kind="char", device=(1, 3)),
        entry("dir/.wh.file"), entry("dir/.wh..wh..opq"), entry("n" * 200, b"long"),
    ),
    tar(entry("x/" * 80 + "y", b"x", mtime=2**34), entry("pipe", kind="fifo"), form=1),
    old_gnu(),
    pax_1_0()[:4096],
]  # fmt: skip


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_broken_layer_is_applied_or_refused_and_does_no_harm(data: st.DataObject) -> None:
    require_root()  # a random mode may shut its owner out
    archive = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 4))):
        block = data.draw(st.integers(0, len(archive) // 512 - 1)) * 512
        place = data.draw(st.integers(0, 511))
        size = data.draw(st.integers(1, 12))
        archive[block + place : block + place + size] = data.draw(
            st.one_of(
                st.binary(min_size=size, max_size=size),
                st.sampled_from(
                    [b"../../../../x", b"/outside/x", b"77777777777", b"\x80" + b"\x7f" * 11]
                ),
            )
        )[:size]
        if data.draw(st.booleans()):  # with the checksum put right: it gets further
            archive[block : block + 512] = header(bytes(archive[block : block + 512]))
    if data.draw(st.booleans()):
        del archive[data.draw(st.integers(0, len(archive))) :]
    with new_root() as root, suppress(ArchiveError):
        apply(root, bytes(archive))
