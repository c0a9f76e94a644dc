"""``commit`` and ``save`` as a script uses them."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.store.stores import reflayer


def config(root: Path, image_id: str) -> Any:
    return json.loads((root / "content/blobs" / image_id.replace(":", "/")).read_bytes())


def test_commit_prints_the_id_of_the_image(root: Path, container: Path) -> None:
    (container / "new").touch()
    done = reflayer(root, "commit", "web", "example:1")
    assert (done.returncode, done.stderr) == (0, "")
    (listed,) = (
        one
        for one in json.loads(reflayer(root, "images", "--json").stdout)
        if one["id"] == done.stdout.rstrip("\n")
    )
    assert listed["names"] == ["docker.io/library/example:1"]
    again = Path(reflayer(root, "create", "example:1").stdout.rstrip("\n"))
    assert (again / "new").exists()


def test_commit_takes_dockers_words(root: Path, container: Path) -> None:
    assert container.is_dir()
    words = [
        "--author", "me", "--message", "why", "--entrypoint", '["/bin/sh", "-c"]',
        "--cmd", "echo 'a b'", "--env", "A=b=c", "--env", "D=", "--workdir", "/etc",
        "--user", "7:9", "--label", "l=x", "--expose", "80", "--expose", "53/udp",
        "--volume", "/data", "--stop-signal", "SIGRTMIN+3",
    ]  # fmt: skip
    done = reflayer(root, "commit", *words, "web", "example", SOURCE_DATE_EPOCH="1000000000")
    assert done.returncode == 0, done.stderr
    told = config(root, done.stdout.rstrip("\n"))
    assert told["config"] == {
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": ["echo", "a b"],
        "Env": ["A=b=c", "D="],
        "WorkingDir": "/etc",
        "User": "7:9",
        "Labels": {"l": "x"},
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "Volumes": {"/data": {}},
        "StopSignal": "SIGRTMIN+3",
    }
    assert told["created"] == "2001-09-09T01:46:40Z"
    assert (told["author"], told["history"][-1]["comment"]) == ("me", "why")


def test_commit_as_json_tells_what_was_left_out(root: Path, container: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(f"/proc/self/fd/{os.open(container, os.O_PATH)}/socket")
    done = reflayer(root, "commit", "--json", "web", "example")
    assert done.stderr == "reflayer: left out: 1 socket\n"
    told = json.loads(done.stdout)
    assert told["skipped"] == {"socket": 1}
    assert told["names"] == ["docker.io/library/example:latest"]


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("--cmd", '["unfinished"', "no JSON array"),
        ("--cmd", "[1]", "else than strings"),
        ("--cmd", "'unfinished", "No closing quotation"),
        ("--env", "KEY", "not KEY=VALUE"),
        ("--label", "=x", "not KEY=VALUE"),
        ("--expose", "70000", "not a port"),
        ("--expose", "80/smtp", "not a port"),
        ("--workdir", "etc", "does not begin with /"),
        ("--volume", "data", "does not begin with /"),
        ("--stop-signal", "please stop", "not a signal"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(
    root: Path, option: str, value: str, reason: str
) -> None:
    done = reflayer(root, "commit", option, value, "web", "example")
    assert done.returncode == 2
    assert reason in done.stderr


def test_a_time_that_is_none_is_one_clear_error(root: Path, container: Path) -> None:
    assert container.is_dir()
    done = reflayer(root, "commit", "web", "example", SOURCE_DATE_EPOCH="yesterday")
    assert done.returncode == 1
    assert "SOURCE_DATE_EPOCH is 'yesterday'" in done.stderr


def test_save_writes_and_prints_nothing(base: Path, root: Path, container: Path) -> None:
    assert container.is_dir()
    name = f"oci:{base}/image:latest"
    for place in (f"oci:{base}/out:x", f"docker-archive:{base}/out.tar:example:1"):
        done = reflayer(root, "save", name, place)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert reflayer(base / "other", "create", place).returncode == 0


def test_save_refuses_to_compress_in_an_archive(base: Path, root: Path, container: Path) -> None:
    assert container.is_dir()
    name = f"oci:{base}/image:latest"
    done = reflayer(root, "save", "--compression", "zstd", name, f"docker-archive:{base}/out.tar")
    assert done.returncode == 1
    assert "always plain" in done.stderr
    assert not (base / "out.tar").exists()
