"""``diff`` and ``export`` as a script uses them, and as somebody at a terminal does."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from reflayer.walk.recorded import OWNER
from tests.cli.processes import PROGRAM
from tests.file_systems import require
from tests.store.stores import BASE, image, reflayer
from tests.trees import assert_same, facts


def _run(root: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [*PROGRAM, "--root", str(root), *arguments]
    return subprocess.run(command, capture_output=True, check=False, timeout=120)


def test_diff_prints_nothing_of_a_new_container(root: Path, container: Path) -> None:
    assert container.is_dir()
    done = reflayer(root, "diff", "web")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert reflayer(root, "diff", "--json", "web").stdout == "[]\n"


def test_diff_prints_what_docker_prints(root: Path, container: Path) -> None:
    (container / "etc/old").unlink()
    (container / "etc/passwd").write_bytes(b"other")
    (container / "new\n").touch()
    assert _run(root, "diff", "web").stdout == (b"C /etc\nD /etc/old\nC /etc/passwd\nA /new\n\n")


def test_diff_as_json_has_any_name(root: Path, container: Path) -> None:
    (container / "etc/old").unlink()
    with open(os.fsencode(container) + b"/\xff\n", "xb"):
        pass
    assert json.loads(reflayer(root, "diff", "--json", "web").stdout) == [
        {"kind": "C", "path": "/etc"},
        {"kind": "D", "path": "/etc/old"},
        {"kind": "A", "path": "/\udcff\n"},
    ]


@pytest.mark.parametrize("command", ["diff", "export"])
def test_a_container_that_is_not_there_is_named(root: Path, container: Path, command: str) -> None:
    assert container.is_dir()
    done = reflayer(root, command, "other")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "reflayer: other: no such container: reflayer ps lists them\n"


@pytest.mark.parametrize("command", ["diff", "export"])
def test_a_container_without_its_folder_is_no_empty_one(
    root: Path, container: Path, command: str
) -> None:
    container.rename(root / "elsewhere")
    done = reflayer(root, command, "web")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "reflayer: web: its folder is gone: reflayer rm web\n"


def _has_open_in(pid: int, folder: Path) -> bool:
    """Whether the process has a file open that is directly in ``folder``."""
    opened = Path(f"/proc/{pid}/fd")
    links = []
    for fd in opened.iterdir():
        with suppress(FileNotFoundError):  # it has been shut
            links.append(os.readlink(fd))
    return any(os.path.dirname(link) == str(folder) for link in links)


def test_a_signal_leaves_no_half_of_a_file(base: Path, root: Path, container: Path) -> None:
    with open(container / "large", "wb") as file:
        file.truncate(1 << 36)
        for place in range(1 << 14):
            os.pwrite(file.fileno(), b"x", place << 22)
    command = [*PROGRAM, "--root", str(root), "export", "web", "-o", str(base / "file")]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        while not _has_open_in(process.pid, base):  # it gets its name at the end
            assert process.poll() is None
        process.terminate()
        assert process.stderr is not None
        assert process.stderr.read() == b"reflayer: ended by SIGTERM\n"
    assert process.returncode == 143
    assert not list(base.glob("file*"))


def test_diff_finds_what_was_done_as_soon_as_the_path_is_known(root: Path, container: Path) -> None:
    """Same size, same time: what the kernel's clock says of it decides alone."""
    file = container / "bin/sh"
    status = file.stat()
    file.write_bytes(b"?!" * 5000)
    file.chmod(0o4755)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert "C /bin/sh\n" in reflayer(root, "diff", "web").stdout


def test_export_is_a_tar_of_the_same_tree(base: Path, root: Path, container: Path) -> None:
    require("tar")
    (container / "etc/.wh.strange").touch()
    out = base / "out"
    out.mkdir()
    archive = _run(root, "export", "web").stdout
    command = ["tar", "--xattrs", "--xattrs-include=*", "-xpf", "-", "-C", str(out)]
    subprocess.run(command, input=archive, check=True)
    found = {
        path: one._replace(xattrs={k: v for k, v in one.xattrs.items() if k != OWNER})
        for path, one in facts(container, atime=False).items()
    }
    assert_same(found, facts(out, atime=False))
    assert reflayer(root, "export", "web", "-o", str(base / "file")).stdout == ""
    assert (base / "file").read_bytes() == archive


def test_export_tells_what_it_left_out(base: Path, root: Path, container: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(f"/proc/self/fd/{os.open(container, os.O_PATH)}/socket")
    done = reflayer(root, "export", "web", "-o", str(base / "file"))
    assert (done.returncode, done.stderr) == (0, "reflayer: left out: 1 socket\n")


def test_export_does_not_write_to_a_terminal(root: Path, container: Path) -> None:
    assert container.is_dir()
    ours, terminal = pty.openpty()
    command = [*PROGRAM, "--root", str(root), "export", "web"]
    done = subprocess.run(command, stdout=terminal, stderr=subprocess.PIPE, check=False)
    os.close(terminal)
    os.close(ours)
    assert done.returncode == 2
    assert done.stderr.startswith(b"reflayer: export: ")
    assert done.stderr.endswith(b"-o FILE\n")


def test_export_leaves_a_file_as_it_was_where_it_fails(base: Path, root: Path) -> None:
    (base / "file").write_bytes(b"before")
    reflayer(root, "create", "--name", "web", image(base / "image", BASE))
    assert reflayer(root, "export", "other", "-o", str(base / "file")).returncode == 1
    assert (base / "file").read_bytes() == b"before"
    assert sorted(path.name for path in base.iterdir()) == ["file", "image", "store"]
    done = reflayer(root, "export", "web", "-o", str(base / "nowhere/file"))
    assert done.returncode == 1
    assert "nowhere/file: write: No such file or directory" in done.stderr


def test_export_to_a_full_device_is_one_clear_error(root: Path, container: Path) -> None:
    assert container.is_dir()
    done = reflayer(root, "export", "web", "-o", "/dev/full")
    assert done.returncode == 1
    assert done.stderr == "reflayer: /dev/full: write: No space left on device\n"
