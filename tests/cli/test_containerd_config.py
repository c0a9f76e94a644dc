"""What ``reflayer containerd-config`` prints is what those programs read."""

from __future__ import annotations

import json
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.processes import PROGRAM, reflayer
from tests.file_systems import require_root

UNPACKED = {
    "unpack_config": [
        {"platform": "linux", "snapshotter": name} for name in ("overlayfs", "reflayer")
    ]
}
"""Into what containerd 2 unpacks images itself: its own snapshotter stays."""


def printed(*arguments: str) -> str:
    """Its standard output."""
    done = reflayer("containerd-config", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_toml_names_the_socket_the_home_and_the_snapshotter_for_kubernetes() -> None:
    told = tomllib.loads(printed("--socket", '/run/a "b"/s.sock', "--home", "/srv/snap\\shots"))
    told["proxy_plugins"]["reflayer"].pop("capabilities", None)
    assert told == {
        "version": 2,
        "proxy_plugins": {
            "reflayer": {
                "type": "snapshot",
                "address": '/run/a "b"/s.sock',
                "exports": {"root": "/srv/snap\\shots"},
            }
        },
        "plugins": {
            "io.containerd.grpc.v1.cri": {"containerd": {"snapshotter": "reflayer"}},
            # containerd 2 reads it here, since the one above has no runtimes beside it.
            "io.containerd.cri.v1.images": {"snapshotter": "reflayer"},
            "io.containerd.transfer.v1.local": UNPACKED,
        },
    }


@pytest.mark.parametrize(
    ("kind", "under", "version", "capabilities"),
    [
        ("ext4", (), 2, ["rebase"]),
        ("btrfs", (), 2, None),  # its layers are whole
        ("ext4", ("unshare", "--user", "--map-root-user"), 2, None),
        ("ext4", (), 3, ["rebase", "remap-ids"]),  # containerd 1 could not show other owners
        ("btrfs", (), 3, ["remap-ids"]),
        ("ext4", ("unshare", "--user", "--map-root-user"), 3, None),
    ],
)
def test_the_toml_tells_what_the_snapshotter_can_in_its_home(
    kind: str,
    under: tuple[str, ...],
    version: int,
    capabilities: list[str] | None,
    place_on: Callable[[str], Path],
) -> None:
    require_root()
    options = (f"--config-version={version}", "--home", str(place_on(kind) / "not/there/yet"))
    command = [*under, *PROGRAM, "containerd-config", *options]
    told = tomllib.loads(subprocess.check_output(command, text=True))
    assert told["proxy_plugins"]["reflayer"].get("capabilities") == capabilities


def test_version_3_has_kubernetes_snapshotter_at_its_new_place() -> None:
    told = tomllib.loads(printed("containerd", "--config-version", "3"))
    assert told["version"] == 3
    assert told["plugins"] == {
        "io.containerd.cri.v1.images": {"snapshotter": "reflayer"},
        "io.containerd.transfer.v1.local": UNPACKED,
    }
    assert told["proxy_plugins"]["reflayer"]["address"] == "/run/reflayer/containerd.sock"


def test_version_4_keeps_what_containerd_itself_unpacks_into_besides() -> None:
    told = tomllib.loads(printed("--config-version", "4"))
    assert told["version"] == 4
    erofs = {"snapshotter": "erofs", "differ": "erofs", "platform": "linux(+erofs)"}
    overlayfs, ours = UNPACKED["unpack_config"]
    assert told["plugins"]["io.containerd.transfer.v1.local"] == {
        "unpack_config": [overlayfs, {**erofs, "optional": True}, ours]
    }


@pytest.mark.parametrize(
    ("version", "path"),
    [
        ("2", ("io.containerd.grpc.v1.cri", "containerd")),
        ("3", ("io.containerd.cri.v1.runtime", "containerd")),
    ],
)
def test_a_runtime_class_alone_uses_it(version: str, path: tuple[str, ...]) -> None:
    plugins = tomllib.loads(printed("--config-version", version, "--runtime-class", "sandboxes"))[
        "plugins"
    ]
    assert plugins.pop("io.containerd.transfer.v1.local") == UNPACKED
    assert plugins.pop("io.containerd.cri.v1.images") == {
        "runtime_platforms": {"sandboxes": {"snapshotter": "reflayer"}}
    }
    runtime = {"runtime_type": "io.containerd.runc.v2", "snapshotter": "reflayer"}
    assert plugins == {path[0]: {path[1]: {"runtimes": {"sandboxes": runtime}}}}


def test_a_runtime_class_that_cannot_be_is_refused() -> None:
    done = reflayer("containerd-config", "--runtime-class", "A.b")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'A.b' is no handler of a RuntimeClass" in done.stderr


def test_buildkit_is_told_by_options() -> None:
    assert printed("buildkit", "--socket", "/run/s").splitlines() == [
        "--oci-worker=true",
        "--containerd-worker=false",
        "--oci-worker-snapshotter=reflayer",
        "--oci-worker-proxy-snapshotter-path=/run/s",
    ]


def test_docker_is_told_by_json_alone() -> None:
    assert json.loads(printed("docker")) == {
        "features": {"containerd-snapshotter": True},
        "storage-driver": "reflayer",
    }


@pytest.mark.parametrize(
    ("socket", "message"),
    [("run/s", "not an absolute path"), ("/a\nb", "printable"), ("/" * 108, "107 bytes")],
)
def test_a_socket_that_cannot_be_is_refused(socket: str, message: str) -> None:
    done = reflayer("containerd-config", "--socket", socket)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""
