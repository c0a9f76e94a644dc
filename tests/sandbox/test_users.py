"""Users are looked up in the container's own files, by Docker's rules."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reflayer.errors import SandboxError
from reflayer.sandbox import inside
from reflayer.sandbox.users import User, look_up

_PASSWD = """\
# a comment
root:x:0:0:root:/root:/bin/sh

broken
web:x:101:102::/srv/web:/bin/sh
huge:x:99999999999999:1::/:/bin/sh
77:x:88:88::/named:/bin/sh
nohome:x:9:9:::
"""
_GROUP = "root:x:0:\nwww:x:102:\nextra:x:103:other,web\nmore:x:104:web\nhuge:x:4294967296:web\n"


@pytest.fixture
def container(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(_PASSWD)
    (tmp_path / "etc/group").write_text(_GROUP)
    return tmp_path


def looked_up(path: Path, text: str) -> User:
    root = inside.open_root(str(path))
    try:
        return look_up(root, text)
    finally:
        os.close(root)


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("", User(0, 0, (0,), "/root")),
        ("root", User(0, 0, (0,), "/root")),
        ("web", User(101, 102, (102, 103, 104), "/srv/web")),
        ("101", User(101, 102, (102, 103, 104), "/srv/web")),
        ("web:root", User(101, 0, (0,), "/srv/web")),
        ("web:55", User(101, 55, (55,), "/srv/web")),
        ("555", User(555, 0, (0,), "/")),
        ("555:www", User(555, 102, (102,), "/")),
        ("77", User(77, 0, (0,), "/")),
        ("nohome", User(9, 9, (9,), "/")),
    ],
)
def test_a_user_is_who_docker_takes_him_for(container: Path, text: str, user: User) -> None:
    assert looked_up(container, text) == user


@pytest.mark.parametrize("text", ["nosuch", "web:nosuch", "huge", "4294967296", "broken", "-1"])
def test_who_is_not_there_is_refused(container: Path, text: str) -> None:
    with pytest.raises(SandboxError):
        looked_up(container, text)


def test_without_files_there_are_numbers(tmp_path: Path) -> None:
    assert looked_up(tmp_path, "5:6") == User(5, 6, (6,), "/")
    with pytest.raises(SandboxError, match="unable to find user root"):
        looked_up(tmp_path, "root")


@pytest.mark.parametrize("target", ["/host/passwd", "../../../../../../../host/passwd", "passwd"])
def test_a_link_leads_nowhere_out_of_the_container(tmp_path: Path, target: str) -> None:
    outside, container = tmp_path / "host", tmp_path / "container"
    outside.mkdir()
    (outside / "passwd").write_text("evil:x:0:0::/:/bin/sh\n")
    (container / "etc").mkdir(parents=True)
    (container / "etc/passwd").symlink_to(target.replace("/host", str(outside), 1))
    with pytest.raises(SandboxError, match="unable to find user evil"):
        looked_up(container, "evil")
    (container / str(outside)[1:]).mkdir(parents=True)
    (container / str(outside)[1:] / "passwd").write_text("evil:x:5:5::/:/bin/sh\n")
    if target.startswith("/"):
        assert looked_up(container, "evil").uid == 5


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc/passwd")
    os.mkfifo(tmp_path / "etc/group")
    assert looked_up(tmp_path, "5").uid == 5
    (tmp_path / "etc/passwd").unlink()
    (tmp_path / "etc/passwd").mkdir()
    assert looked_up(tmp_path, "5").uid == 5
