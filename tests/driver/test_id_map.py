"""Layers of containers in user namespaces: the host's ids on disk, the container's in archives."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer.archive import IdMap, IdRange
from reflayer.driver import Driver
from reflayer.errors import ArchiveError
from tests.driver.layers import fill, kept, leftovers
from tests.file_systems import require, require_root
from tests.trees import assert_same, facts

MAP = IdMap((IdRange(0, 100_000, 65_536),), (IdRange(0, 300_000, 65_536),))


def archive(name: str, uid: int = 0, gid: int = 0) -> io.BytesIO:
    """A tar of one empty file."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.uid, info.gid = uid, gid
        tar.addfile(info)
    stream.seek(0)
    return stream


def owner(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_uid, status.st_gid


def fill_as_many(root: str) -> None:
    """Files of several owners, with an ACL that names one and a capability."""
    require("setfacl", "setcap")
    fill(root)
    os.chown(f"{root}/folder", 1000, 50)
    os.chown(f"{root}/link", 7, 8, follow_symlinks=False)
    subprocess.run(["setfacl", "-m", "u:1000:rwx,d:g:50:rx", f"{root}/folder"], check=True)
    shutil.copy("/bin/cat", f"{root}/cat")
    os.chmod(f"{root}/cat", 0o755)
    subprocess.run(["setcap", "cap_dac_read_search+ep", f"{root}/cat"], check=True)


@pytest.fixture(params=["xfs", "btrfs", "ext4"])
def plain(request: pytest.FixtureRequest, place_on: Callable[[str], Path]) -> Driver:
    """A driver without a map whose layer ``source`` is as the container has it."""
    driver = Driver(place_on(request.param) / "plain")
    driver.create("source")
    fill_as_many(driver.path("source"))
    return driver


def test_what_is_applied_with_a_map_is_packed_as_it_was(plain: Driver) -> None:
    mapped = Driver(f"{plain.home}-mapped", id_map=MAP)
    mapped.create("layer")
    with plain.diff("source") as stream:
        mapped.apply("layer", stream)
    assert owner(mapped.path("layer") + "/folder") == (101_000, 300_050)
    assert owner(mapped.path("layer") + "/link") == (100_007, 300_008)
    plain.create("again")
    with mapped.diff("layer") as stream:
        plain.apply("again", stream)
    one, other = Path(plain.path("source")), Path(plain.path("again"))
    assert_same(facts(one, atime=False), facts(other, atime=False))
    mapped.create("clone", "layer")
    assert list(mapped.changes("clone", "layer")) == []
    os.chown(mapped.path("clone") + "/fifo", 100_003, 300_004)
    with mapped.diff("clone", "layer") as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        assert [(m.name, m.uid, m.gid) for m in tar if m.isfifo()] == [("fifo", 3, 4)]


def test_capabilities_work_in_the_containers_namespace(plain: Driver) -> None:
    require("unshare", "setpriv")
    mapped = Driver(f"{plain.home}-mapped", id_map=MAP)
    mapped.create("layer")
    with plain.diff("source") as stream:
        mapped.apply("layer", stream)
    root = Path(mapped.path("layer"))
    secret = root / "secret"
    secret.write_bytes(b"told")
    os.chown(secret, *MAP.root)
    secret.chmod(0o600)
    for folder in (root, *root.parents):
        folder.chmod(folder.stat().st_mode | 0o011)
    assert _read_as(1000, f"{root}/cat", secret) == (b"told", b"")
    assert _read_as(1000, "/bin/cat", secret)[0] == b""


_IN_NAMESPACE = 'echo; read -r mapped; exec "$@"'  # who says this waits for its ids


def _read_as(user: int, program: str, file: Path) -> tuple[bytes, bytes]:
    """What ``program`` writes as that user of the container when it is to read ``file``."""
    nothing = ["--inh-caps=-all", "--ambient-caps=-all", "--clear-groups"]
    become = ["setpriv", f"--reuid={user}", f"--regid={user}", *nothing]
    command = ["unshare", "--user", "--keep-caps", "sh", "-c", _IN_NAMESPACE, "sh"]
    with subprocess.Popen(
        [*command, *become, program, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        Path(f"/proc/{process.pid}/uid_map").write_text("0 100000 65536")
        Path(f"/proc/{process.pid}/gid_map").write_text("0 300000 65536")
        return process.communicate(b"\n")


def test_empty_layers_and_folders_without_an_entry_are_the_containers_roots(place: Path) -> None:
    driver = Driver(place / "home", id_map=MAP)
    driver.create("layer")
    assert owner(driver.path("layer")) == MAP.root
    driver.apply("layer", archive("implied/folder/file", 5, 6))
    root = driver.path("layer")
    assert owner(f"{root}/implied") == owner(f"{root}/implied/folder") == MAP.root
    assert owner(f"{root}/implied/folder/file") == (100_005, 300_006)


def test_a_difference_has_the_hosts_ids_and_is_packed_with_the_containers(place: Path) -> None:
    driver = Driver(place / "home", id_map=MAP, method=kept(place.parent.name))
    driver.create("base")
    driver.create_difference("layer", "base")
    blob = archive("implied/file", 5, 6)
    driver.apply("layer", blob)
    assert driver.lower("layer") == "base"
    own = driver.folder("layer")
    assert owner(own) == owner(f"{own}/implied") == MAP.root
    assert owner(f"{own}/implied/file") == (100_005, 300_006)
    with driver.diff("layer", "base") as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        assert [(m.name, m.uid, m.gid) for m in tar] == [("implied/file", 5, 6)]


def test_the_group_of_the_containers_root_may_pass_through_to_the_layers(place: Path) -> None:
    home = place / "home"
    Driver(home)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    Driver(home, id_map=MAP)  # one that was there without a map, too
    for folder in (home, home / "dir"):
        assert (stat.S_IMODE(folder.stat().st_mode), folder.stat().st_gid) == (0o710, 300_000)
    for name in ("tmp", "trash"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o700


def test_an_id_without_one_on_the_host_is_an_error_that_names_the_entry(place: Path) -> None:
    driver = Driver(place / "home", id_map=MAP)
    driver.create("layer")
    with pytest.raises(ArchiveError, match="file: Container ID 70000 cannot be mapped"):
        driver.apply("layer", archive("file", 70_000))
    assert driver.list() == leftovers(driver) == []


def test_the_owner_of_a_whiteout_does_not_matter(place: Path) -> None:
    driver = Driver(place / "home", id_map=MAP)
    driver.create("layer")
    driver.apply("layer", archive("file"))
    driver.apply("layer", archive(".wh.file", 70_000))
    assert os.listdir(driver.path("layer")) == []


def test_an_id_without_one_in_the_container_is_an_error_that_names_the_file(place: Path) -> None:
    require_root()
    driver = Driver(place / "home", id_map=MAP)
    driver.create("layer")
    Path(driver.path("layer"), "of the host").touch()
    with (
        driver.diff("layer") as stream,
        pytest.raises(ArchiveError, match="of the host: Host ID 0 cannot be mapped"),
    ):
        stream.read()
