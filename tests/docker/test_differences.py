"""Images of many layers: each is kept as its difference, and no tree is made that is not run."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.layers import NAME, layered_image
from reflayer.bench.sample_tree import make_tree
from reflayer.doctor.orphans import orphans
from tests.archive.tars import entry, folder, tar
from tests.docker.daemons import Dockerd, Plugin, running, wait_until
from tests.docker.trees import busybox_tree
from tests.driver.layers import tree
from tests.file_systems import require
from tests.registry.registries import running as running_registry
from tests.trees import Facts, assert_same

_IMAGE = f"bench:{NAME}"
_DIES = """
import os, signal
from reflayer.cli import main
from reflayer.driver import Driver

count = 0

def dying(call):
    def die(*arguments, **named):
        global count
        count += 1
        if count == NUMBER and BEFORE:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = call(*arguments, **named)
        if count == NUMBER:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer
    return die

class Dying:
    def __init__(self, stream):
        self.stream, self.left = stream, 40_000

    def read(self, size=-1):
        self.left -= size
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.stream.read(min(size, 10_000))

def apply(self, id, stream, **named):
    global count
    count += 1
    return call(self, id, Dying(stream) if count == NUMBER else stream, **named)

if "NAME" == "apply, half":
    call, Driver.apply = Driver.apply, apply
else:
    Driver.NAME = dying(Driver.NAME)
main()
"""


def dying(name: str, number: int, *, before: bool) -> tuple[str, ...]:
    """A ``reflayer`` that kills itself before or after that call of a driver's method."""
    told = {"NAME": name, "NUMBER": str(number), "BEFORE": str(before)}
    code = _DIES
    for word, value in told.items():
        code = code.replace(word, value)
    return (sys.executable, "-c", code)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree that is the lowest layer."""
    root = busybox_tree(tmp_path_factory.mktemp("source") / "tree")
    for name in ("opt", "srv", "usr/share"):
        (root / name).mkdir(parents=True)
    make_tree(str(root / "usr/share"), 1500)
    return root


@pytest.fixture(scope="module")
def archive(source: Path) -> Path:
    """The image of ten layers, as ``docker load`` takes it."""
    return layered_image(source, source.with_name("image"))


@pytest.fixture(scope="module")
def both(file_system: Callable[[str], Path], archive: Path) -> Iterator[tuple[Dockerd, Plugin]]:
    """A daemon on ext4 with the image, and its plugin."""
    with running(file_system("ext4") / "layered") as (dockerd, plugin):
        dockerd.run("load", "--input", archive)
        yield dockerd, plugin


@pytest.fixture(scope="module")
def docker(both: tuple[Dockerd, Plugin]) -> Dockerd:
    """The daemon."""
    return both[0]


def home(docker: Dockerd) -> Path:
    return docker.data / "reflayer"


def taken(path: Path) -> int:
    """Bytes on disk."""
    told = subprocess.run(["du", "-s", "-B1", path], check=True, capture_output=True, text=True)
    return int(told.stdout.split()[0])


def trees(docker: Dockerd) -> set[str]:
    """The layers that have a tree."""
    return set(os.listdir(home(docker) / "dir"))


def archives(image: Path) -> list[Path]:
    """The layers' blobs in the layout beside the archive, the lowest first."""
    layout = image.with_suffix("")
    (told,) = json.loads((layout / "manifest.json").read_text())
    return [layout / place for place in told["Layers"]]


def settled(docker: Dockerd) -> None:
    """Return when what was removed is deleted; fail where something half made is left."""
    wait_until(lambda: os.listdir(home(docker) / "trash") == [])
    assert os.listdir(home(docker) / "tmp") == []
    assert os.listdir(home(docker) / "unanswered") == []
    assert orphans(str(docker.data)) == []


def test_an_image_takes_on_disk_what_its_layers_have(
    docker: Dockerd, archive: Path, place_on: Callable[[str], Path]
) -> None:
    apart = place_on("ext4")
    for number, layer in enumerate(archives(archive)):
        (apart / str(number)).mkdir()
        subprocess.run(["tar", "-C", apart / str(number), "-xf", layer], check=True)
    settled(docker)
    assert len(trees(docker)) == 1
    assert taken(home(docker)) <= taken(apart) * 1.1
    docker.run("create", "--name=one", _IMAGE, "true")
    container = taken(docker.layer("one"))
    settled(docker)
    assert taken(home(docker)) <= taken(apart) * 1.1 + container
    docker.run("rm", "one")


def test_a_container_has_the_tree_that_umoci_unpacks(
    docker: Dockerd, archive: Path, place_on: Callable[[str], Path]
) -> None:
    require("umoci")
    place = place_on("ext4")
    unpack = ["umoci", "raw", "unpack", "--image", f"{archive.with_suffix('')}:{NAME}"]
    subprocess.run([*unpack, place / "umoci"], check=True, capture_output=True)
    docker.run("create", "--name=same", _IMAGE, "true")
    ours, theirs = dict(tree(docker.layer("same"))), dict(tree(place / "umoci"))
    for name in {*ours} - {*theirs}:  # what Docker makes in each container
        assert name.split(b"/")[0] in {b".dockerenv", b"dev", b"etc", b"proc", b"sys"}, name
        del ours[name]
    for name in (b"", b".", b"etc", b"dev"):
        ours.pop(name, None), theirs.pop(name, None)
    assert_same(ours, theirs)
    docker.run("rm", "same")


def test_what_only_looks_at_an_image_makes_no_tree(docker: Dockerd) -> None:
    docker.run("run", "--name=looked-at", "--network=none", _IMAGE, "touch", "/new")
    settled(docker)
    before, size = trees(docker), taken(home(docker))
    docker.run("inspect", _IMAGE)
    docker.run("history", _IMAGE)
    docker.run("images", "--all")
    docker.run("system", "df", "--verbose")
    docker.run("ps", "--all", "--size")
    assert docker.run("diff", "looked-at") == "A /new"
    docker.run("image", "prune", "--force")
    assert trees(docker) == before
    docker.run("commit", "looked-at", "looked-at")
    assert trees(docker) == before
    docker.run("rmi", "looked-at")
    docker.run("rm", "looked-at")
    settled(docker)
    assert taken(home(docker)) < size


def test_what_is_saved_has_the_layers_that_were_loaded(docker: Dockerd, tmp_path: Path) -> None:
    before = docker.run("inspect", "--format={{.Id}} {{.RootFS.Layers}}", _IMAGE)
    settled(docker)
    size, had = taken(home(docker)), trees(docker)
    docker.run("save", "--output", tmp_path / "saved.tar", _IMAGE)
    layers = json.loads(docker.run("inspect", "--format={{json .RootFS.Layers}}", _IMAGE))
    assert digests(tmp_path / "saved.tar") == layers
    settled(docker)
    assert (taken(home(docker)), trees(docker)) == (size, had)
    docker.run("rmi", _IMAGE)
    settled(docker)
    assert trees(docker) == set()
    docker.run("load", "--input", tmp_path / "saved.tar")
    assert docker.run("inspect", "--format={{.Id}} {{.RootFS.Layers}}", _IMAGE) == before
    assert taken(home(docker)) <= size * 1.01


def digests(image: Path) -> list[str]:
    """Those of the layers in what was saved, the lowest first."""
    with tarfile.open(image) as saved:

        def read(name: str) -> bytes:
            file = saved.extractfile(name)
            assert file is not None
            return file.read()

        (told,) = json.loads(read("manifest.json"))
        return [f"sha256:{hashlib.sha256(read(name)).hexdigest()}" for name in told["Layers"]]


def test_a_layer_whose_paths_led_by_a_link_below_is_saved_as_it_was(
    docker: Dockerd, tmp_path: Path
) -> None:
    base = tar(folder("usr"), folder("usr/lib"), entry("lib", kind="symlink", target="usr/lib"))
    layers = [base, tar(entry("lib/file", b"by the link")), tar(entry("usr/lib/file", b"changed"))]
    ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    names = [f"{number}.tar" for number in range(3)]
    rootfs = {"type": "layers", "diff_ids": ids}
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}
    manifest = [{"Config": "config.json", "RepoTags": ["linked:latest"], "Layers": names}]
    members = {**dict(zip(names, layers, strict=True)), "config.json": as_json(config)}
    files = [entry(name, data) for name, data in members.items()]
    image = tmp_path / "linked.tar"
    image.write_bytes(tar(*files, entry("manifest.json", as_json(manifest))))
    docker.run("load", "--input", image)
    had = trees(docker)
    docker.run("save", "--output", tmp_path / "saved.tar", "linked")
    assert digests(tmp_path / "saved.tar") == ids
    settled(docker)
    assert trees(docker) == had
    docker.run("rmi", "linked")


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


def test_what_is_pushed_can_be_pulled(docker: Dockerd, tmp_path: Path) -> None:
    with running_registry(tmp_path / "registry") as registry:
        name = f"{registry.host}/pushed"
        docker.run("tag", _IMAGE, name)
        had = trees(docker)
        docker.run("push", name)
        assert trees(docker) == had
        id = docker.run("inspect", "--format={{.Id}}", name)
        docker.run("rmi", name, _IMAGE)
        docker.run("pull", name)
        docker.run("tag", name, _IMAGE)
        assert docker.run("inspect", "--format={{.Id}}", name) == id
        docker.run("rmi", name)


def test_what_is_built_upon_it_takes_what_is_new(docker: Dockerd, tmp_path: Path) -> None:
    steps = [f"RUN echo {number} >>/log && echo {number} >/{number}" for number in range(3)]
    (tmp_path / "added").write_text("added")
    lines = [f"FROM {_IMAGE}", *steps, "COPY added /folder/", "RUN rm -r /1 /srv"]
    (tmp_path / "Dockerfile").write_text("\n".join(lines))
    settled(docker)
    before, had = taken(home(docker)), trees(docker)
    docker.run("build", "--network=none", "--tag=built", tmp_path)
    settled(docker)
    assert trees(docker) == had
    assert taken(home(docker)) < before + (1 << 20)
    script = "cat /log /2 /folder/added; ls /1 /srv || true"
    said = docker.run("run", "--rm", "--network=none", "built", "sh", "-c", script)
    assert said == "0\n1\n2\n2\nadded"
    docker.run("rmi", "built")
    settled(docker)


def test_an_image_may_be_squashed(docker: Dockerd, tmp_path: Path) -> None:
    lines = [f"FROM {_IMAGE}", "RUN echo one >/one", "RUN rm /one && echo two >/two"]
    (tmp_path / "Dockerfile").write_text("\n".join(lines))
    had = trees(docker)
    docker.run("build", "--squash", "--network=none", "--tag=squashed", tmp_path)
    layers = json.loads(docker.run("inspect", "--format={{json .RootFS.Layers}}", "squashed"))
    assert len(layers) == 11
    said = docker.run(
        "run", "--rm", "--network=none", "squashed", "sh", "-c", "cat /two; ls /one || true"
    )
    assert said == "two"
    docker.run("rmi", "squashed")
    docker.run("image", "prune", "--force")
    settled(docker)
    assert trees(docker) == had


def test_an_image_is_there_after_daemon_and_plugin_were_restarted(
    both: tuple[Dockerd, Plugin], tmp_path: Path
) -> None:
    docker, plugin = both
    docker.run("create", "--name=before", _IMAGE, "true")
    before = container(docker, "before")
    docker.kill()
    plugin.kill()
    plugin.start()
    docker.start()
    assert container(docker, "before") == before
    assert docker.run("diff", "before") == ""
    docker.run("create", "--name=after", _IMAGE, "true")
    assert container(docker, "after").keys() == before.keys()
    docker.run("save", "--output", tmp_path / "saved.tar", _IMAGE)
    docker.run("rm", "before", "after")
    settled(docker)


def container(docker: Dockerd, name: str) -> dict[bytes, Facts]:
    return dict(tree(docker.layer(name)))


@pytest.mark.parametrize(
    ("call", "number", "before"),
    [
        ("create_difference", 4, True),
        ("create_difference", 4, False),
        ("apply", 5, True),
        ("apply, half", 5, False),
        ("apply", 5, False),
    ],
)
def test_a_plugin_killed_amid_a_load_leaves_layers_that_are_whole(
    both: tuple[Dockerd, Plugin], archive: Path, call: str, number: int, before: bool
) -> None:
    docker, plugin = both
    id = docker.run("inspect", "--format={{.Id}}", _IMAGE)
    docker.run("rmi", _IMAGE)
    plugin.stop()
    plugin.program = dying(call, number, before=before)
    plugin.start()
    command = docker.command("load", "--input", archive)
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=docker.environment()) as loading:
        wait_until(lambda: has_ended(plugin))
        plugin.kill()
        plugin.program = Plugin.program
        plugin.start()
        loading.communicate(timeout=60)
    assert loading.returncode != 0
    settled(docker)
    docker.run("load", "--input", archive)
    assert docker.run("inspect", "--format={{.Id}}", _IMAGE) == id
    settled(docker)


@pytest.mark.parametrize("before", [True, False])
def test_a_plugin_killed_amid_a_removal_leaves_no_layer(
    both: tuple[Dockerd, Plugin], archive: Path, before: bool
) -> None:
    docker, plugin = both
    plugin.stop()
    plugin.program = dying("remove", 3, before=before)
    plugin.start()
    command = docker.command("rmi", _IMAGE)
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=docker.environment()) as removing:
        wait_until(lambda: has_ended(plugin))
        plugin.kill()
        plugin.program = Plugin.program
        plugin.start()
        removing.communicate(timeout=60)
    docker.stop()  # which removes what it could not, and leaves what is below
    docker.start()
    docker.run("load", "--input", archive)
    docker.run("run", "--rm", "--network=none", _IMAGE, "true")
    docker.run("rmi", _IMAGE)
    settled(docker)
    assert trees(docker) == set()
    assert os.listdir(home(docker) / "differences") == []
    docker.run("load", "--input", archive)


def has_ended(plugin: Plugin) -> bool:
    """Whether its process has ended, and is only waited for."""
    told = Path(f"/proc/{plugin.pid}/stat").read_text().rpartition(")")[2]
    return told.split()[0] == "Z"


def test_nothing_went_wrong_unseen(both: tuple[Dockerd, Plugin]) -> None:
    log = both[1].log.read_text()
    assert "a mistake in reflayer" not in log
    assert "Traceback" not in log
