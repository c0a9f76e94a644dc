"""Pods run on our snapshots: containerd's Kubernetes plugin, spoken to as the kubelet does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.containerd_programs.conftest import Pair, Start
from tests.containerd_programs.containerd import (
    release,
    require_config_version,
    require_runtime_snapshotters,
    until,
)
from tests.containerd_programs.cri import Cri


@pytest.fixture(params=["", "sandboxes"], ids=["all pods", "pods of a RuntimeClass"])
def handler(request: pytest.FixtureRequest) -> str:
    """What the RuntimeClass of the pods names, if they have one."""
    if request.param:
        require_runtime_snapshotters()
    return str(request.param)


@pytest.fixture(params=[2, 3, 4])
def pair(
    request: pytest.FixtureRequest,
    start: Start,
    place_on: Callable[[str], Path],
    registry: str,
    handler: str,
) -> Pair:
    """Both daemons, with pods, which use the snapshotter all or by their RuntimeClass."""
    require_config_version(request.param)
    pause = f"{registry}/pause:t"
    return start(place_on("xfs"), pause=pause, config_version=request.param, runtime_class=handler)


@pytest.fixture
def cri(pair: Pair, tmp_path: Path) -> Iterator[Cri]:
    """What the kubelet is to containerd."""
    client = Cri(pair.containerd.folder / "socket", tmp_path / "cri")
    yield client
    client.close()


def run_container(
    cri: Cri, sandbox: str, pod: Any, config: Mapping[str, object]
) -> tuple[Any, list[str]]:
    """Run a container of a pod to its end; the request that names it, and the lines of its log."""
    make = cri.messages
    request = make.CreateContainerRequest(
        pod_sandbox_id=sandbox,
        config={"metadata": {"name": "container"}, "log_path": "container.log", **config},
        sandbox_config=pod,
    )
    container = make.ContainerRequest(
        container_id=cri.runtime.CreateContainer(request).container_id
    )
    cri.runtime.StartContainer(container)

    def ended() -> bool:
        status = cri.runtime.ContainerStatus(container).status
        return bool(status.state == make.CONTAINER_EXITED and status.exit_code == 0)

    until(ended, "the container ends with success")
    return container, Path(pod.log_directory, "container.log").read_text().splitlines()


def test_a_pod_is_pulled_run_logged_and_removed(
    pair: Pair, cri: Cri, registry: str, handler: str, tmp_path: Path
) -> None:
    name, make = f"{registry}/image:t", cri.messages
    pod = make.PodSandboxConfig(
        metadata={"name": "pod", "uid": "1", "namespace": "default"},
        hostname="pod",
        log_directory=str(tmp_path / "logs"),
        # Before containerd 2.0 an image is pulled for what this names.
        annotations={"io.containerd.cri.runtime-handler": handler} if handler else {},
    )
    cri.pull(name, pod, handler)
    pulled = names(pair)
    assert len(pulled) == 5

    wanted = make.RunPodSandboxRequest(config=pod, runtime_handler=handler)
    sandbox = cri.runtime.RunPodSandbox(wanted).pod_sandbox_id
    config = {
        "image": {"image": name, "runtime_handler": handler},
        "command": ["sh", "-c", "cat /kept/file; echo; echo new > /kept/new; ls /kept"],
    }
    container, lines = run_container(cri, sandbox, pod, config)
    assert [line.split(maxsplit=3)[1:] for line in lines] == [
        ["stdout", "F", word]
        for word in ("first", "file", "link", "new", "null", "other", "pipe", "symlink")
    ]
    assert len(names(pair) - pulled) == 2  # the pod's and the container's
    if release() >= ((2, 0) if handler else (1, 7)):  # which is told where the snapshots are
        (stats,) = cri.runtime.ListContainerStats(make.Nothing()).stats
        assert stats.writable_layer.fs_id.mountpoint == str(pair.home)  # the kubelet looks there

    cri.runtime.RemoveContainer(container)
    request = make.SandboxRequest(pod_sandbox_id=sandbox)
    cri.runtime.StopPodSandbox(request)
    cri.runtime.RemovePodSandbox(request)
    for image in ("image", "pause"):
        cri.images.RemoveImage(cri.image(f"{registry}/{image}:t"))
    until(lambda: names(pair) == set(), "all snapshots are gone")
    until(lambda: not any(pair.home.rglob("trash/*")), "the trash is empty")


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_a_pod_with_users_of_its_own_has_the_owners_of_the_image(
    start: Start, place_on: Callable[[str], Path], kind: str, registry: str, tmp_path: Path
) -> None:
    require_config_version(3)
    pair = start(place_on(kind), pause=f"{registry}/pause:t", config_version=3)
    pair.containerd.folder.chmod(0o711)  # as /run is
    cri = Cri(pair.containerd.folder / "socket", tmp_path / "cri")
    make, name = cri.messages, f"{registry}/image:t"
    uids, gids = ([{"host_id": id, "length": 65536}] for id in (100_000, 200_000))
    options = {"namespace_options": {"userns_options": {"uids": uids, "gids": gids}}}
    pod = make.PodSandboxConfig(
        metadata={"name": "pod", "uid": "1", "namespace": "default"},
        hostname="pod",
        log_directory=str(tmp_path / "logs"),
        linux={"security_context": options},
    )
    cri.pull(name, pod)
    sandbox = cri.runtime.RunPodSandbox(make.RunPodSandboxRequest(config=pod)).pod_sandbox_id
    script = "cat /proc/self/uid_map; stat -c '%u:%g %h' /kept/file; echo new > /new"
    config = {
        "image": {"image": name},
        "command": ["sh", "-c", script],
        "linux": {"security_context": options},
    }
    container, lines = run_container(cri, sandbox, pod, config)
    id = container.container_id
    told = [line.split(maxsplit=3)[3].split() for line in lines]
    assert told == [["0", "100000", "65536"], ["1234:5678", "2"]]
    mount = pair.containerd.ctr("-n", "k8s.io", "snapshots", "mounts", "/target", id).split()
    assert [os.stat(f"{mount[3]}/{name}").st_uid for name in ("new", "kept/file")] == [0, 1234]
    cri.close()


def names(pair: Pair) -> set[str]:
    """The snapshots of Kubernetes' namespace."""
    rows = pair.containerd.ctr("-n", "k8s.io", "snapshots", "ls").splitlines()[1:]
    return {row.split()[0] for row in rows}
