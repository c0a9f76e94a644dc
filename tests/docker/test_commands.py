"""What people do with docker, with all layers in our plugin."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest

from tests.containerd_programs.docker import has_build_kit
from tests.docker.daemons import Dockerd, Plugin, wait_until
from tests.docker.trees import busybox_tree, pack
from tests.driver.layers import tree
from tests.file_systems import require


def sh(docker: Dockerd, image: str, script: str, name: str) -> None:
    """Run ``script`` in a new container of ``image``, which stays."""
    docker.run("run", f"--name={name}", "--network=none", image, "sh", "-ec", script)


def said(docker: Dockerd, image: str, script: str) -> str:
    """What ``script`` prints in a container of ``image``, which goes again."""
    return docker.run("run", "--rm", "--network=none", image, "sh", "-ec", script)


def test_info_tells_the_driver_and_how_it_clones(docker: Dockerd) -> None:
    text = docker.run("info", "--format={{.Driver}} {{.DriverStatus}}")
    assert text == (
        "reflayer [[Backing Filesystem xfs] [Method reflink] [Shared Blocks true] "
        "[Layers differences]]"
    )


def test_a_container_runs(docker: Dockerd) -> None:
    assert said(docker, "busybox", "echo hello") == "hello"


def test_diff_lists_what_a_container_changed(docker: Dockerd) -> None:
    sh(docker, "busybox", "echo new >/etc/new; rm /bin/vi; echo >>/etc/passwd", "differing")
    lines = docker.run("diff", "differing").splitlines()
    assert sorted(lines) == ["A /etc/new", "C /bin", "C /etc", "C /etc/passwd", "D /bin/vi"]


def test_a_created_container_has_no_changes(docker: Dockerd) -> None:
    docker.run("create", "--name=untouched", "busybox", "true")
    assert docker.run("diff", "untouched") == ""


def test_a_commit_is_an_image_of_what_was_changed(docker: Dockerd) -> None:
    script = "echo new >/etc/new; rm /bin/vi; rm -r /tmp; mkdir /tmp; echo x >/tmp/x"
    sh(docker, "busybox", script, "committing")
    docker.run("commit", "committing", "committed")
    assert said(docker, "committed", "cat /etc/new /tmp/x; ls /bin/vi || true") == "new\nx"
    layers = json.loads(docker.run("inspect", "--format={{json .RootFS.Layers}}", "committed"))
    assert len(layers) == 2


def test_hard_links_survive_a_commit(docker: Dockerd) -> None:
    # Docker's TestCommitHardlink.
    sh(docker, "busybox", "touch file1 && ln file1 file2 && ls -di file1 file2", "hardlinks")
    docker.run("commit", "hardlinks", "hardlinks")
    first, second = said(docker, "hardlinks", "ls -di file1 file2").splitlines()
    assert first.split()[0] == second.split()[0]
    assert [first.split()[1], second.split()[1]] == ["file1", "file2"]


def test_times_of_folders_survive_create_and_commit(docker: Dockerd) -> None:
    script = "mkdir -p /times/inner && touch /times/inner/file && touch -d @1000000000 /times/inner"
    sh(docker, "busybox", f"{script} && touch -d @1100000000 /times", "times")
    docker.run("commit", "times", "times")
    assert said(docker, "times", "stat -c %Y /times /times/inner") == "1100000000\n1000000000"
    docker.run("create", "--name=times-of-clone", "times", "true")
    root = docker.layer("times-of-clone")
    assert (root / "times/inner").stat().st_mtime_ns == 1_000_000_000 * 10**9


def test_file_capabilities_are_kept(docker: Dockerd, tmp_path: Path) -> None:
    require("setcap")
    root = busybox_tree(tmp_path / "tree")
    subprocess.run(["setcap", "cap_net_raw+ep", root / "bin/busybox"], check=True)
    docker.run("import", pack(root, tmp_path / "tree.tar"), "capable")
    docker.run("create", "--name=capable", "capable", "true")
    docker.run("commit", "capable", "capable-again")
    docker.run("create", "--name=capable-again", "capable-again", "true")
    for container in ("capable", "capable-again"):
        program = docker.layer(container) / "bin/busybox"
        assert os.getxattr(program, "security.capability") == os.getxattr(
            root / "bin/busybox", "security.capability"
        )


def test_what_is_saved_can_be_loaded(docker: Dockerd, tmp_path: Path) -> None:
    sh(docker, "busybox", "echo saved >/saved; ln /saved /twin", "saving")
    docker.run("commit", "saving", "saved")
    before = tree(docker.layer("saving"))
    docker.run("save", "--output", tmp_path / "image.tar", "saved")
    docker.run("rm", "saving")
    docker.run("rmi", "saved")
    docker.run("load", "--input", tmp_path / "image.tar")
    assert said(docker, "saved", "cat /twin") == "saved"
    docker.run("create", "--name=loaded", "saved", "true")
    after = tree(docker.layer("loaded"))
    assert after[b"saved"].content == before[b"saved"].content
    assert after[b"twin"].twin == b"saved"


def test_cp_goes_both_ways(docker: Dockerd, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a file").write_text("content")
    docker.run("create", "--name=copied", "busybox", "cat", "/in/a file")
    docker.run("cp", tmp_path / "in", "copied:/in")
    assert docker.run("start", "--attach", "copied") == "content"
    docker.run("cp", "copied:/in", tmp_path / "out")
    assert (tmp_path / "out/a file").read_text() == "content"


def test_build_with_names_that_have_white_space(docker: Dockerd, tmp_path: Path) -> None:
    # Docker's TestBuildAddAndCopyFileWithWhitespace, with folders too.
    lines = ["FROM busybox"]
    checks = []
    for word in ("ADD", "COPY"):
        for name in ("file one", "folder one/inner file"):
            source = tmp_path / name
            source.parent.mkdir(exist_ok=True)
            source.write_text(name)
            lines.append(json.dumps([name, f"/{word} {name}"]).join([f"{word} ", ""]))
            checks.append(f'[ "$(cat "/{word} {name}")" = "{name}" ]')
        lines.append(f'{word} ["folder one", "/{word} whole folder/"]')
        checks.append(f'[ -f "/{word} whole folder/inner file" ]')
    lines.append("RUN " + " && ".join(checks))
    (tmp_path / "Dockerfile").write_text("\n".join(lines))
    docker.run("build", "--network=none", "--tag=spaces", tmp_path)
    said(docker, "spaces", " && ".join(checks))


def test_build_with_buildkit_whose_steps_share_what_others_made(
    docker: Dockerd, tmp_path: Path
) -> None:
    if not has_build_kit():
        pytest.skip("Docker's command line has no BuildKit here")
    (tmp_path / "file").write_text("content")
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox AS one\n"
        "RUN mkdir /a && echo 1 >/a/1 && ln /a/1 /a/2 && rm /bin/vi\n"
        "COPY file /a/\n"
        "FROM busybox\n"
        "COPY --from=one /a /copied\n"
        "RUN --mount=type=cache,target=/cache --mount=from=one,target=/one "
        "echo >/cache/x && ls /one/a >/listed && mv /copied/1 /copied/3 && rm /etc/passwd\n"
    )
    command = docker.command("build", "--network=none", "--tag=by-buildkit", tmp_path)
    environment = {**docker.environment(), "DOCKER_BUILDKIT": "1"}
    for _ in range(2):  # the second is from the cache
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        show = "cat /listed /copied/file; ls /cache /etc/passwd || true; stat -c %h /copied/3"
        assert said(docker, "by-buildkit", f"{show}; ls /bin/vi") == (
            "1\n2\nfile\ncontent2\n/bin/vi"
        )
    docker.run("rmi", "by-buildkit")
    docker.run("builder", "prune", "--all", "--force")
    assert said(docker, "busybox", "ls /bin/vi /etc/passwd") == "/bin/vi\n/etc/passwd"


def test_build_from_its_cache_and_with_many_layers(docker: Dockerd, tmp_path: Path) -> None:
    steps = [f"RUN echo {number} >>/log && echo {number} >/{number}" for number in range(3)]
    (tmp_path / "Dockerfile").write_text("\n".join(["FROM busybox", *steps, "RUN rm /1"]))
    first = docker.run("build", "--quiet", "--network=none", "--tag=many", tmp_path)
    assert docker.run("build", "--quiet", "--network=none", tmp_path) == first
    assert said(docker, "many", "cat /log /2; ls /1 || true") == "0\n1\n2\n2"


def test_sizes_of_containers_are_told(docker: Dockerd) -> None:
    sh(docker, "busybox", "head -c 1000000 /dev/zero >/million", "sized")
    size = docker.run("inspect", "--size", "--format={{.SizeRw}}", "sized")
    assert size == "1000000"


def layers(docker: Dockerd) -> set[str]:
    """Where each layer is: a tree, or a difference."""
    home = docker.data / "reflayer"
    kinds = ("dir", "differences")
    return {f"{kind}/{name}" for kind in kinds for name in os.listdir(home / kind)}


def test_a_container_is_one_clone(docker: Dockerd) -> None:
    before = layers(docker)
    docker.run("create", "--name=single", "busybox", "true")
    (own,) = {layer for layer in layers(docker) - before if layer.startswith("dir/")}
    both = {own, f"{own.replace('dir', 'differences')}-init"}
    assert layers(docker) - before == both
    docker.run("cp", "/etc/hostname", "single:/new")
    assert docker.run("diff", "single") == "A /new"
    assert layers(docker) - before == both


def test_a_removed_container_leaves_no_layer(docker: Dockerd) -> None:
    home = docker.data / "reflayer"
    before = layers(docker)
    docker.run("create", "--name=passing", "busybox", "true")
    assert len(layers(docker) - before) == 2  # its own and Docker's -init
    docker.run("rm", "passing")
    assert layers(docker) == before
    wait_until(lambda: os.listdir(home / "trash") == [])


def test_many_clients_create_containers_at_once(docker: Dockerd) -> None:
    each = 100 // 8 + 1
    failures: list[str] = []

    def create(client: int) -> None:
        for number in range(each):
            name = f"crowd-{client}-{number}"
            done = docker.try_to("create", f"--name={name}", "busybox", "true")
            if done.returncode:
                failures.append(done.stderr)

    clients = [threading.Thread(target=create, args=(client,)) for client in range(8)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert failures == []
    names = docker.run("ps", "--all", "--filter=name=crowd", "--format={{.Names}}").split()
    assert len(names) == 8 * each
    programs = tree(docker.layer(names[0]) / "bin")
    assert all(tree(docker.layer(name) / "bin") == programs for name in names[1::20])
    docker.run("rm", *names)


def test_prune_takes_what_nobody_uses(docker: Dockerd) -> None:
    sh(docker, "busybox", "echo x >/unused", "unused")
    docker.run("commit", "unused", "unused")
    docker.run("rmi", "unused")
    docker.run("system", "prune", "--force")
    assert docker.run("ps", "--all", "--quiet") == ""
    docker.run("system", "prune", "--all", "--force")
    assert docker.run("images", "--all", "--quiet") == ""
    home = docker.data / "reflayer"
    assert os.listdir(home / "dir") == []
    wait_until(lambda: os.listdir(home / "tmp") == [])  # what was being made ahead
    wait_until(lambda: os.listdir(home / "trash") == [])


def test_export_has_the_whole_container(docker: Dockerd, busybox: Path, tmp_path: Path) -> None:
    # After what is pruned: Docker 26.1 keeps the layer of an exported container, also with vfs.
    docker.run("import", busybox, "busybox")
    sh(docker, "busybox", "echo exported >/exported", "exporting")
    docker.run("export", "--output", tmp_path / "root.tar", "exporting")
    with tarfile.open(tmp_path / "root.tar") as archive:
        names = archive.getnames()
    assert {"exported", "bin/busybox", "bin/sh"} <= set(names)


def test_nothing_went_wrong_unseen(docker_plugin: Plugin) -> None:
    log = docker_plugin.log.read_text()
    assert "a mistake in reflayer" not in log
    assert "Traceback" not in log
    assert " ERROR " not in log
