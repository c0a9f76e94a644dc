"""Large blobs go in chunks, whole where a registry wants no chunks, and on from what it kept."""

from __future__ import annotations

import signal
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from time import sleep

import pytest

from reflayer import Store
from tests.archive.tars import entry, tar
from tests.cli.processes import PROGRAM
from tests.registry.registries import Registry
from tests.registry.silly import Answer, Request, Silly
from tests.registry.test_pulling import noise
from tests.store.stores import BASE, image


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A blob need not be large to be sent in chunks."""
    monkeypatch.setattr("reflayer.images.registry.destination._CHUNK", 1 << 20)


@pytest.mark.usefixtures("small_chunks")
def test_a_large_blob_goes_in_chunks(base: Path, root: Path, registry: Registry) -> None:
    store = Store(root)
    layer = tar(entry("noise", noise(3 << 20)))
    made = store.create(image(base / "image", layer)).image
    done: list[tuple[int, int | None]] = []
    store.push(
        made,
        f"{registry.host}/large/x",
        progress=lambda stage, *amount: done.append(amount) if stage == "push" else None,
    )
    assert len(registry.requests("PATCH /v2/large")) == 3  # the last one is part of the PUT
    assert done[-1][0] == done[-1][1]
    back = Store(base / "other").create(f"{registry.host}/large/x")
    assert Path(back.path, "noise").read_bytes() == noise(3 << 20)


@pytest.fixture
def large(base: Path, root: Path) -> tuple[Store, str]:
    """A store, and an image in it whose only layer takes three chunks and a bit."""
    store = Store(root)
    return store, store.create(image(base / "image", tar(entry("x", noise(3 << 20))))).image


@pytest.mark.usefixtures("small_chunks")
def test_a_broken_upload_goes_on_from_what_is_there(large: tuple[Store, str], silly: Silly) -> None:
    store, name = large
    kept = 1 << 19
    broken: list[int] = []

    def cut(request: Request) -> Answer | None:
        if request.method != "PATCH" or broken:
            return None
        broken.append(len(request.body))
        upload = request.path.rpartition("/")[2]
        silly.uploads[upload] += request.body[:kept]
        return Answer(500, headers={"Retry-After": "0"})

    silly.handlers.append(cut)
    store.push(name, f"{silly.host}/x")
    ranges = [one.headers["content-range"] for one in silly.seen("PATCH", "/uploads/")]
    assert ranges[0].startswith("0-")
    assert ranges[1].startswith(f"{kept}-")
    assert max(map(len, silly.taken.values())) > 3 << 20
    assert len(silly.seen("GET", "/uploads/")) == 1


@pytest.mark.usefixtures("small_chunks")
def test_an_upload_that_is_lost_begins_anew(large: tuple[Store, str], silly: Silly) -> None:
    store, name = large
    silly.on("PATCH", "/uploads/", Answer(503, headers={"Retry-After": "0"}))
    silly.on("GET", "/uploads/", Answer(404))
    store.push(name, f"{silly.host}/x")
    assert len(silly.seen("POST", "/uploads/")) == 3  # the layer twice, the config
    assert max(map(len, silly.taken.values())) > 3 << 20


def assert_taken(silly: Silly) -> None:
    """The layer of ``large`` is there, and the config; it takes nothing of another digest."""
    assert len(silly.taken) == 2
    assert max(map(len, silly.taken.values())) > 3 << 20


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("status", [400, 404, 405, 411, 415, 416, 501])
def test_a_registry_that_takes_no_chunks_gets_blobs_whole(
    large: tuple[Store, str], silly: Silly, status: int
) -> None:
    store, name = large
    silly.always("PATCH", "/uploads/", Answer(status))
    store.push(name, f"{silly.host}/x")
    assert_taken(silly)
    assert len(silly.seen("PATCH", "/uploads/")) == 1


@pytest.mark.usefixtures("small_chunks")
def test_a_registry_that_takes_one_chunk_and_no_more_gets_the_blob_whole(
    large: tuple[Store, str], silly: Silly
) -> None:
    store, name = large
    silly.handlers.append(
        lambda request: (
            Answer(416)
            if request.method == "PATCH" and not request.headers["content-range"].startswith("0-")
            else None
        )
    )
    store.push(name, f"{silly.host}/x")
    assert_taken(silly)


@pytest.mark.usefixtures("small_chunks")
def test_who_refuses_one_blobs_chunks_is_asked_for_no_others(
    base: Path, root: Path, silly: Silly
) -> None:
    store = Store(root)
    layers = [tar(entry(f"f{n}", noise((3 << 20) + n))) for n in range(6)]
    made = store.create(image(base / "image", *layers)).image
    silly.always("PATCH", "/uploads/", Answer(405))
    store.push(made, f"{silly.host}/x")
    assert len(silly.seen("PATCH", "/uploads/")) <= 4  # those that were sent side by side
    assert sum(len(data) > 3 << 20 for data in silly.taken.values()) == 6


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kept", [1, 1 << 19])
def test_what_a_registry_did_not_keep_of_a_chunk_is_sent_again(
    large: tuple[Store, str], silly: Silly, kept: int
) -> None:
    store, name = large

    def keep_less(request: Request) -> Answer | None:
        if request.method != "PATCH" or len(silly.seen("PATCH", "/uploads/")) > 1:
            return None
        upload = request.path.rpartition("/")[2]
        silly.uploads[upload] += request.body[: kept + 1]
        return Answer(202, headers={"Location": request.path, "Range": f"0-{kept}"})

    silly.handlers.append(keep_less)
    store.push(name, f"{silly.host}/x")
    assert silly.seen("PATCH", "/uploads/")[1].headers["content-range"].startswith(f"{kept + 1}-")
    assert_taken(silly)


@pytest.mark.usefixtures("small_chunks")
def test_a_registry_that_keeps_nothing_of_a_chunk_gets_the_blob_whole(
    large: tuple[Store, str], silly: Silly
) -> None:
    store, name = large
    silly.handlers.append(
        lambda request: (
            Answer(202, headers={"Location": request.path, "Range": "0-0"})
            if request.method == "PATCH"
            else None
        )
    )
    store.push(name, f"{silly.host}/x")
    assert_taken(silly)


@pytest.mark.usefixtures("small_chunks")
def test_a_registry_that_keeps_all_but_tells_of_the_first_chunk_is_sent_nothing_twice(
    large: tuple[Store, str], silly: Silly
) -> None:
    store, name = large
    stale = {"Range": f"0-{(1 << 20) - 1}"}  # as Amazon's ECR has it

    def tell(request: Request) -> Answer | None:
        if request.method != "PATCH":
            return None
        usual = silly.usual(request)
        return replace(usual, headers={**usual.headers, **stale})

    silly.handlers.append(tell)
    store.push(name, f"{silly.host}/x")
    assert_taken(silly)
    assert len(silly.seen("PATCH", "/uploads/")) == 3
    assert len(silly.seen("POST", "/uploads/")) == 2  # the layer and the config, once each


@pytest.mark.usefixtures("small_chunks")
def test_the_last_chunk_completes_the_upload_and_goes_on_where_it_broke_off(
    large: tuple[Store, str], silly: Silly
) -> None:
    store, name = large
    broken: list[str] = []

    def cut(request: Request) -> Answer | None:
        if request.method != "PUT" or "content-range" not in request.headers or broken:
            return None
        broken.append(request.headers["content-range"])
        silly.uploads[request.path.rpartition("/")[2]] += request.body[:100]
        return Answer(500, headers={"Retry-After": "0"})

    silly.handlers.append(cut)
    store.push(name, f"{silly.host}/x")
    assert_taken(silly)
    assert broken[0].startswith(f"{3 << 20}-")
    (_, last) = [
        one.headers["content-range"]
        for one in silly.seen("PUT", "/uploads/")
        if "content-range" in one.headers
    ]
    assert last.startswith(f"{(3 << 20) + 100}-")
    assert len(silly.seen("PATCH", "/uploads/")) == 3


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    ("least", "chunks"),
    [
        (str(2500 << 10), [2500 << 10]),
        ("1", [1 << 20] * 3),
        ("9" * 19, []),
        ("9" * 400, [1 << 20] * 3),
        ("-5", [1 << 20] * 3),
        ("many", [1 << 20] * 3),
    ],
)
def test_chunks_are_as_large_as_a_registry_wants_them_at_least(
    large: tuple[Store, str], silly: Silly, least: str, chunks: list[int]
) -> None:
    store, name = large

    def want(request: Request) -> Answer | None:
        if request.method != "POST":
            return None
        usual = silly.usual(request)
        return replace(usual, headers={**usual.headers, "OCI-Chunk-Min-Length": least})

    silly.handlers.append(want)
    store.push(name, f"{silly.host}/x")
    assert_taken(silly)
    assert [len(one.body) for one in silly.seen("PATCH", "/uploads/")] == chunks


@pytest.mark.parametrize(
    "location",
    ["{}", "./{}?_state=a%2Fb%3D&x", "/v2/x/blobs/uploads/{}?y", "//{host}/v2/x/blobs/uploads/{}"],
)
@pytest.mark.usefixtures("small_chunks")
def test_an_upload_goes_to_where_the_registry_says(
    large: tuple[Store, str], silly: Silly, location: str
) -> None:
    store, name = large

    def tell(request: Request) -> Answer | None:
        if request.method not in ("POST", "PATCH"):
            return None
        usual = silly.usual(request)
        upload = usual.headers["Location"].rpartition("/")[2].partition("?")[0]
        there = location.format(upload, host=silly.host)
        return replace(
            usual, headers={**usual.headers, "Location": there, "Docker-Upload-UUID": "x"}
        )

    silly.handlers.append(tell)
    store.push(name, f"{silly.host}/x")
    assert_taken(silly)
    _, mark, query = location.partition("?")
    for request in silly.seen("PUT", "/uploads/"):
        assert request.query.startswith(f"{query}&digest=sha256%3A" if mark else "digest=sha256%3A")


def test_a_registry_that_puts_a_blob_together_slowly_is_waited_for(
    base: Path, root: Path, silly: Silly, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reflayer.images.registry.transport._SILENCE", 1.0)
    store = Store(root)
    made = store.create(image(base / "image", BASE)).image
    silly.handlers.append(
        lambda request: (
            sleep(1.5) if (request.method, "/uploads/" in request.path) == ("PUT", True) else None
        )
    )
    store.push(made, f"{silly.host}/x")
    assert len(silly.seen("PUT", "/uploads/")) == 2  # the layer and the config, once each


def test_a_registry_that_takes_a_blob_slowly_is_waited_for(
    base: Path, root: Path, silly: Silly, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reflayer.images.registry.transport._CONNECTING", 0.4)
    store = Store(root)
    layer = tar(entry("x", noise(16 << 20)))  # more than the kernel keeps for both ends
    made = store.create(image(base / "image", layer)).image
    silly.pause = 1.0
    store.push(made, f"{silly.host}/x")
    assert len(silly.seen("POST", "/uploads/")) == 2  # the layer and the config, once each


def test_a_signal_ends_a_push_that_waits(base: Path, root: Path, silly: Silly) -> None:
    made = Store(root).create(image(base / "image", BASE)).image
    waiting, go_on = threading.Event(), threading.Event()

    def stall(request: Request) -> Answer | None:
        if request.method == "PUT" and "/uploads/" in request.path:
            waiting.set()
            go_on.wait(20)
        return None

    silly.handlers.append(stall)
    push = [*PROGRAM, "--root", str(root), "push", made, f"{silly.host}/x"]
    process = subprocess.Popen(push, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert waiting.wait(20)
    process.send_signal(signal.SIGINT)
    out, told = process.communicate(timeout=60)  # the server answers later
    go_on.set()
    assert (process.returncode, out, told) == (130, "", "reflayer: ended by SIGINT\n")


@pytest.mark.usefixtures("small_chunks")
def test_a_registry_that_refuses_a_chunk_before_it_has_read_it_is_understood(
    large: tuple[Store, str], silly: Silly
) -> None:
    store, name = large
    silly.hasty["PATCH"] = Answer(405)
    store.push(name, f"{silly.host}/x")
    assert_taken(silly)
