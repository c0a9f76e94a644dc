"""The content store: blobs whole and checked or not there, for several processes and kill -9."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer.errors import ImageError, OperationError
from reflayer.images.content.blob_store import BlobStore
from reflayer.images.model.descriptor import Descriptor
from tests.file_systems import mounted, require
from tests.images.layouts import MANIFEST, Layout, layer, sha256

DATA = random.Random(1).randbytes(3_000_000)
DIGEST = sha256(DATA)


@pytest.fixture
def content(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "content")


def leftovers(content: BlobStore) -> list[str]:
    return os.listdir(Path(content.folder) / "tmp")


def test_a_new_store_is_an_empty_layout(content: BlobStore) -> None:
    folder = Path(content.folder)
    assert json.loads((folder / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads((folder / "index.json").read_text())["manifests"] == []
    assert list(content.digests()) == []
    assert content.tags() == {}


def test_a_store_of_another_version_is_refused(content: BlobStore) -> None:
    (Path(content.folder) / "oci-layout").write_text('{"imageLayoutVersion": "9"}')
    with pytest.raises(ImageError, match="version '9'"):
        BlobStore(content.folder)


def test_a_blob_is_told_by_its_digest(content: BlobStore) -> None:
    added = content.add(io.BytesIO(DATA), media_type="text/plain")
    assert added == Descriptor("text/plain", DIGEST, len(DATA))
    assert content.has(DIGEST)
    assert content.open(DIGEST).read() == DATA
    assert content.size(DIGEST) == len(DATA)
    assert Path(content.path(DIGEST)).read_bytes() == DATA
    assert list(content.digests()) == [DIGEST]
    assert leftovers(content) == []


def test_a_file_is_added_as_a_stream_is(content: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    told: list[int] = []
    with open(tmp_path / "file", "rb") as file:
        content.add(file, digest=DIGEST, size=len(DATA), progress=told.append)
    assert content.open(DIGEST).read() == DATA
    assert told == sorted(told)
    assert told[-1] == len(DATA)


def test_only_the_rest_of_a_file_is_added_where_some_was_read(
    content: BlobStore, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"some " + DATA)
    with open(tmp_path / "file", "rb") as file:
        file.read(5)
        assert content.add(file).digest == DIGEST


@pytest.mark.root
@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_a_file_shares_its_blocks_where_the_file_system_can(
    kind: str, place_on: Callable[[str], Path]
) -> None:
    place = place_on(kind)
    content = BlobStore(place / "content")
    data = random.Random(2).randbytes(50_000_000)
    (place / "file").write_bytes(data)
    os.sync()
    before = os.statvfs(place)
    with open(place / "file", "rb") as file:
        content.add(file, digest=sha256(data))
    os.sync()
    after = os.statvfs(place)
    assert (before.f_bfree - after.f_bfree) * before.f_frsize < 5_000_000
    assert content.open(sha256(data)).read() == data


@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize(
    ("digest", "size", "reason"),
    [
        (sha256(b"other"), None, f"another content, with the digest {DIGEST}"),
        (DIGEST, len(DATA) - 1, "but should have"),
        (DIGEST, len(DATA) + 1, "but should have"),
        (None, 7, "but should have 7"),
    ],
)
def test_what_is_not_as_it_should_be_never_appears(
    as_file: bool, digest: str | None, size: int | None, reason: str, tmp_path: Path
) -> None:
    content = BlobStore(tmp_path / "content")
    (tmp_path / "file").write_bytes(DATA)
    source = open(tmp_path / "file", "rb") if as_file else io.BytesIO(DATA)  # noqa: SIM115
    with source, pytest.raises(ImageError, match=reason):
        content.add(source, digest=digest, size=size)
    assert list(content.digests()) == []
    assert leftovers(content) == []


def test_a_blob_that_is_there_is_not_read_again(content: BlobStore) -> None:
    content.add(io.BytesIO(DATA))

    class Unreadable(io.RawIOBase):
        def readinto(self, buffer: object) -> int:  # noqa: ARG002
            raise AssertionError

    content.add(Unreadable(), digest=DIGEST, size=len(DATA))  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="should have 7"):
        content.add(Unreadable(), digest=DIGEST, size=7)  # type: ignore[arg-type]


def test_no_more_is_read_than_promised(content: BlobStore) -> None:
    source = io.BytesIO(bytes(50_000_000))
    with pytest.raises(ImageError, match="more bytes"):
        content.add(source, digest=DIGEST, size=10)
    assert source.tell() < 5_000_000


def test_a_source_that_cannot_be_read_is_an_error_and_leaves_nothing(content: BlobStore) -> None:
    class Broken(io.RawIOBase):
        def readinto(self, buffer: object) -> int:  # noqa: ARG002
            raise OSError(5, "Input/output error")

        def readable(self) -> bool:
            return True

    with pytest.raises(OperationError, match="read: Input/output error"):
        content.add(Broken(), digest=DIGEST)  # type: ignore[arg-type]
    assert leftovers(content) == []


@pytest.mark.parametrize(
    "digest",
    ["", "sha256:", "sha256:../../../../etc/passwd", "sha256:" + "A" * 64, "sha1:" + "0" * 40,
     "/etc/passwd", "sha256:" + "0" * 63 + "/",
     "sha256:" + "0" * 64 + "\n", "sha256:" + "\u0660" * 64],
)  # fmt: skip
def test_what_is_no_digest_never_becomes_a_path(digest: str, content: BlobStore) -> None:
    for use in (content.has, content.path, content.open, content.size, content.delete):
        with pytest.raises(ImageError, match="is not a sha256 or sha512 digest"):
            use(digest)


def test_a_missing_blob_is_named(content: BlobStore) -> None:
    with pytest.raises(ImageError, match=f"{DIGEST} is missing from"):
        content.open(DIGEST)


def test_a_blob_is_deleted_once_and_again(content: BlobStore) -> None:
    content.add(io.BytesIO(DATA))
    content.delete(DIGEST)
    content.delete(DIGEST)
    assert not content.has(DIGEST)


def test_tags_come_move_and_go(content: BlobStore) -> None:
    one, two = content.add_bytes(b"1", MANIFEST), content.add_bytes(b"2", MANIFEST)
    content.tag("a", one)
    content.tag("b", one)
    content.tag("a", two)
    assert {name: tag.digest for name, tag in content.tags().items()} == {
        "a": two.digest,
        "b": one.digest,
    }
    content.list_untagged(two)
    for _ in range(2):
        content.set_tags({"b": two, "c": one})
        tags = {name: tag.digest for name, tag in content.tags().items()}
        assert tags == {"b": two.digest, "c": one.digest}
    content.set_tags({})
    assert content.tags() == {}


def test_what_others_wrote_into_the_index_stays(content: BlobStore) -> None:
    one = content.add_bytes(b"1", MANIFEST)
    path = Path(content.folder) / "index.json"
    other = {**one.as_json(), "x": {"y": [1]}, "annotations": {"z": "1"}}
    path.write_text(json.dumps({"schemaVersion": 2, "manifests": [other], "more": 3}))
    content.tag("a", one)
    index = json.loads(path.read_text())
    assert index["manifests"][0] == other
    assert index["more"] == 3
    assert list(content.tags()) == ["a"]


@pytest.mark.parametrize("name", ["", "a\nb", "a\0"])
def test_a_tag_is_a_line_of_text(name: str, content: BlobStore) -> None:
    with pytest.raises(ImageError, match="cannot be a tag"):
        content.tag(name, content.add_bytes(b"1", MANIFEST))


def test_what_is_not_there_is_not_tagged(content: BlobStore) -> None:
    with pytest.raises(ImageError, match="is missing"):
        content.tag("a", Descriptor(MANIFEST, DIGEST, 1))


def test_threads_and_processes_use_one_store_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "content"
    program = f"""if True:
        import io, sys, threading
        from hashlib import sha256
        from reflayer.images.content.blob_store import BlobStore
        def work(who):
            for n in range(8):
                content = BlobStore({str(folder)!r})
                for data in (b"%d" % n * 300_000, b"%d" % n + who):
                    digest = "sha256:" + sha256(data).hexdigest()
                    one = content.add(io.BytesIO(data), digest=digest)
                content.tag(f"{{who.decode()}}-{{n}}", one)
        who = sys.argv[1].encode()
        threads = [threading.Thread(target=work, args=(who + b"%d" % n,)) for n in range(2)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    """
    started = [subprocess.Popen([sys.executable, "-c", program, name]) for name in "abc"]
    assert [process.wait() for process in started] == [0, 0, 0]

    content = BlobStore(folder)
    tags = content.tags()
    assert sorted(tags) == sorted(f"{who}{t}-{n}" for who in "abc" for t in "01" for n in range(8))
    assert len(set(content.digests())) == 8 + 48
    for digest in content.digests():
        assert sha256(content.open(digest).read()) == digest
    assert leftovers(content) == []


@pytest.mark.parametrize("named", [False, True])
def test_what_a_killed_writer_left_is_cleared_by_the_next(named: bool, tmp_path: Path) -> None:
    folder = tmp_path / "content"
    program = f"""if True:
        import io, os
        from reflayer.images.content.blob_store import BlobStore
        from reflayer.images.content import temp_file
        if {named}:  # as where the file system knows no files without a name
            temp_file._OPEN_FILES = "/proc/none"
        content = BlobStore({str(folder)!r})
        data = os.urandom(5_000_000)
        for n in range(10**9):
            content.tag("t", content.add(io.BytesIO(b"%d" % n + data)))
    """
    chance = random.Random(3)
    left = 0
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", program])
        while not any(folder.glob("blobs/sha256/*")):
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(chance.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        left += len(os.listdir(folder / "tmp"))
        content = BlobStore(folder)
        assert leftovers(content) == []
        content.tags()
        for digest in content.digests():
            assert sha256(content.open(digest).read()) == digest
            content.delete(digest)
    assert left > 0 or not named


@pytest.mark.parametrize("named", [False, True])
def test_what_a_living_writer_writes_is_left_alone(
    named: bool, content: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    if named:  # as where the file system knows no files without a name
        monkeypatch.setattr("reflayer.images.content.temp_file._OPEN_FILES", "/proc/none")
    half, go_on = threading.Event(), threading.Event()

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 0 and not half.is_set():
                half.set()
                go_on.wait(60)
            return super().read(size)

    thread = threading.Thread(target=lambda: content.add(Slow(DATA), digest=DIGEST))
    thread.start()
    half.wait(60)
    BlobStore(content.folder)
    assert len(leftovers(content)) == (2 if named else 0)  # it, and its lock file
    go_on.set()
    thread.join()
    assert content.open(DIGEST).read() == DATA


@pytest.mark.root
@pytest.mark.parametrize("as_file", [False, True])
def test_a_full_disk_is_one_clear_error_and_nothing_is_left(as_file: bool, tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path / "small", 4 << 20) as place:
        content = BlobStore(place / "content")
        free = os.statvfs(place).f_bfree
        (tmp_path / "file").write_bytes(DATA * 2)
        with open(tmp_path / "file", "rb") as file, pytest.raises(OperationError) as caught:
            content.add(file if as_file else io.BytesIO(DATA * 2), digest=sha256(DATA * 2))
        assert "No space left on device" in str(caught.value)
        assert str(place) in str(caught.value)
        assert leftovers(content) == []
        assert os.statvfs(place).f_bfree == free
        assert list(content.digests()) == []


def test_other_programs_read_it_in_place(content: BlobStore, tmp_path: Path) -> None:
    require("skopeo", "umoci")
    from reflayer.images.transports import open_source

    layout = Layout(tmp_path / "layout")
    layout.index(layout.image(layer("hello", b"world")))
    image = open_source(f"oci:{layout.folder}").fetch(content, None, None)[0]  # type: ignore[union-attr]
    content.tag("docker.io/library/x:1", image.manifest)

    place = f"oci:{content.folder}:docker.io/library/x:1"
    shown = subprocess.run(["skopeo", "inspect", place], check=True, capture_output=True)
    assert json.loads(shown.stdout)["Digest"] == image.manifest.digest
    content.tag("x", image.manifest)
    unpack = ["umoci", "unpack", "--rootless", "--image", f"{content.folder}:x"]
    subprocess.run([*unpack, tmp_path / "bundle"], check=True, capture_output=True)
    assert (tmp_path / "bundle/rootfs/hello").read_bytes() == b"world"
    copied = ["skopeo", "copy", "-q", place, f"oci:{tmp_path / 'copied'}:y"]
    subprocess.run(copied, check=True, capture_output=True)
    subprocess.run(["umoci", "gc", "--layout", content.folder], check=True, capture_output=True)
    assert content.has(image.manifest.digest)


def test_other_programs_write_into_it(content: BlobStore, tmp_path: Path) -> None:
    require("skopeo")
    layout = Layout(tmp_path / "layout")
    top = layout.image(layer("hello", b"world"))
    layout.index(top)
    copy = ["skopeo", "copy", "-q", f"oci:{layout.folder}", f"oci:{content.folder}:x"]
    subprocess.run(copy, check=True, capture_output=True)
    assert content.tags()["x"].digest == top["digest"]
