"""containerd and reflayer's daemon in one user namespace of an ordinary user's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.archive.tars import entry, folder, tar
from tests.file_systems import require
from tests.images.layouts import Layout
from tests.sandbox.images import base as system
from tests.sandbox.images import in_one_version
from tests.store.users import COUNT, FIRST, NAME, USER, User

_CONFIG = """\
version = 2
root = "{0}/root"
state = "{0}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{0}/containerd.sock"
[proxy_plugins.reflayer]
  type = "snapshot"
  address = "{0}/reflayer.sock"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux"
  snapshotter = "reflayer"
"""
_SCRIPT = """
mount -t tmpfs tmpfs /run
"$@" serve containerd --spares 0 --home "$HOME/home" --containerd-socket "$HOME/reflayer.sock" &
ours=$!
while ! [ -S "$HOME/reflayer.sock" ]; do kill -0 $ours; sleep 0.05; done
containerd --config "$HOME/config.toml" --log-level error &
theirs=$!
trap 'kill $ours $theirs; wait' EXIT
export CONTAINERD_ADDRESS="$HOME/containerd.sock" CONTAINERD_SNAPSHOTTER=reflayer
while ! ctr version > /dev/null 2>&1; do kill -0 $theirs; sleep 0.1; done
ctr images import "$HOME/image.tar"
top=$(ctr snapshots ls | awk '$3 == "Committed" && !($1 in below) { last = $1 } { below[$2] } \
END { print last }')
ctr snapshots prepare one "$top"
folder=$(ctr snapshots mounts /to one | sed 's/.* \\(.*\\) .to.*/\\1/')
chown 600:601 "$folder/srv/new"
stat -c '%n %u:%g' "$folder/srv"/*
ctr snapshots commit made one
ctr run --rm --runc-binary "$(command -v crun)" --cgroup '' "$(ctr images ls -q)" two sh -c \
    'stat -c "%n in %u:%g" /srv/*; echo "$(id -u) runs"'
"""


@pytest.mark.parametrize("namespace", ["reflayer unshare unshare -m", "rootlesskit --net=host"])
def test_containerd_of_a_user_has_the_owners_of_images(base: Path, namespace: str) -> None:
    program, *words = namespace.split()
    require("containerd", "ctr", "crun", *({program} - {"reflayer"}))
    user = User(base, ranges=True)
    (base / "ranges").write_text(f"{NAME}:{FIRST}:{COUNT}\n")  # rootlesskit asks for the name
    layout = Layout(base / "layout")
    below = system(
        folder("srv", uid=33, gid=33),
        entry("srv/old", b"old", uid=500, gid=501),
        entry("srv/null", kind="char", device=(1, 3)),
    )
    layout.index(latest=layout.image(below, tar(entry("srv/new", b"new", uid=65534, gid=7))))
    archive = user.home / "image.tar"
    subprocess.run(["tar", "-C", layout.folder, "-cf", archive, "."], check=True)
    (user.home / "config.toml").write_text(_CONFIG.format(user.home))
    for path in (archive, user.home / "config.toml"):
        os.chown(path, USER, USER)
    starting = [*user.program, *words] if program == "reflayer" else [program, *words]
    script = ["sh", "-ec", _SCRIPT, "sh", *user.program]
    inside = user.start_other(*starting, *script, TMPDIR=str(user.home))
    command = in_one_version(*inside)
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "/srv/old 500:501" in done.stdout
    assert "/srv/new 600:601" in done.stdout
    assert "/srv/new in 65534:7" in done.stdout
    assert "0 runs" in done.stdout
    found = [path.stat() for path in user.home.glob("home/**/srv/new")]
    assert (FIRST + 599, FIRST + 600) in {(one.st_uid, one.st_gid) for one in found}
