"""Images come out of registries: real ones that skopeo filled, and made ones."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reflayer import Store
from reflayer.errors import ImageError, ReflayerError, StoreError
from reflayer.images.content.blob_store import BlobStore
from reflayer.images.content.source import LayerBlobs
from reflayer.images.content.transfer import StoppedError
from reflayer.images.model.image import Image
from reflayer.images.model.reference import parse_reference
from reflayer.images.registry import Access, RegistrySource
from reflayer.images.registry.retry import Waits, seconds_to_wait
from tests.archive.tars import entry, tar
from tests.cli.processes import PROGRAM
from tests.file_systems import mounted, require
from tests.images.layouts import DOCKER_LIST, INDEX, Layout, on, sha256
from tests.registry.registries import Registry
from tests.registry.silly import Answer, Request, Silly, part_of, serving
from tests.store.stores import BASE, MORE, MOST, assert_clean, layers_in, names_in, reflayer
from tests.trees import assert_same, facts


def noise(size: int) -> bytes:
    """Data that does not compress."""
    return random.Random(size).randbytes(size)


def copy_in(layout: Path, tag: str, registry: Registry, name: str, *options: str) -> None:
    """Have skopeo bring an image of a layout into a registry."""
    require("skopeo")
    source, destination = f"oci:{layout}:{tag}", f"docker://{registry.host}/{name}"
    command = ["skopeo", "copy", "-q", "--dest-tls-verify=false", *options]
    subprocess.run([*command, source, destination], check=True, capture_output=True)


@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
def test_an_image_that_skopeo_brought_is_the_same_tree(
    base: Path, root: Path, registry: Registry, docker: bool
) -> None:
    layout = Layout(base / "image")
    layout.index(latest=layout.image(BASE, MORE, MOST))
    name = f"same/{'docker' if docker else 'oci'}"
    copy_in(
        layout.folder, "latest", registry, f"{name}:1", *(["--format", "v2s2"] if docker else [])
    )
    store = Store(root)
    container = store.create(f"{registry.host}/{name}:1")
    other = Store(base / "other").create(f"oci:{layout.folder}:latest")
    assert_same(facts(Path(container.path), atime=False), facts(Path(other.path), atime=False))
    assert container.image == f"{registry.host}/{name}:1"
    assert_clean(root)


def test_what_is_pulled_is_not_asked_for_again(root: Path, silly: Silly) -> None:
    silly.image(BASE)
    store = Store(root)
    image = store.pull(f"{silly.host}/x")
    assert image.names == (f"{silly.host}/x:latest",)
    assert [one.id for one in store.images()] == [image.id]
    assert layers_in(root) == {image.layer}
    asked = len(silly.requests)
    container = store.create(f"{silly.host}/x")
    assert names_in(container.path) == {"bin", "etc"}
    store.create(image.id)
    store.create(f"docker://{silly.host}/x:latest", pull="never")
    assert len(silly.requests) == asked
    store.create(f"{silly.host}/x", pull="always")
    assert len(silly.seen("GET", "/manifests/")) == 2
    assert len(silly.seen("GET", "/blobs/")) == 2
    assert_clean(root)


def test_a_tag_that_has_moved_is_pulled_anew(root: Path, silly: Silly) -> None:
    silly.image(BASE)
    store = Store(root)
    first = store.pull(f"{silly.host}/x")
    silly.image(BASE, MORE)
    second = store.pull(f"{silly.host}/x")
    assert first.id != second.id
    assert [one.id for one in store.images()] == [second.id]
    assert_clean(root)


def test_a_container_of_what_a_tag_was_before_is_listed_by_the_images_id(
    root: Path, silly: Silly
) -> None:
    name = f"{silly.host}/x:latest"
    silly.image(BASE)
    store = Store(root)
    old = store.create(name.removesuffix(":latest"), name="old")
    digest = sha256(silly.manifests["latest"][1])
    pinned = store.create(f"{name}@{digest}", name="pinned")
    by_id = store.create(old.image_id[:20], name="by-id")
    assert {one.image for one in store.containers()} == {name, pinned.image, by_id.image_id}
    silly.image(BASE, MORE)
    store.create(name, pull="always", name="new")
    images = {one.name: one.image for one in store.containers()}
    assert images == {
        "new": name,
        "old": old.image_id,
        "pinned": f"{name}@{digest}",
        "by-id": old.image_id,
    }
    told = {line.split()[1]: line.split()[2] for line in listed(root)[1:]}
    assert (told["new"], told["old"]) == (name, old.image_id[7:19])


def listed(root: Path) -> list[str]:
    """What ``reflayer ps`` prints, by lines."""
    return reflayer(root, "ps").stdout.splitlines()


def test_never_asks_nobody(root: Path, silly: Silly) -> None:
    silly.image(BASE)
    with pytest.raises(StoreError, match="no such image in the store"):
        Store(root).create(f"{silly.host}/x", pull="never")
    assert silly.requests == []


def test_a_registry_may_send_us_on_from_its_first_page(root: Path, silly: Silly) -> None:
    silly.image(BASE)
    moved = Answer(302, headers={"Location": "http://localhost:1/v2/"})
    silly.handlers.append(lambda request: moved if request.path == "/v2/" else None)
    Store(root).pull(f"{silly.host}/x")


@pytest.mark.parametrize("list_type", [INDEX, DOCKER_LIST], ids=["oci", "docker"])
def test_the_platform_is_chosen(root: Path, silly: Silly, list_type: str) -> None:
    made = {}
    for architecture in ("amd64", "arm64"):
        silly.image(tar(entry(architecture)), tag=architecture)
        media_type, data = silly.manifests[architecture]
        value = json.loads(data)
        from tests.images.layouts import config

        changed = config(tar(entry(architecture)), architecture=architecture)
        value["config"] = silly._blob(changed, value["config"]["mediaType"])
        made[architecture] = on(
            silly.document(value, media_type, architecture), f"linux/{architecture}"
        )
    index = {"schemaVersion": 2, "mediaType": list_type, "manifests": list(made.values())}
    silly.document(index, list_type, "latest")
    store = Store(root)
    name = f"{silly.host}/x"
    for architecture in ("amd64", "arm64"):
        container = store.create(name, platform=f"linux/{architecture}")
        assert names_in(container.path) == {architecture}
    there = "only for linux/amd64, linux/arm64"
    with pytest.raises(
        ReflayerError, match=f"^{name}:latest has no image for linux/s390x, {there}$"
    ):
        store.pull(name, platform="linux/s390x")
    with pytest.raises(ReflayerError, match=f"^{name}:arm64 has no image for linux/s390x, only"):
        store.pull(f"{name}:arm64", platform="linux/s390x")
    digest = store.pull(f"{name}@{made['arm64']['digest']}")
    assert digest.platform == "linux/arm64"
    assert len(layers_in(root)) == 4
    assert_clean(root)


def test_a_digest_names_an_index_too(root: Path, silly: Silly) -> None:
    silly.image(BASE)
    media_type, data = silly.manifests["latest"]
    one = on({"mediaType": media_type, **_said(data)}, "linux/amd64")
    index = silly.document({"schemaVersion": 2, "manifests": [one]}, INDEX, "all")
    store = Store(root)
    name = f"{silly.host}/x:all@{index['digest']}"
    store.create(name, platform="linux/amd64")
    asked = len(silly.requests)
    store.create(name)
    assert len(silly.requests) == asked
    store.remove_container(store.containers()[0].name)
    store.remove_container(store.containers()[0].name)
    assert store.remove_image(name) is not None
    assert_clean(root)


def _said(data: bytes) -> dict[str, object]:
    from tests.images.layouts import sha256

    return {"digest": sha256(data), "size": len(data)}


def test_a_broken_connection_is_taken_up_where_it_broke_off(root: Path, silly: Silly) -> None:
    (layer,) = silly.image(tar(entry("noise", noise(5 << 20))))
    data = silly.blobs[layer]
    cut = 3 << 20
    silly.on("GET", layer, Answer(body=data, cut=cut))
    container = Store(root).create(f"{silly.host}/x")
    assert Path(container.path, "noise").read_bytes() == noise(5 << 20)
    first, second = silly.seen("GET", layer)
    assert "range" not in first.headers
    assert second.headers["range"] == f"bytes={cut}-"
    assert_clean(root)


def test_a_server_that_knows_no_ranges_sends_it_all_again(root: Path, silly: Silly) -> None:
    (layer,) = silly.image(tar(entry("noise", noise(3 << 20))))
    data = silly.blobs[layer]
    silly.on("GET", layer, Answer(body=data, cut=2 << 20), Answer(body=data))
    container = Store(root).create(f"{silly.host}/x")
    assert Path(container.path, "noise").read_bytes() == noise(3 << 20)
    assert len(silly.seen("GET", layer)) == 2


@pytest.mark.parametrize("answer", [416, 400, 403, 405, 501, "another", "less", "encoded"])
def test_who_gives_no_ranges_is_asked_for_all_of_it(
    root: Path, silly: Silly, answer: int | str
) -> None:
    (layer,) = silly.image(tar(entry("noise", noise(3 << 20))))
    data = silly.blobs[layer]
    size, cut = len(data), 1 << 20

    def refuse(request: Request) -> Answer | None:
        if layer not in request.path or "range" not in request.headers:
            return None
        told = {"Content-Range": f"bytes {cut}-{size - 1}/{size}"}
        match answer:
            case "another":
                return Answer(206, data, {"Content-Range": f"bytes 0-{size - 1}/{size}"})
            case "less":
                return Answer(
                    206, data[cut:-1], {"Content-Range": f"bytes {cut}-{size - 2}/{size}"}
                )
            case "encoded":
                rest = {**told, "Content-Encoding": "gzip"}
                return Answer(206, gzip.compress(data[cut:]), rest)
            case status:
                return Answer(int(status))

    silly.handlers.append(refuse)
    broken = Answer(body=data, cut=cut)
    silly.on("GET", layer, broken, broken, Answer(404))
    store = Store(root)
    with pytest.raises(ReflayerError, match="404"):
        store.pull(f"{silly.host}/x")
    container = store.create(f"{silly.host}/x")
    assert Path(container.path, "noise").read_bytes() == noise(3 << 20)
    assert len(silly.seen("GET", layer)) == 6


@pytest.mark.parametrize("part", ["/manifests/", "/blobs/"])
@pytest.mark.parametrize("how", ["gzip", "deflate", "aws-chunked", "gzip, though it is not"])
def test_what_was_compressed_on_the_way_is_what_it_was_before(
    root: Path, silly: Silly, part: str, how: str
) -> None:
    """A store that says so of what it keeps compressed, or keeps as it is, sends it as it is."""
    silly.image(BASE, MORE)

    def compress(request: Request) -> Answer | None:
        usual = silly.usual(request)
        if part not in request.path:
            return usual
        body = usual.body
        if how in ("gzip", "deflate"):
            body = gzip.compress(body) if how == "gzip" else zlib.compress(body)
        said = {"Content-Encoding": how.partition(",")[0]}
        return Answer(usual.status, body, {**usual.headers, **said})

    silly.handlers.append(compress)
    container = Store(root).create(f"{silly.host}/x")
    assert names_in(container.path) == {"bin", "etc"}


def test_a_document_that_is_cut_short_is_asked_for_again(root: Path, silly: Silly) -> None:
    silly.image(BASE)
    media_type, data = silly.manifests["latest"]
    cut = Answer(body=data, cut=len(data) - 1, headers={"Content-Type": media_type})
    silly.on("GET", "/manifests/", cut)
    Store(root).pull(f"{silly.host}/x")
    assert len(silly.seen("GET", "/manifests/")) == 2


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 522])
@pytest.mark.parametrize("part", ["/v2/", "/manifests/", "/blobs/"])
def test_a_busy_registry_is_asked_again_when_it_says(
    root: Path, silly: Silly, status: int, part: str
) -> None:
    silly.image(BASE)
    silly.on("GET", part, *[Answer(status, headers={"Retry-After": "0"})] * 3)
    Store(root).pull(f"{silly.host}/x")
    assert_clean(root)


def test_for_how_long_a_registry_is_waited_for_is_told(root: Path, silly: Silly) -> None:
    silly.image(BASE)
    later = [Answer(503, headers={"Retry-After": text}) for text in ("0.1", "1.6")]
    silly.on("GET", "/manifests/", *later)
    told: list[str] = []
    Store(root).pull(f"{silly.host}/x", warn=told.append)
    (line,) = told  # and not of the first, which nobody notices
    assert line.endswith(" cannot be had: 503 Service Unavailable: once more in 2 seconds")


def test_the_command_tells_for_how_long_it_waits(root: Path, silly: Silly) -> None:
    silly.image(BASE)
    later = [Answer(429, headers={"Retry-After": "1.6"})] * 2
    silly.on("GET", "/manifests/", *later)
    done = reflayer(root, "pull", f"{silly.host}/x")
    assert done.returncode == 0
    assert done.stderr.count(": 429 Too Many Requests: once more in 2 seconds\n") == 2
    silly.on("GET", "/manifests/", later[0])
    done = reflayer(root, "--quiet", "pull", f"{silly.host}/x")
    assert (done.stderr, done.returncode) == ("", 0)


def test_of_waits_side_by_side_the_longest_is_told() -> None:
    told: list[str] = []
    waits = Waits(threading.Event(), told.append)
    waits.stop.set()  # so that none takes its time
    for seconds in (5, 3, 4, 9):
        with pytest.raises(StoppedError):
            waits.wait("busy", seconds)
    assert told == ["busy: once more in 5 seconds", "busy: once more in 9 seconds"]


def test_a_registry_that_wants_us_to_wait_for_ever_is_given_up(root: Path, silly: Silly) -> None:
    silly.image(BASE)
    silly.always("GET", "/manifests/", Answer(429, headers={"Retry-After": "86400"}))
    with pytest.raises(ReflayerError, match="429 Too Many Requests: it asks to wait 86400 seconds"):
        Store(root).pull(f"{silly.host}/x")
    assert len(silly.seen("GET", "/manifests/")) == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7),
        (" 1.5 ", 1.5),
        ("-1", 0),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 4102444800 - 1.8e9),
        ("Mon, 01 Jan 0001 00:00:00 -0000", 0),
        ("Mon, 01 Jan 99999 00:00:00 GMT", None),
        ("soon", None),
        (None, None),
    ],
)
def test_how_long_to_wait_is_read_in_all_its_forms(
    monkeypatch: pytest.MonkeyPatch, text: str | None, seconds: float | None
) -> None:
    monkeypatch.setattr("time.time", lambda: 1.8e9)
    assert seconds_to_wait(text) == seconds


def test_a_registry_that_stays_busy_is_given_up(root: Path, silly: Silly) -> None:
    silly.image(BASE)
    silly.always("GET", "/manifests/", Answer(503, headers={"Retry-After": "0"}))
    with pytest.raises(ReflayerError, match="503 Service Unavailable"):
        Store(root).pull(f"{silly.host}/x")
    assert len(silly.seen("GET", "/manifests/")) == 5


def test_a_failed_pull_leaves_what_it_has_for_the_next(root: Path, silly: Silly) -> None:
    layers = silly.image(tar(entry("a", noise(2 << 20))), tar(entry("b", noise(3 << 20))))
    silly.on("GET", layers[1], Answer(body=silly.blobs[layers[1]], cut=1 << 20), Answer(404))
    store = Store(root)
    with pytest.raises(ReflayerError, match="404"):
        store.pull(f"{silly.host}/x")
    assert store.images() == []
    assert layers_in(root) == set()
    assert_clean(root)
    container = store.create(f"{silly.host}/x")
    assert names_in(container.path) == {"a", "b"}
    assert silly.seen("GET", layers[1])[-1].headers["range"] == f"bytes={1 << 20}-"
    assert names_in(root / "content/ingest") == set()
    assert_clean(root)


def test_a_killed_pull_leaves_what_it_has_for_the_next(root: Path, silly: Silly) -> None:
    (layer,) = silly.image(tar(entry("noise", noise(8 << 20))))
    data = silly.blobs[layer]
    go_on = threading.Event()

    def stall(request: Request) -> Answer | None:
        if layer in request.path and not go_on.is_set():
            threading.Timer(0.5, go_on.set).start()
            return Answer(body=data[: 5 << 20], headers={"Content-Length": str(len(data))})
        return None

    silly.handlers.append(stall)
    pull = [*PROGRAM, "--root", str(root), "pull", f"{silly.host}/x"]
    process = subprocess.Popen(pull, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ingest = root / "content/ingest"
    while not ingest.exists() or sum(one.stat().st_size for one in ingest.iterdir()) < 5 << 20:
        time.sleep(0.02)
        assert process.poll() is None
    process.kill()
    process.wait()
    go_on.wait()
    Store(root).create(f"{silly.host}/x")
    assert silly.seen("GET", layer)[-1].headers["range"] == f"bytes={5 << 20}-"
    assert_clean(root)


def test_what_a_crash_spoiled_is_fetched_anew(root: Path, silly: Silly) -> None:
    (layer,) = silly.image(tar(entry("noise", noise(2 << 20))))
    silly.on("GET", layer, Answer(body=silly.blobs[layer], cut=1 << 20), Answer(404))
    store = Store(root)
    with pytest.raises(ReflayerError):
        store.pull(f"{silly.host}/x")
    (partial,) = (root / "content/ingest").iterdir()
    with open(partial, "r+b") as file:
        file.write(bytes(4096))
    container = store.create(f"{silly.host}/x")
    assert Path(container.path, "noise").read_bytes() == noise(2 << 20)
    assert "range" not in silly.seen("GET", layer)[-1].headers
    assert_clean(root)


def test_what_nobody_came_back_for_goes_after_a_day(root: Path, silly: Silly) -> None:
    (layer,) = silly.image(tar(entry("noise", noise(2 << 20))))
    silly.on("GET", layer, Answer(body=silly.blobs[layer], cut=1 << 20), Answer(404))
    store = Store(root)
    with pytest.raises(ReflayerError):
        store.pull(f"{silly.host}/x")
    (partial,) = (root / "content/ingest").iterdir()
    store.create(f"rootfs:{Path(__file__).parent}")
    assert partial.exists()
    old = time.time() - 25 * 3600
    os.utime(partial, (old, old))
    store.create(f"rootfs:{Path(__file__).parent}")
    assert not partial.exists()


def test_a_signal_ends_a_pull_that_waits(root: Path, silly: Silly) -> None:
    (layer,) = silly.image(BASE)
    waiting, go_on = threading.Event(), threading.Event()

    def stall(request: Request) -> Answer | None:
        if layer in request.path:
            waiting.set()
            go_on.wait(20)
        return None

    silly.handlers.append(stall)
    pull = [*PROGRAM, "--root", str(root), "pull", f"{silly.host}/x"]
    process = subprocess.Popen(pull, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert waiting.wait(20)
    process.send_signal(signal.SIGINT)
    out, told = process.communicate(timeout=60)  # the server answers later
    go_on.set()
    assert (process.returncode, out, told) == (130, "", "reflayer: ended by SIGINT\n")
    assert layers_in(root) == set()
    assert_clean(root)


def test_layers_come_side_by_side(root: Path, silly: Silly) -> None:
    layers = silly.image(*(tar(entry(f"f{n}", noise(1000 + n))) for n in range(3)))
    together = threading.Barrier(3, timeout=60)

    def wait(request: Request) -> Answer | None:
        if any(layer in request.path for layer in layers):
            together.wait()  # fails unless all three are asked for at once
        return None

    silly.handlers.append(wait)
    container = Store(root).create(f"{silly.host}/x")
    assert names_in(container.path) == {"f0", "f1", "f2"}


def test_a_layer_is_unpacked_while_it_comes(root: Path, silly: Silly) -> None:
    first = tar(entry("first", noise(6 << 20)), end=False) + tar(entry("last", noise(6 << 20)))
    (layer,) = silly.image(first)
    data = silly.blobs[layer]
    silly.on("GET", layer, Answer(body=data, cut=9 << 20))
    unpacked = threading.Event()

    def rest(request: Request) -> Answer | None:
        if layer in request.path and "range" in request.headers:
            assert unpacked.wait(20)
            return part_of(data, request)
        return None

    silly.handlers.append(rest)

    def told(stage: str, done: int, _: int | None) -> None:
        if stage == "unpack" and done > 4 << 20:
            unpacked.set()

    Store(root).pull(f"{silly.host}/x", progress=told)
    assert unpacked.is_set()


def test_two_processes_pull_the_same_at_once(root: Path, silly: Silly) -> None:
    layers = silly.image(*(tar(entry(f"f{n}", noise((1 << 20) + n))) for n in range(4)))
    command = [*PROGRAM, "--root", str(root), "pull", f"{silly.host}/x"]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [one.communicate(timeout=60) for one in both]
    assert [one.returncode for one in both] == [0, 0], told
    assert told[0] == told[1]
    for layer in layers:
        assert len(silly.seen("GET", layer)) == 1
    assert_clean(root)


def test_a_layer_that_is_another_ends_with_that(root: Path, silly: Silly) -> None:
    (layer,) = silly.image(tar(entry("a", noise(2 << 20))))
    silly.always("GET", layer, Answer(body=silly.blobs[layer][:-1] + b"?"))
    readers: list[str] = []

    def read(_: Image, blobs: LayerBlobs) -> None:
        assert blobs.checked
        with blobs.open(layer) as file, pytest.raises(ImageError, match="another content"):
            file.readlines()
        readers.append(layer)

    source = RegistrySource(parse_reference(f"{silly.host}/x"), Access())
    with pytest.raises(ImageError, match="another content"):
        source.fetch(BlobStore(root), None, None, read)
    assert readers == [layer]
    assert not BlobStore(root).has(layer)


@pytest.mark.parametrize("size", [10, 5 << 20])
def test_who_says_otherwise_of_a_blob_does_not_spoil_it_for_others(
    root: Path, silly: Silly, size: int
) -> None:
    first, second = silly.image(tar(entry("a", noise(2 << 20))), tar(entry("b", noise(3 << 20))))
    come, go_on = threading.Event(), threading.Event()

    def stall(request: Request) -> Answer | None:
        if second in request.path:
            assert go_on.wait(20)
        return None

    silly.handlers.append(stall)

    def told(stage: str, done: int, _: int | None) -> None:
        if stage == "unpack" and done >= len(silly.blobs[first]):
            come.set()

    with serving(Silly()) as liar:
        liar.image(tar(entry("a", noise(2 << 20))))
        media_type, data = liar.manifests["latest"]
        value = json.loads(data)
        value["layers"][0]["size"] = size
        liar.document(value, media_type, "latest")
        liar.blobs[first] = bytes(size)
        with ThreadPoolExecutor(1) as pool:
            pull = pool.submit(Store(root).pull, f"{silly.host}/x", progress=told)
            try:
                assert come.wait(20)
                with pytest.raises(ReflayerError, match=r"should have|another content"):
                    Store(root).pull(f"{liar.host}/x")
            finally:
                go_on.set()
            pull.result()
    assert sha256((root / "content/blobs" / first.replace(":", "/")).read_bytes()) == first
    assert_clean(root)


def test_progress_is_told_by_one_at_a_time_and_may_end_it(root: Path, silly: Silly) -> None:
    silly.image(*(tar(entry(f"f{n}", noise((2 << 20) + n))) for n in range(3)))
    busy = threading.Lock()
    fetched: list[tuple[int, int | None]] = []

    def told(stage: str, done: int, total: int | None) -> None:
        assert busy.acquire(blocking=False)
        if stage == "fetch":
            fetched.append((done, total))
        busy.release()

    Store(root).pull(f"{silly.host}/x", progress=told)
    assert (
        fetched[-1][0]
        == fetched[-1][1]
        == sum(
            len(data)
            for name, data in silly.blobs.items()
            if silly.seen("GET", name) and len(data) > 2000
        )
    )
    assert [done for done, _ in fetched] == sorted(done for done, _ in fetched)

    class EnoughError(Exception):
        pass

    def enough(stage: str, done: int, _: int | None) -> None:
        if stage == "fetch" and done > 1 << 20:
            raise EnoughError

    other = root.parent / "other"
    with pytest.raises(EnoughError):
        Store(other).pull(f"{silly.host}/x", progress=enough)
    assert layers_in(other) == set()
    assert_clean(other)


def test_a_full_disk_is_one_line_and_what_came_is_used_when_there_is_space(
    tmp_path: Path, silly: Silly
) -> None:
    (layer,) = silly.image(tar(entry("noise", noise(20 << 20))))
    with mounted("ext4", tmp_path / "disk", 48 << 20) as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(22 << 20))
        store = Store(disk / "store")
        with pytest.raises(ReflayerError, match="No space left on device") as caught:
            store.pull(f"{silly.host}/x")
        assert "\n" not in str(caught.value)
        assert store.images() == []
        assert layers_in(disk / "store") == set()
        left = sum(one.stat().st_size for one in (disk / "store/content/ingest").iterdir())
        assert left > 1 << 20
        ballast.unlink()
        with pytest.raises(ReflayerError, match="No space left on device"):
            store.pull(f"{silly.host}/x")  # the blob and its files are more than the disk
        assert silly.seen("GET", layer)[-1].headers["range"].startswith("bytes=")
        assert_clean(disk / "store")
