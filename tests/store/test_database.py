"""A database that cannot be used is one clear line, and a commit is durable."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from reflayer import Store
from reflayer.errors import OperationError, StoreError
from reflayer.store import default_root
from tests.cli.processes import PROGRAM
from tests.file_systems import require_root
from tests.store.stores import BASE, assert_clean, image, layers_in, reflayer


@pytest.fixture
def made(base: Path, root: Path) -> str:
    """An image of which a store has a container already."""
    made = image(base / "image", BASE)
    Store(root).create(made, name="first")
    return made


@pytest.mark.usefixtures("made")
def test_only_its_owner_gets_into_a_store(root: Path) -> None:
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


@pytest.mark.usefixtures("made")
def test_the_database_has_a_version_and_room_in_its_journal(root: Path) -> None:
    with closing(sqlite3.connect(root / "reflayer.db")) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (4,)
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert (root / "reflayer.db-journal").stat().st_blocks >= 512


def test_a_newer_schema_is_refused_and_left_alone(root: Path, made: str) -> None:
    used = Store(root)
    used.images()
    with closing(sqlite3.connect(root / "reflayer.db")) as db:
        db.execute("PRAGMA user_version = 7")
    creates = [lambda store=store: store.create(made) for store in (used, Store(root))]
    for use in (used.containers, Store(root).containers, Store(root).images, *creates):
        with pytest.raises(StoreError, match=r"a newer reflayer made it \(schema 7"):
            use()
    with closing(sqlite3.connect(root / "reflayer.db")) as db:
        assert db.execute("SELECT count(*) FROM containers").fetchone() == (1,)


def test_another_database_in_its_place_is_what_is_used(root: Path, made: str) -> None:
    store, path = Store(root), root / "reflayer.db"
    store.containers()
    content = path.read_bytes()
    path.rename(root / "before.db")
    path.write_bytes(content)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE containers SET name = 'other'")
    assert [one.name for one in store.containers()] == ["other"]
    store.create(made, name="new")
    assert {one.name for one in Store(root).containers()} == {"new", "other"}


def test_what_is_forked_opens_the_database_anew(root: Path, made: str) -> None:
    store = Store(root)
    store.containers()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            store.create(made, name="of_child")
            status = 0
        finally:
            os._exit(status)
    store.create(made, name="of_parent")
    assert os.waitpid(pid, 0)[1] == 0
    assert {one.name for one in store.containers()} == {"first", "of_child", "of_parent"}


@pytest.mark.parametrize("arguments", [("ps",), ("create", "MADE"), ("rm", "first")])
def test_what_is_no_database_is_one_line(root: Path, made: str, arguments: tuple[str, ...]) -> None:
    (root / "reflayer.db").write_bytes(b"no database at all\n" * 500)
    done = reflayer(root, *(made if one == "MADE" else one for one in arguments))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"reflayer: {root}/reflayer.db: file is not a database")
    assert done.stderr.count("\n") == 1


@pytest.mark.usefixtures("made")
def test_a_damaged_database_is_one_line(root: Path) -> None:
    path = root / "reflayer.db"
    content = bytearray(path.read_bytes())
    content[4096 + 100 :] = os.urandom(len(content) - 4096 - 100)
    path.write_bytes(content)
    done = reflayer(root, "ps")
    assert done.returncode == 1
    assert done.stderr.startswith(f"reflayer: {path}: ")
    assert done.stderr.count("\n") == 1


def test_others_are_waited_for(root: Path, made: str) -> None:
    with closing(sqlite3.connect(root / "reflayer.db", isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        waiting = subprocess.Popen([*PROGRAM, "--root", root, "create", made])
        time.sleep(0.5)
        assert len(Store(root).containers()) == 1  # who only reads needs not wait
        db.execute("COMMIT")
    assert waiting.wait() == 0
    assert len(Store(root).containers()) == 2
    assert_clean(root)


def test_the_root_of_everybody_else_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert default_root() == "/home/somebody/.local/share/reflayer"
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_root() == "/data/reflayer"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert default_root() == "/home/somebody/.local/share/reflayer"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_root() == "/var/lib/reflayer"


def test_a_store_that_cannot_be_made_is_one_line(base: Path) -> None:
    (base / "file").write_text("")
    with pytest.raises(OperationError, match="file"):
        Store(base / "file/store").create("tar:/nowhere")


@pytest.mark.parametrize("is_older", [False, True])
def test_a_store_on_a_read_only_file_system_can_be_looked_at(
    root: Path, made: str, is_older: bool
) -> None:
    require_root()
    if is_older:  # than differences
        (root / "layers/publish.lock").unlink()
        (root / "layers/differences").rmdir()
    (root / "layers/trash/left").mkdir()  # by a crash
    (root / "layers/tmp/left").mkdir()
    subprocess.run(["mount", "--bind", str(root), str(root)], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", str(root)], check=True)
    try:
        command: tuple[str, ...]
        for command in (("ps",), ("images",), ("path", "first"), ("df",), ("diff", "first")):
            done = reflayer(root, *command)
            assert (done.returncode, done.stderr) == (0, "")
        for command in (("create", made), ("rm", "first"), ("commit", "first", "x")):
            done = reflayer(root, *command)
            assert (done.returncode, done.stdout) == (1, "")
            assert "ead-only file system: name another folder" in done.stderr
            assert done.stderr.startswith(f"reflayer: {root}")
            assert done.stderr.count("\n") == 1
    finally:
        subprocess.run(["umount", str(root)], check=True)


def test_without_its_database_a_store_is_left_as_it_is(root: Path, made: str) -> None:
    folders = layers_in(root)
    (root / "reflayer.db").rename(root / "moved")
    with pytest.raises(StoreError, match="but no database: put it back"):
        Store(root).create(made)
    assert layers_in(root) == folders
    (root / "moved").rename(root / "reflayer.db")
    Store(root).create(made)
    assert_clean(root)


def test_records_outlive_a_file_system_that_is_not_mounted(root: Path, made: str) -> None:
    (root / "layers").rename(root / "elsewhere")
    with pytest.raises(StoreError, match="is a file system not mounted"):
        Store(root).create(made)
    subprocess.run(["rm", "-r", str(root / "layers")], check=True)
    (root / "elsewhere").rename(root / "layers")
    assert [one.name for one in Store(root).containers()] == ["first"]
    Store(root).create(made)
    assert_clean(root)
