"""An ordinary user with ranges of ids keeps the owners of images, in a user namespace."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import signal
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.archive.tars import entry, folder, tar
from tests.cli.processes import PROGRAM, unprivileged
from tests.file_systems import require_root
from tests.registry.registries import running
from tests.store.stores import BASE, assert_clean, image
from tests.store.users import BECOME, COUNT, FIRST, PATHS, USER, User

CAPABILITY = {"SCHILY.xattr.security.capability": "\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0"}
OWNERS = tar(
    folder("./"),
    folder("srv", mode=0o2775, uid=33, gid=33),
    *(entry(f"srv/{id}", b"%d" % id, uid=id, gid=id + 1) for id in range(0, 5000, 500)),
    entry("srv/shut", b"none", mode=0, uid=7, gid=7),
    entry("srv/nobody", b"nobody", uid=65534, gid=65534),
    entry("srv/linked", kind="link", target="srv/500", uid=500, gid=501),
    entry("srv/link", kind="symlink", target="500", uid=500, gid=501, mode=0o777),
    entry("srv/again", kind="link", target="srv/link", uid=500, gid=501, mode=0o777),
    entry("srv/fifo", kind="fifo", uid=8, gid=9),
    folder("opt", uid=33),
    entry("opt/link", kind="symlink", target="gone", uid=34, gid=35, mode=0o777),
    folder("bin"),
    entry("bin/su", b"#!", mode=0o4755),
    entry("bin/wall", b"#!", mode=0o2755, gid=5),
    entry("bin/ping", b"#!", mode=0o755, pax=CAPABILITY),
    entry("bin/old", b"old", uid=3, gid=4),
    folder("dev"),
    entry("dev/null", kind="char", device=(1, 3), mode=0o666),
    entry("dev/tty", kind="char", device=(5, 0), mode=0o620, gid=5),
    entry("dev/again", kind="link", target="dev/tty", mode=0o620, gid=5),
    entry("dev/sda", kind="block", device=(8, 0), mode=0o660, uid=1, gid=6),
    entry("dev/gone", kind="block", device=(8, 1), mode=0o660, gid=6),
)
ABOVE = tar(
    entry("dev/.wh.gone"),
    entry("dev/null", b"a file now", mode=0o600, uid=9),
    entry("dev/zero", kind="char", device=(1, 5), mode=0o666),
    folder("srv", mode=0o2775, uid=34, gid=34),
    entry("srv/0", kind="char", device=(1, 7), mode=0o666),
)
CHANGE = """
echo new > bin/new; rm bin/old; echo more >> srv/1000; chmod 4750 srv/1500; mv dev/sda dev/sdb
mv opt var; chmod 755 srv/shut; chmod g-s bin/wall; ln srv/2500 bin/again; rm dev/zero
touch -d @1100000000 bin/new srv/1000 bin/again; touch -d @1200000000 srv bin dev .
"""
CHOWN = "chown 42:43 bin/new; chown 600:601 srv/2000; chown -h 5:6 srv/link; chown 8 dev/tty;"


@pytest.fixture
def user(base: Path) -> User:
    """Who has ranges."""
    return User(base, ranges=True)


def _root(base: Path, *arguments: str) -> str:
    command = [*PROGRAM, "--root", str(base / "roots"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def layers_of(layout: Path) -> list[bytes]:
    """The plain layers of the only image of a layout."""

    def read(descriptor: dict[str, str]) -> bytes:
        return (layout / "blobs" / descriptor["digest"].replace(":", "/")).read_bytes()

    index = json.loads((layout / "index.json").read_bytes())
    return [gzip.decompress(read(one)) for one in json.loads(read(index["manifests"][0]))["layers"]]


def made_by(user: User, change: Callable[[str], object]) -> tuple[list[bytes], bytes, str]:
    """What ``made`` tells of the user's."""
    folder = user.home / "made"
    folder.mkdir()
    os.chown(folder, USER, USER)
    return made(folder, change, user.do)


def made_by_root(base: Path, change: str) -> tuple[list[bytes], bytes, str]:
    """What ``made`` tells of root's, who changes a container by a shell's command."""
    folder = base / "made"
    folder.mkdir()
    command = ["sh", "-ec", change]
    return made(
        folder,
        lambda path: subprocess.run(command, cwd=path, check=True),
        lambda *words: _root(base, *words),
    )


def entries_of(plain: bytes) -> dict[str, tuple[object, ...]]:
    """What a tar tells of each entry."""
    found: dict[str, tuple[object, ...]] = {}
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar_file:
        for one in tar_file:
            numbers = (one.uid, one.gid, one.devmajor, one.devminor)
            facts = (one.type, one.mode, one.size, one.mtime, one.linkname, one.pax_headers)
            found[one.name] = (*numbers, *facts)
    return found


def made(
    base: Path, change: Callable[[str], object], do: Callable[..., str]
) -> tuple[list[bytes], bytes, str]:
    """The layers of an image that is changed, its container as a tar, and what ``diff`` tells."""
    with running(base / "registry") as registry:
        there = image(base / "image", OWNERS, ABOVE)
        do("pull", there)
        do("push", there, f"{registry.host}/owners")
        do("rmi", there)
        path = do("create", "--name", "one", f"{registry.host}/owners")
        change(path)
        do("commit", "one", "made")
        do("push", "made", f"{registry.host}/made")
        do("rmi", "made")
        do("pull", f"{registry.host}/made")
        do("save", f"{registry.host}/made", f"oci:{base}/out:made")
    do("export", "one", "-o", f"{base}/out/tree")
    return layers_of(base / "out"), (base / "out/tree").read_bytes(), do("diff", "one")


def test_layers_and_trees_are_those_that_root_makes(base: Path, user: User) -> None:
    change = CHANGE + CHOWN
    ours = made_by(user, lambda path: user.do("unshare", "sh", "-ec", f"cd {path}; {change}"))
    roots = made_by_root(base, change)
    assert [*map(entries_of, ours[0])] == [*map(entries_of, roots[0])]
    assert entries_of(ours[1]) == entries_of(roots[1])
    assert ours == roots  # byte for byte
    user.do("rm", "--wait", "one")
    assert_clean(user.store)


def test_without_ranges_owners_and_devices_are_recorded(base: Path) -> None:
    user = User(base, ranges=False)

    def change(path: str) -> None:
        assert {one.lstat().st_uid for one in Path(path).rglob("*")} == {USER}
        command = [*BECOME.split(), "sh", "-ec", CHANGE]
        subprocess.run(command, cwd=path, check=True)

    layers, tree, told = made_by(user, change)
    roots_layers, roots_tree, roots_told = made_by_root(base, CHANGE)
    assert [*map(entries_of, layers)] == [*map(entries_of, roots_layers)]
    assert (layers, told) == (roots_layers, roots_told)
    assert entries_of(tree) == entries_of(roots_tree)
    assert tree == roots_tree
    user.do("rm", "--wait", "one")
    assert_clean(user.store)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_folder_with_records_is_packed_as_what_it_was(base: Path, ranges: bool) -> None:
    user = User(base, ranges=ranges)
    path = user.do("create", image(base / "image", OWNERS, ABOVE))
    user.do("create", f"rootfs:{path}")
    user.do("save", f"rootfs:{path}", f"oci:{user.home}/out:made")
    roots = _root(base, "create", image(base / "of-root", OWNERS, ABOVE))
    _root(base, "create", f"rootfs:{roots}")
    _root(base, "save", f"rootfs:{roots}", f"oci:{base}/out:made")
    (layer,), (wanted,) = layers_of(user.home / "out"), layers_of(base / "out")
    assert entries_of(layer) == entries_of(wanted)


@pytest.mark.parametrize("ranges", [True, False])
def test_to_insist_on_all_is_an_error_of_one_line(base: Path, ranges: bool) -> None:
    user = User(base, ranges=ranges)
    done = user.run("create", "--ownership", "keep", image(base / "image", OWNERS))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    refused = "mknod" if ranges else "chown"
    assert f"{refused}: Operation not permitted: only root may set it; --ownership" in done.stderr


def test_records_are_those_of_umoci(base: Path) -> None:
    user = User(base, ranges=False)
    path = Path(user.do("create", image(base / "image", OWNERS)))
    assert os.getxattr(path / "srv/500", "user.rootlesscontainers") == b"\x08\xf4\x03\x10\xf5\x03"
    assert os.getxattr(path / "bin/wall", "user.rootlesscontainers") == b"\x10\x05"
    assert os.listxattr(path / "bin/su") == []
    record = os.getxattr(path / "dev/sda", "user.containers.override_stat")
    assert record == b"1:6:0660:block-8-0"


def test_owners_are_those_of_the_ranges(base: Path, user: User) -> None:
    path = Path(user.do("create", image(base / "image", OWNERS)))
    owners = {name: (path / "srv" / name).lstat() for name in ("0", "500", "nobody", "link")}
    assert {name: (one.st_uid, one.st_gid) for name, one in owners.items()} == {
        "0": (USER, FIRST),
        "500": (FIRST + 499, FIRST + 500),
        "nobody": (FIRST + 65533, FIRST + 65533),
        "link": (FIRST + 499, FIRST + 500),
    }
    assert user.do("unshare", "stat", "-c", "%u:%g %a", f"{path}/srv") == "33:33 2775"


def test_a_command_there_has_status_input_and_signals_of_its_own(user: User) -> None:
    assert user.run("unshare", "sh", "-c", "exit 7").returncode == 7
    assert user.run("unshare", "no/such").returncode == 127
    assert user.run("unshare", "--", "id", "-u").stdout == "0\n"
    done = subprocess.run(user.start("unshare", "cat"), input=b"in", capture_output=True)
    assert done.stdout == b"in"
    process = subprocess.Popen(
        user.start("unshare", "sh", "-c", "echo; exec sleep 60"), stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.read(1) == b"\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == -signal.SIGTERM


def test_what_touches_no_owner_makes_no_namespace(user: User) -> None:
    programs = user.home / "programs"
    programs.mkdir()
    for name in ("newuidmap", "newgidmap"):
        (programs / name).write_text(f"#!/bin/sh\n: > {user.home}/called\nexit 1\n")
        (programs / name).chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    for words in (["--version"], ["--help"], ["create", "--help"], ["frobnicate"]):
        user.run(*words, PATH=path)
    assert not (user.home / "called").exists()
    os.chown(user.home, USER, USER)
    user.run("ps", PATH=path)
    assert (user.home / "called").exists()


def test_the_store_is_not_used_from_outside(base: Path, user: User) -> None:
    path = user.do("create", "--name", "one", image(base / "image", OWNERS))
    (base / "ranges").write_text("")
    done = user.run("rm", "one")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "a user namespace, which this process is not in: /etc/subuid has no line" in done.stderr
    as_root = subprocess.run(
        [*PROGRAM, "--root", str(user.store), "rm", "one"], capture_output=True, text=True
    )
    assert "which this process is not in" in as_root.stderr
    assert Path(path).is_dir()
    (base / "ranges").write_text(f"{USER}:{FIRST}:{COUNT}\n")
    user.do("rm", "one")


def test_who_gets_more_ids_keeps_his_store(base: Path, user: User) -> None:
    ranges = base / "ranges"
    ranges.write_text(f"{USER}:{FIRST}:1000\n")
    made = image(base / "image", BASE)
    user.do("create", "--name", "one", made)
    ranges.write_text(f"{USER}:{FIRST}:1000\n{USER}:{FIRST + COUNT}:100\n")
    user.do("create", "--name", "two", made)
    ranges.write_text(f"{USER}:{FIRST}:1000\n")
    done = user.run("rm", "two")  # where 1001 is nobody
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"not in: user {USER}'s commands are, and programs started by reflayer" in done.stderr
    ranges.write_text(f"{USER}:{FIRST + 1}:65536\n")
    assert "which this process is not in" in user.run("rm", "two").stderr


def test_somebody_elses_folder_is_copied_outside(base: Path, user: User) -> None:
    """In a namespace all of it would be nobody's."""
    tree = base / "tree"
    tree.mkdir(mode=0o755)
    os.chown(tree, USER, USER)
    (tree / "file").write_text("root's")
    done = user.run("copy", str(tree), str(user.home / "copy"))
    assert "chown: Operation not permitted" in done.stderr
    user.do("copy", "--ownership", "ignore", str(tree), str(user.home / "copy"))
    assert (user.home / "copy/file").stat().st_uid == USER
    for command, status in (("create", 1), ("pull", 1), ("run", 125)):
        done = user.run(command, f"rootfs:{tree}")
        assert f"{tree}/file belongs to user or group 0, who is not in the namespace" in done.stderr
        assert (done.returncode, done.stderr.count("\n")) == (status, 1)
    user.do("create", f"rootfs:{user.home}/copy")


def test_a_namespace_that_is_there_is_used(base: Path, user: User) -> None:
    inside = user.do("unshare", *user.program, "create", image(base / "image", OWNERS))
    assert Path(inside).is_relative_to(user.store)
    assert Path(inside, "srv/500").stat().st_uid == FIRST + 499
    assert len(user.do("ps").splitlines()) == 2


def test_doctor_tells_which_owners_there_can_be(base: Path, user: User) -> None:
    there = ["doctor", "--json", str(user.home)]
    findings = json.loads(user.do(*there))
    assert findings["owners"] == f"{COUNT + 1:,} users, in a user namespace"
    assert findings["metadata"]["owners"] == ""
    findings = json.loads(user.run(*there, PATH="/nowhere").stdout)
    assert "newgidmap is missing: install the package uidmap" in findings["advice"][-1]
    (base / "ranges").write_text("")
    findings = json.loads(user.do(*there))
    assert findings["owners"] == "one user's"
    assert re.search(r"/etc/subuid has no line .* usermod --add-subuids", findings["advice"][-1])


def test_what_root_without_capabilities_may_not_set_is_recorded(base: Path) -> None:
    require_root()
    made = image(base / "image", OWNERS)
    done = unprivileged("--root", str(base / "root"), "create", made)
    assert (done.returncode, done.stderr) == (0, "")
    record = os.getxattr(f"{done.stdout.strip()}/srv/500", "user.rootlesscontainers")
    assert record == b"\x08\xf4\x03\x10\xf5\x03"


def test_in_a_namespace_with_one_id_all_others_are_recorded(base: Path) -> None:
    user = User(base, ranges=False)
    inside = ["unshare", "--map-root-user", "env", f"HOME={user.home}"]
    program = [*inside, f"PYTHONPATH={':'.join(PATHS)}", *user.program]

    def do(*arguments: str) -> str:
        done = subprocess.run(
            [*BECOME.split(), *program, *arguments], capture_output=True, text=True, cwd="/"
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    folder = user.home / "made"
    folder.mkdir()
    os.chown(folder, USER, USER)
    command = [*BECOME.split(), "sh", "-ec", CHANGE]
    ours = made(folder, lambda path: subprocess.run(command, cwd=path, check=True), do)
    roots = made_by_root(base, CHANGE)
    assert [*map(entries_of, ours[0])] == [*map(entries_of, roots[0])]
    assert entries_of(ours[1]) == entries_of(roots[1])
    assert ours == roots
