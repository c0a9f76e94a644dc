"""The commands of the store as a script uses them: whole processes, and what they print."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer import Store
from reflayer.images.model.platform import Platform
from tests.archive.tars import NOBODY
from tests.cli.processes import PROGRAM, unprivileged
from tests.file_systems import require, require_root
from tests.images.layouts import Layout, on
from tests.store.stores import BASE, MORE, assert_clean, image, reflayer
from tests.trees import assert_same, facts


def _line(root: Path, *arguments: str) -> str:
    """What the program prints, which is one line, and nothing else."""
    done = reflayer(root, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    return done.stdout.rstrip("\n")


def _failure(root: Path, *arguments: str, status: int = 1) -> str:
    """What the program complains of, which is one line, and nothing else."""
    done = reflayer(root, *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("reflayer: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_errors_have_a_code_for_scripts(base: Path, root: Path) -> None:
    def code(*arguments: str, status: int = 1) -> dict[str, object]:
        done = reflayer(root, *arguments, "--json")
        assert (done.returncode, done.stdout) == (status, "")
        told: dict[str, object] = json.loads(done.stderr)["error"]
        assert str(told.pop("message"))
        return told

    made = image(base / "image", BASE)
    _line(root, "create", "--name", "web", made)
    assert code("create", "--name", "web", made) == {"code": "exists"}
    assert code("create", "--pull", "never", "webb") == {"code": "not-found"}
    assert code("create", f"{made}x") == {"code": "image"}
    assert code("create", "localhost:1/web") == {"code": "registry"}
    missing = str(base / "missing")
    assert code("doctor", missing, status=2) == {"code": "usage"}
    assert code("path", "web", status=2) == {"code": "usage"}  # there is nothing to list
    assert reflayer(root, "exec", "webb", "ls", "--json").stderr.startswith("reflayer: webb: ")
    told = code("create", f"rootfs:{missing}")
    assert told == {"code": "copy", "path": missing, "errno": "ENOENT"}


def test_the_environment_asks_any_command_for_codes(
    base: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFLAYER_ERRORS", "json")
    made = image(base / "image", BASE)
    _line(root, "create", "--name", "web", made)

    def codes(*arguments: str, status: int = 1) -> list[object]:
        done = reflayer(root, *arguments)
        assert done.returncode == status
        return [json.loads(line)["error"]["code"] for line in done.stderr.splitlines()]

    assert codes("path", "webb") == ["not-found"]
    assert codes("rm", "webb", "web", "wob") == ["not-found"] * 2
    assert codes("rollback", "web", "1") == ["not-found"]
    assert codes("tag", made, "A") == ["image"]
    assert codes("crate", status=2) == ["usage"]
    assert codes("exec", "webb", "ls", status=125) == ["not-found"]
    assert codes("copy", "/no/such", str(base / "new")) == ["copy"]
    if os.geteuid() == 0:  # another user may have no namespace to begin with
        assert codes("unshare", "/no/such", status=127) == ["sandbox"]
    alone = subprocess.run([*PROGRAM], capture_output=True, text=True)
    assert (json.loads(alone.stderr)["error"]["code"], alone.returncode) == ("usage", 2)


def test_create_prints_the_path_alone(base: Path, root: Path) -> None:
    path = _line(root, "create", "--name", "web", image(base / "image", BASE))
    assert (Path(path) / "bin/sh").exists()
    assert _line(root, "path", "web") == path
    assert_clean(root)


def test_a_size_without_quotas_is_told_with_the_way_on(base: Path, root: Path) -> None:
    image(base / "image", BASE)
    told = _failure(root, "create", "--size", "10G", f"oci:{base}/image:latest")
    assert f"{root}/layers" in told
    assert "XFS or ext4 mounted with prjquota" in told
    done = reflayer(root, "create", "--size", "much", f"oci:{base}/image:latest")
    assert done.returncode == 2
    assert "'much'" in done.stderr
    assert reflayer(root, "ps", "--quiet").stdout == ""


def test_create_prints_all_of_the_container_as_json(base: Path, root: Path) -> None:
    made = image(base / "image", BASE)
    told = json.loads(_line(root, "create", "--json", made))
    assert told["image"] == made
    assert told["path"] == _line(root, "path", told["name"])
    assert told["image_id"].startswith("sha256:")
    assert told["created"].endswith("Z")


@pytest.mark.parametrize("command", [["create"], ["path"], ["rm"], ["rmi"]])
def test_a_name_that_is_not_utf_8_is_refused_in_one_line(
    base: Path, root: Path, command: list[str]
) -> None:
    _line(root, "create", image(base / "image", BASE))
    (base / "r\udcff").mkdir()
    complaint = _failure(root, *command, f"rootfs:{base}/r\udcff")
    assert complaint == (
        f"reflayer: rootfs:{base}/r\\udcff: it is not UTF-8, as every name in a store has to be\n"
    )
    assert_clean(root)


@pytest.mark.parametrize("command", [["ps"], ["--version"], ["rm", "--help"]])
def test_output_that_nobody_can_get_is_an_error(root: Path, command: list[str]) -> None:
    shut = ["sh", "-c", '"$@" >&-', "sh", *PROGRAM, "--root", str(root), *command]
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    done = subprocess.run(shut, stderr=subprocess.PIPE, text=True, check=False, env=buffered)
    assert (done.returncode, done.stderr) == (
        1,
        "reflayer: standard output: Bad file descriptor\n",
    )


def test_a_complaint_goes_nowhere_else_where_standard_error_is_shut(root: Path) -> None:
    shut = ["sh", "-c", '"$@" <&- 2>&-', "sh", *PROGRAM, "--root", str(root), "path", "web"]
    done = subprocess.run(shut, stdout=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")


def test_a_copy_by_several_processes_needs_no_standard_streams(base: Path) -> None:
    for number in range(2000):
        (base / f"src/{number // 50}").mkdir(parents=True, exist_ok=True)
        (base / f"src/{number // 50}/{number}").touch()
    copy = [*PROGRAM, "copy", "--workers", "3", str(base / "src"), str(base / "dst")]
    done = subprocess.run(["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *copy], check=False)
    assert done.returncode == 0
    assert_same(facts(base / "src"), facts(base / "dst"))


def test_ps_lists_the_newest_first(base: Path, root: Path) -> None:
    made = image(base / "image", BASE)
    paths = [_line(root, "create", "--name", name, made) for name in ("one", "two")]
    listed = reflayer(root, "ps").stdout.splitlines()
    assert listed[0].split("  ")[0] == "CONTAINER ID"
    assert [line.split()[1] for line in listed[1:]] == ["two", "one"]
    assert [line.split()[-1] for line in listed[1:]] == paths[::-1]
    assert " ago  " in listed[1]
    ids = reflayer(root, "ps", "-q").stdout.split()
    assert [_line(root, "path", one) for one in ids] == paths[::-1]
    assert [one["name"] for one in json.loads(_line(root, "ps", "--json"))] == ["two", "one"]


def test_images_lists_each_name(base: Path, root: Path) -> None:
    layout = Layout(base / "image")
    both = layout.image(BASE, created="2001-02-03T04:05:06.789123456Z")
    layout.index(one=both, two=both)
    for tag in ("one", "two"):
        _line(root, "create", f"oci:{layout.folder}:{tag}")
    heads, *lines = reflayer(root, "images").stdout.splitlines()
    assert heads.split("  ")[0] == "NAME"
    assert [line.split()[0] for line in lines] == [
        f"oci:{layout.folder}:{tag}" for tag in ("one", "two")
    ]
    assert "linux/amd64" in lines[0]
    assert "years ago" in lines[0]
    assert lines[0].split()[-1] == f"{len(BASE) / 1000:.3g}kB"
    (told,) = json.loads(_line(root, "images", "--json"))
    assert told["size"] == len(BASE)
    assert told["created"] == "2001-02-03T04:05:06.789123456Z"
    assert reflayer(root, "images", "-q").stdout.split() == [told["id"][7:19]]


def test_an_image_whose_name_has_moved_is_listed_without_one(base: Path, root: Path) -> None:
    layout = Layout(base / "image")
    for layers in ((BASE,), (BASE, MORE)):
        layout.index(latest=layout.image(*layers))
        _line(root, "create", f"oci:{layout.folder}:latest")
    assert reflayer(root, "images").stdout.splitlines()[-1].split()[0] == "<none>"


def test_nothing_is_listed_of_a_store_that_is_not_there_and_nothing_made(root: Path) -> None:
    assert reflayer(root, "ps", "-q").stdout == ""
    assert reflayer(root, "images", "-q").stdout == ""
    assert _line(root, "ps", "--json") == "[]"
    assert _line(root, "ps").startswith("CONTAINER ID")
    assert not root.exists()


def test_rm_goes_on_after_one_that_is_not_there(base: Path, root: Path) -> None:
    made = image(base / "image", BASE)
    for name in ("one", "two"):
        _line(root, "create", "--name", name, made)
    done = reflayer(root, "rm", "one", "nobody", "two")
    assert done.returncode == 1
    assert done.stdout == "one\ntwo\n"
    assert done.stderr == "reflayer: nobody: no such container: reflayer ps lists them\n"
    assert_clean(root)


def test_rm_that_waits_has_deleted_when_it_ends(base: Path, root: Path) -> None:
    _line(root, "create", "--name", "one", image(base / "image", BASE))
    assert _line(root, "rm", "--wait", "one") == "one"
    assert os.listdir(root / "layers/trash") == []


def test_rmi_says_what_it_did(base: Path, root: Path) -> None:
    layout = Layout(base / "image")
    both = layout.image(BASE)
    layout.index(one=both, two=both)
    names = [f"oci:{layout.folder}:{tag}" for tag in ("one", "two")]
    for name, tag in zip(names, ("one", "two"), strict=True):
        _line(root, "create", "--name", tag, name)
    assert _line(root, "rmi", names[0]) == f"Untagged: {names[0]}"
    assert "is in use: remove its containers first: one, two" in _failure(root, "rmi", names[1])
    assert reflayer(root, "rm", "one", "two").returncode == 0
    assert _line(root, "rmi", names[1]).startswith("Deleted: sha256:")
    assert_clean(root)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("create", "--pull", "never", "alpine"), "no such image"),
        (("create", "--pull", "always", "0" * 64), "an id cannot be pulled"),
        (("create", "tar:/nowhere"), "/nowhere"),
        (("create", "rootfs:/nowhere"), "/nowhere"),
        (("create", "oci:/nowhere"), "/nowhere"),
        (("create", "docker-archive:/nowhere"), "/nowhere"),
        (("create", "--platform", "a/b/c/d", "tar:/nowhere"), "platform"),
        (("create", "--name", "no/name", "tar:/nowhere"), "is no name for a container"),
        (("path", "nobody"), "no such container"),
        (("rm", "nobody"), "no such container"),
        (("rmi", "nothing"), "no such image"),
        (("rmi", "No Name"), "No Name"),
    ],
)
def test_a_failure_is_one_line(root: Path, arguments: tuple[str, ...], complaint: str) -> None:
    assert complaint in _failure(root, *arguments)


def test_a_path_is_printed_as_the_bytes_that_it_is(base: Path) -> None:
    root = os.fsencode(base) + b"/st\xff\nre"
    made = image(base / "image", BASE)
    done = subprocess.run(
        [*PROGRAM, "--root", root, "create", made], capture_output=True, check=True
    )
    assert done.stdout.startswith(root + b"/layers/dir/")
    listed = subprocess.run([*PROGRAM, "--root", root, "ps"], capture_output=True, check=True)
    assert rb"/st\udcff\nre/layers/dir/" in listed.stdout


def test_the_root_may_come_from_the_environment(base: Path, root: Path) -> None:
    made = image(base / "image", BASE)
    done = subprocess.run(
        [*PROGRAM, "create", made],
        env={**os.environ, "REFLAYER_ROOT": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"{root}/")


def test_who_has_read_enough_is_no_traceback(base: Path, root: Path) -> None:
    made = image(base / "image", BASE)
    _line(root, "create", made)
    command = " ".join([*PROGRAM, "--root", str(root), "ps"])
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; ({command}; echo status $? >&2) | true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr in ("status 0\n", "status 1\n")


def _unprivileged(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return unprivileged("--root", str(root), *arguments)


def test_without_root_owners_are_kept_or_the_line_says_how_to_leave_them_out(
    base: Path, root: Path
) -> None:
    require_root()  # the image has files of somebody else
    made = image(base / "image", BASE)
    done = _unprivileged(root, "create", "--ownership", "keep", made)
    assert done.returncode == 1
    assert "Operation not permitted: only root may set it; --ownership record" in done.stderr
    assert done.stderr.count("\n") == 1
    ignore = ("create", "--ownership", "ignore", "--name", "xx", made)
    done = _unprivileged(root, *ignore)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.stat(f"{done.stdout.strip()}/etc/passwd").st_uid == 0
    done = _unprivileged(root, "create", "--ownership", "keep", made)
    assert done.returncode == 1
    assert "without what could not be made (1 owner)" in done.stderr
    done = _unprivileged(root, "create", "--name", "yy", made)  # the store remembers it
    assert (done.returncode, done.stderr) == (0, "")
    assert _unprivileged(root, "rm", "--wait", "xx", "yy").stdout == "xx\nyy\n"
    assert_clean(root)


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_that_no_blocks_are_shared_is_told_with_the_first_image(
    place_on: Callable[[str], Path], kind: str
) -> None:
    place = place_on(kind)
    made = image(place / "image", BASE)

    def told(root: str, *arguments: str) -> str:
        command = [*PROGRAM, "--root", str(place / root), *arguments, made]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr

    words = (
        f"reflayer: ext4 shares no blocks: each container takes all of its image's size; reflayer "
        f"doctor {place}/one tells what would do better\n"
    )
    assert told("one", "create") == (words if kind == "ext4" else "")
    assert told("one", "create") == ""
    assert told("two", "--quiet", "create") == told("two", "create") == ""


def test_create_tells_what_it_left_out_of_a_folder(base: Path, root: Path) -> None:
    require_root()  # the folder has files of somebody else
    (base / "rootfs").mkdir()
    (base / "rootfs/theirs").touch()
    os.chown(base / "rootfs/theirs", 7, 9)
    time.sleep(2)  # of what was changed just now nothing tells whether it changed again
    create = ("create", "--ownership", "ignore", f"rootfs:{base}/rootfs")
    done = _unprivileged(root, *create)
    assert (done.returncode, done.stderr) == (0, "reflayer: left out: 1 owner\n")
    assert done.stdout.count("\n") == 1
    assert _unprivileged(root, *create).stderr == ""  # nothing is taken in
    assert_clean(root)


@pytest.mark.parametrize("listed", [False, True], ids=["a manifest", "an index"])
@pytest.mark.parametrize("command", ["create", "pull"])
def test_an_image_whose_config_is_for_another_platform_is_told_of(
    base: Path, root: Path, command: str, listed: bool
) -> None:
    here = str(Platform.of_machine())
    layout = Layout(base / "image")
    made = layout.image(BASE, architecture="riscv64")
    layout.index(latest=layout.list(on(made, here)) if listed else made)
    name = f"oci:{layout.folder}:latest"
    done = reflayer(root, command, name)
    assert done.returncode == 0
    assert done.stderr == f"reflayer: {name}: is for linux/riscv64, not for {here}\n"
    if not listed:
        assert reflayer(root, command, "--platform", "linux/riscv64", name).stderr == ""
    assert_clean(root)


@pytest.mark.parametrize(
    "arguments", [("ps",), ("images",), ("create", "tar:/nowhere"), ("path", "x"), ("rm", "x")]
)
def test_a_store_of_somebody_else_is_one_line(root: Path, arguments: tuple[str, ...]) -> None:
    require_root()
    root.mkdir(mode=0o700)
    os.chown(root, NOBODY, NOBODY)
    done = _unprivileged(root, *arguments)
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_result_that_cannot_be_written_leaves_no_container(root: Path, base: Path) -> None:
    made = image(base / "image", BASE)
    with open("/dev/full", "w") as full:
        command = [*PROGRAM, "--root", str(root), "--quiet", "create", made]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "reflayer: standard output: No space left on device: the container is removed again\n"
    )
    assert Store(root).containers() == []
    assert_clean(root)


def test_what_a_killed_remover_left_is_told_and_deleted_by_the_next_command(
    root: Path, base: Path
) -> None:
    require_root()
    require("chattr")
    made = image(base / "image", BASE)
    path = Path(reflayer(root, "create", "--name", "web", made).stdout.rstrip("\n"))
    (path / "large").write_bytes(bytes(3_000_000))
    subprocess.run(["chattr", "+i", path / "large"], check=True)
    assert reflayer(root, "rm", "web").stdout == "web\n"
    assert "MB more was removed: reflayer prune deletes it" in reflayer(root, "df").stdout
    done = reflayer(root, "prune")
    assert done.returncode == 1
    assert "/large: remove: it or its folder is immutable" in done.stderr
    (left,) = (root / "layers/trash").iterdir()
    subprocess.run(["chattr", "-i", left / "large"], check=True)
    assert reflayer(root, "ps").stderr == ""
    assert_clean(root)
    assert "more was removed" not in reflayer(root, "df").stdout


def test_prune_removes_the_images_that_have_no_container(root: Path, base: Path) -> None:
    used, unused = image(base / "used", BASE), image(base / "unused", BASE, MORE)
    reflayer(root, "create", "--name", "web", used)
    reflayer(root, "create", "--name", "gone", unused)
    reflayer(root, "rm", "gone")
    assert reflayer(root, "prune").stdout.startswith("Total reclaimed space: ")
    assert len(Store(root).images()) == 2
    (gone,) = (one for one in Store(root).images() if one.names == (unused,))
    lines = reflayer(root, "prune", "--all").stdout.splitlines()
    assert lines[:2] == [f"Untagged: {unused}", f"Deleted: {gone.id}"]
    assert [one.names for one in Store(root).images()] == [(used,)]
    assert_clean(root)


def test_rmi_by_force_takes_the_name_of_an_image_that_is_in_use(root: Path, base: Path) -> None:
    made = image(base / "image", BASE)
    reflayer(root, "create", "--name", "web", made)
    assert "is in use" in reflayer(root, "rmi", made).stderr
    assert reflayer(root, "rmi", "--force", made).stdout == f"Untagged: {made}\n"
    assert [one.names for one in Store(root).images()] == [()]
    reflayer(root, "rm", "web")
    assert Store(root).images() == []
    assert_clean(root)


def test_inspect_takes_a_command_of_one_word_alone(root: Path, base: Path) -> None:
    layout = Layout(base / "image")
    layout.index(x=layout.image(BASE, config={"Entrypoint": "/bin/sh", "Cmd": "-l"}))
    reflayer(root, "create", "--name", "web", f"oci:{layout.folder}:x")
    (told,) = json.loads(reflayer(root, "inspect", "web").stdout)
    assert (told["Path"], told["Args"]) == ("/bin/sh", ["-l"])


@pytest.mark.parametrize("change", ["content", "mode", "new", "gone"])
def test_a_folder_that_changed_is_taken_in_anew(root: Path, base: Path, change: str) -> None:
    tree = base / "tree"
    (tree / "etc").mkdir(parents=True)
    for name in ("file", "other"):
        (tree / "etc" / name).write_text("old")
    time.sleep(2)  # a folder that was changed just now is taken in anew in any case
    path = [Path(Store(root).create(f"rootfs:{tree}").path) for _ in range(2)]
    assert len({one.image_id for one in Store(root).containers()}) == 1
    times = (tree / "etc/file").stat()
    if change == "content":
        (tree / "etc/file").write_text("new")
        os.utime(tree / "etc/file", ns=(times.st_atime_ns, times.st_mtime_ns))
    elif change == "mode":
        (tree / "etc/file").chmod(0o600)
    elif change == "new":
        (tree / "etc/new").touch()
    else:
        (tree / "etc/file").unlink()
    path.append(Path(Store(root).create(f"rootfs:{tree}").path))
    assert len({one.image_id for one in Store(root).containers()}) == 2
    subprocess.run(["diff", "-r", tree, path[-1]], check=True)
    assert_clean(root)
