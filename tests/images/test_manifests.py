"""Manifests, indexes and configs: the right image is found, and what is wrong is said."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflayer.errors import ImageError, OperationError
from reflayer.images.content.blob_store import BlobStore
from reflayer.images.content.resolve import find_image
from reflayer.images.model.descriptor import Descriptor
from reflayer.images.model.document import Document
from reflayer.images.model.image import Image
from reflayer.images.model.platform import Platform
from reflayer.images.transports import open_source
from tests.images.layouts import (
    CONFIG,
    DOCKER_MANIFEST,
    INDEX,
    LAYER,
    MANIFEST,
    Json,
    Layout,
    config,
    layer,
    on,
    sha256,
)

ONE, TWO = layer("one"), layer("two")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


@pytest.fixture
def content(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "content")


def fetch(layout: Layout, content: BlobStore, platform: str | None = None) -> Image:
    source = open_source(f"oci:{layout.folder}")
    wanted = Platform.parse(platform) if platform else None
    return source.fetch(content, wanted, None)[0]  # type: ignore[union-attr]


@pytest.mark.parametrize("docker", [False, True])
def test_an_image_is_all_of_its_digests(docker: bool, layout: Layout, content: BlobStore) -> None:
    manifest = layout.image(ONE, TWO, docker=docker, created="2024-05-06T07:08:09Z")
    layout.index(manifest)

    image = fetch(layout, content)

    assert image.manifest.digest == manifest["digest"]
    assert image.id == image.config.digest == sha256(config(ONE, TWO, created=image.created))
    assert image.diff_ids == (sha256(ONE), sha256(TWO))
    assert image.chain_ids == (
        sha256(ONE),
        sha256(f"{sha256(ONE)} {sha256(TWO)}".encode()),
    )
    assert image.platform == Platform("linux", "amd64")
    assert image.created == "2024-05-06T07:08:09Z"
    blobs = {image.manifest, image.config, *image.layers}
    assert set(content.digests()) == {blob.digest for blob in blobs}
    for blob in blobs:
        assert content.size(blob.digest) == blob.size


def test_an_image_may_have_no_layers(layout: Layout, content: BlobStore) -> None:
    layout.index(layout.image())
    assert fetch(layout, content).chain_ids == ()


def test_the_same_layer_may_be_there_twice(layout: Layout, content: BlobStore) -> None:
    layout.index(layout.image(ONE, TWO, ONE))
    image = fetch(layout, content)
    assert image.layers[0] == image.layers[2]
    assert len(set(image.chain_ids)) == 3


@pytest.mark.parametrize("docker", [False, True])
@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("linux/amd64", "amd64"),
        ("linux/arm64", "arm64"),
        ("linux/arm64/v8", "arm64"),
        ("linux/arm/v7", "arm"),
        ("linux/arm/v8", "arm"),
        ("linux/s390x", "s390x"),
    ],
)
def test_an_index_gives_the_image_for_the_platform(
    docker: bool, wanted: str, chosen: str, layout: Layout, content: BlobStore
) -> None:
    images = {name: layout.image(ONE, architecture=name) for name in ("amd64", "arm", "arm64")}
    s390x = layout.list(on(layout.image(ONE, architecture="s390x"), "linux/s390x"), docker=docker)
    index = layout.list(
        on(images["arm"], "linux/arm/v6"),
        on(images["arm64"], "linux/arm64/v8"),
        on(layout.image(TWO), "unknown/unknown"),
        s390x,
        on(images["amd64"], "linux/amd64"),
        docker=docker,
    )
    layout.index(index)

    assert fetch(layout, content, wanted).platform.architecture == chosen


def test_without_a_platform_an_index_gives_the_image_for_this_machine(
    layout: Layout, content: BlobStore
) -> None:
    here = Platform.of_machine()
    other = layout.image(TWO, architecture="z80")
    mine = layout.image(ONE, architecture=here.architecture)
    layout.index(layout.list(on(other, "linux/z80"), on(mine, str(here))))
    assert fetch(layout, content).diff_ids == (sha256(ONE),)


def test_the_platform_of_an_image_that_is_listed_without_one_is_in_its_config(
    layout: Layout, content: BlobStore
) -> None:
    images = [layout.image(ONE, architecture=name) for name in ("arm64", "s390x", "riscv64")]
    layout.index(layout.list(*images))
    assert str(fetch(layout, content, "linux/s390x").platform) == "linux/s390x"


def test_the_platforms_that_there_are_are_listed(layout: Layout, content: BlobStore) -> None:
    image = layout.image(ONE)
    layout.index(
        layout.list(
            on(image, "linux/arm64"), on(image, "linux/amd64"), on(image, "unknown/unknown")
        )
    )
    with pytest.raises(ImageError, match=r"for linux/s390x, only for linux/amd64, linux/arm64$"):
        fetch(layout, content, "linux/s390x")


def test_an_image_for_another_platform_is_refused_only_where_one_was_asked_for(
    layout: Layout, content: BlobStore
) -> None:
    layout.index(layout.image(ONE, architecture="s390x"))
    assert fetch(layout, content).platform.architecture == "s390x"
    with pytest.raises(ImageError, match="for linux/arm64, only for linux/s390x"):
        fetch(layout, content, "linux/arm64")


@pytest.mark.parametrize(
    "media_type",
    ["application/octet-stream", "application/json", "text/html", "", CONFIG.upper() + "; q=1"],
)
def test_a_config_is_one_by_what_is_in_it(
    media_type: str, layout: Layout, content: BlobStore
) -> None:
    layout.index(with_config(layout, config(ONE), media_type))
    assert fetch(layout, content).diff_ids == (sha256(ONE),)


@pytest.mark.parametrize(
    "media_type",
    [
        f"{LAYER}+xz",
        "application/vnd.docker.image.rootfs.diff.tar.gz",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "text/plain",
        "",
    ],
)
def test_a_layer_is_one_whatever_its_media_type(
    media_type: str, layout: Layout, content: BlobStore
) -> None:
    layout.index(manifest(layout, layers=[layout.blob(ONE, media_type)]))
    assert fetch(layout, content).layers[0].digest == sha256(ONE)


@pytest.mark.parametrize("changes", [{"mediaType": None}, {"mediaType": DOCKER_MANIFEST}])
@pytest.mark.parametrize("listed", ["", "application/json", MANIFEST, MANIFEST.upper()])
def test_a_manifest_is_one_by_what_is_in_it(
    changes: Json, listed: str, layout: Layout, content: BlobStore
) -> None:
    layout.index(layout.list({**manifest(layout, **changes), "mediaType": listed}))
    image = fetch(layout, content, "linux/amd64")
    assert image.diff_ids == (sha256(ONE),)
    assert image.manifest.media_type == (changes["mediaType"] or MANIFEST)


@pytest.mark.parametrize("architecture", ["", None])
def test_what_a_config_does_not_say_the_index_or_else_this_machine_does(
    architecture: str | None, layout: Layout, content: BlobStore
) -> None:
    silent = with_config(layout, config(ONE, architecture=architecture))  # type: ignore[arg-type]
    layout.index(silent)
    assert fetch(layout, content).platform == Platform.of_machine()
    assert str(fetch(layout, content, "linux/s390x").platform) == "linux/s390x"
    for top in (on(silent, "linux/z80"), layout.list(on(silent, "linux/z80"))):
        layout.index(top)
        assert str(fetch(layout, content, "linux/z80").platform) == "linux/z80"
        with pytest.raises(ImageError, match="only for linux/z80"):
            fetch(layout, content, "linux/amd64")


def test_a_config_may_have_other_characters_than_unicode(
    layout: Layout, content: BlobStore
) -> None:
    data = config(ONE, author="?", config={"Labels": {"a": "#", "b": "\\ud83d", "c": "\U0001f600"}})
    data = data.replace(b"?", b"N\xf6ther").replace(b"#", rb"\ud83d \\ud83d \ud83d\ude00 \udead")
    layout.index(with_config(layout, data))
    image = fetch(layout, content)
    assert content.open(image.id).read() == data
    fields = Document.parse(data, "the config").fields
    assert fields["author"] == "N\ufffdther"
    assert fields["config"] == {
        "Labels": {"a": "\ufffd \\ud83d \U0001f600 \ufffd", "b": "\\ud83d", "c": "\U0001f600"}
    }


OTHERS: dict[str, Callable[[Layout], Json]] = {
    "application/vnd.example.signature": lambda it: it.signature("{}"),
    "application/vnd.x.config": lambda it: it.signature('{"a": 1}', "application/vnd.x.config"),
    "application/vnd.x.binary": lambda it: it.signature("\0", "application/vnd.x.binary"),
    "application/octet-stream": lambda it: it.signature("\0", "application/octet-stream"),
    "unknown": lambda it: it.signature("{}", CONFIG),
    "application/vnd.in-toto+json": lambda it: manifest(
        it, layers=[it.blob(b"{}", "application/vnd.in-toto+json")]
    ),
    "application/vnd.oci.artifact.manifest.v1+json": lambda it: it.document(
        {"blobs": []}, "application/vnd.oci.artifact.manifest.v1+json"
    ),
    "application/vnd.x": lambda it: it.blob(b"no manifest", "application/vnd.x"),
    "text/plain": lambda it: it.blob(b"no manifest", "text/plain"),
    "application/json": lambda it: it.blob(bytes((4 << 20) + 1), "application/json"),
    "application/y": lambda it: it.document({"mediaType": "application/y"}, ""),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("platform", [None, "linux/amd64"])
def test_what_is_no_image_is_passed_over(
    kind: str, platform: str | None, layout: Layout, content: BlobStore
) -> None:
    image, other = layout.image(ONE), OTHERS[kind](layout)
    if platform:
        image, other = on(image, platform), on(other, platform)
    for order in ((image, other), (other, image)):
        layout.index(layout.list(*order))
        assert fetch(layout, content, "linux/amd64").diff_ids == (sha256(ONE),)
    layout.index(layout.list(other, on(layout.image(TWO), "linux/z80")))
    reason = f"for linux/amd64, only for linux/z80; beside that is: {re.escape(kind)}$"
    with pytest.raises(ImageError, match=reason):
        fetch(layout, content, "linux/amd64")


def test_an_image_that_demands_more_of_the_system_is_for_another_platform(
    layout: Layout, content: BlobStore
) -> None:
    other, image = on(layout.image(TWO), "linux/amd64"), on(layout.image(ONE), "linux/amd64")
    other["platform"]["os.features"] = ["erofs"]  # type: ignore[index]
    layout.index(layout.list(other, image))
    assert fetch(layout, content, "linux/amd64").diff_ids == (sha256(ONE),)
    layout.index(layout.list(other))
    with pytest.raises(ImageError, match=r"for linux/amd64, only for linux\(\+erofs\)/amd64$"):
        fetch(layout, content, "linux/amd64")
    hidden = layout.image(TWO, **{"os.features": ["erofs"]})  # type: ignore[arg-type]
    layout.index(layout.list(hidden, layout.image(ONE)))
    assert fetch(layout, content, "linux/amd64").diff_ids == (sha256(ONE),)


def test_a_search_ends(layout: Layout, content: BlobStore) -> None:
    images = [layout.image(architecture="z80", created=str(number)) for number in range(300)]
    layout.index(layout.list(*images))
    with pytest.raises(ImageError, match="leads to more than 500 manifests and configs"):
        fetch(layout, content, "linux/amd64")
    layout.index(layout.list(*(on(one, f"linux/z{n}") for n, one in enumerate(images))))
    with pytest.raises(ImageError, match=r"linux/z1, .* and 290 more$"):
        fetch(layout, content, "linux/amd64")


def test_an_index_that_holds_itself_many_times_ends(layout: Layout, content: BlobStore) -> None:
    inner = layout.list(on(layout.image(ONE), "linux/z80"))
    for _ in range(7):
        inner = layout.list(*[inner] * 50)
    layout.index(inner)
    with pytest.raises(ImageError, match="only for linux/z80"):
        fetch(layout, content, "linux/amd64")
    layout.index(layout.list(layout.list(layout.list(inner))))
    with pytest.raises(ImageError, match="within one another"):
        fetch(layout, content, "linux/amd64")


def manifest(layout: Layout, **changes: object) -> Json:
    """The manifest's descriptor of a right image but for ``changes`` in the manifest."""
    value = json.loads(layout.path(layout.image(ONE)).read_bytes())
    return layout.document({**value, **changes}, MANIFEST)


def with_config(layout: Layout, data: bytes, media_type: str = CONFIG) -> Json:
    """The manifest's descriptor of an image with this config."""
    return manifest(layout, config=layout.blob(data, media_type))


WRONG: dict[str, Callable[[Layout], Json]] = {
    "schema 1": lambda it: it.document({"schemaVersion": 1}, MANIFEST),
    "schema 1, ": lambda it: it.document({"fsLayers": [], "history": []}, MANIFEST),
    "schema 1 ": lambda it: it.document(
        {"schemaVersion": 1}, "application/vnd.docker.distribution.manifest.v1+prettyjws"
    ),
    "unknown media type application/x": lambda it: it.document({}, "application/x"),
    "but application/vnd.oci.image.manifest": lambda it: manifest(it, mediaType=INDEX),
    "two kinds at once": lambda it: manifest(it, manifests=[]),
    "no 'config'": lambda it: manifest(it, config=None),
    "artefact: application/vnd.cncf.helm": lambda it: with_config(
        it, b"{}", "application/vnd.cncf.helm.config.v1+json"
    ),
    "artefact: application/x.y": lambda it: manifest(
        it,
        artifactType="application/x.y",
        config=it.blob(b"{}", "application/vnd.oci.empty.v1+json"),
    ),
    "no 'rootfs'": lambda it: with_config(it, b"{}"),
    "not JSON": lambda it: with_config(it, b"{"),
    "not JSON: Expecting ':'": lambda it: with_config(it, b'{"\xff"}'),
    "not JSON: max": lambda it: with_config(it, b"[" * 100_000),
    "not JSON: Infinity": lambda it: with_config(it, b'{"a": Infinity}'),
    "not JSON: Exceeds": lambda it: with_config(it, b'{"a": %s}' % (b"1" * 5000)),
    "not a JSON object": lambda it: with_config(it, b"[]"),
    "1 layers, but its config has 2": lambda it: with_config(it, config(ONE, TWO)),
    "is not a sha256 or sha512 digest": lambda it: with_config(
        it, config(rootfs={"type": "layers", "diff_ids": ["sha256:../../../etc/passwd"]})
    ),
    "has 501 layers": lambda it: manifest(it, layers=[it.blob(ONE, LAYER)] * 501),
    "artefact: application/vnd.in-toto+json": lambda it: manifest(
        it, layers=[it.blob(ONE, "application/vnd.in-toto+json")]
    ),
    "is encrypted": lambda it: manifest(it, layers=[it.blob(ONE, f"{LAYER}+gzip+encrypted")]),
    "'layers' that is not a list": lambda it: manifest(it, layers={}),
    "something else than objects": lambda it: manifest(it, layers=["x"]),
    "no proper size": lambda it: manifest(it, layers=[{**it.blob(ONE, LAYER), "size": -1}]),
    "'size' that is not a whole number": lambda it: manifest(
        it, layers=[{**it.blob(ONE, LAYER), "size": True}]
    ),
    "it may have": lambda it: {**it.image(ONE), "size": (4 << 20) + 1},
    "may have": lambda it: manifest(it, config={**it.blob(b"", CONFIG), "size": (8 << 20) + 1}),
    "but should have 7": lambda it: {**it.image(ONE), "size": 7},
    "bytes, but should have 999": lambda it: {**it.image(ONE), "size": 999},
    "is missing from": lambda it: {**it.image(ONE), "digest": sha256(b"not there")},
}  # fmt: skip


@pytest.mark.parametrize("reason", WRONG)
def test_what_is_wrong_is_said(reason: str, layout: Layout, content: BlobStore) -> None:
    layout.index(WRONG[reason](layout))
    with pytest.raises(ImageError) as caught:
        fetch(layout, content)
    assert reason.strip() in str(caught.value)
    assert str(caught.value).isprintable()
    assert list(content.digests()) == []


@pytest.mark.parametrize("what", ["layers", "config"])
@pytest.mark.parametrize("change", ["missing", "shorter", "longer", "other"])
def test_a_wrong_blob_is_an_error_that_names_it(
    what: str, change: str, layout: Layout, content: BlobStore
) -> None:
    top = layout.image(ONE, TWO)
    layout.index(top)
    value = json.loads(layout.path(top).read_bytes())
    one = value["layers"][1] if what == "layers" else value["config"]
    path = layout.path(one)
    data = path.read_bytes()
    path.unlink()
    if change != "missing":
        other = bytes([data[0] ^ 1]) + data[1:]
        path.write_bytes({"shorter": data[:-1], "longer": data + b"x", "other": other}[change])

    with pytest.raises(ImageError, match=one["digest"]):
        fetch(layout, content)

    assert not content.has(top["digest"])  # type: ignore[arg-type]
    assert not content.has(one["digest"])
    assert list((Path(content.folder) / "tmp").iterdir()) == []


def test_a_blob_may_be_known_by_sha512(layout: Layout, content: BlobStore) -> None:
    digest = "sha512:" + hashlib.sha512(ONE).hexdigest()
    (layout.folder / "blobs/sha512").mkdir()
    (layout.folder / "blobs" / digest.replace(":", "/")).write_bytes(ONE)
    one = {"mediaType": LAYER, "digest": digest, "size": len(ONE)}
    layout.index(manifest(layout, layers=[one]))

    image = fetch(layout, content)

    assert image.layers[0].digest == digest
    assert content.open(digest).read() == ONE
    assert digest in set(content.digests())


words = st.text(max_size=10) | st.sampled_from([MANIFEST, INDEX, CONFIG, LAYER, "sha256:.."])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
EMPTY = {"mediaType": CONFIG, "digest": sha256(b"{}"), "size": 2}
RIGHT: list[tuple[str, Json]] = [
    (CONFIG, json.loads(config(ONE, created="2024"))),
    (
        MANIFEST,
        {"schemaVersion": 2, "mediaType": MANIFEST, "config": EMPTY, "layers": [EMPTY]},
    ),
    (INDEX, {"schemaVersion": 2, "manifests": [on(EMPTY, "linux/amd64"), on(EMPTY, "linux/arm")]}),
]


def places(value: object) -> list[tuple[object, ...]]:
    """The way to everything within a JSON value, by keys and positions."""
    items: list[tuple[object, object]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    return [(), *((key, *rest) for key, inner in items for rest in places(inner))]


def changed(value: object, way: tuple[object, ...], new: object) -> object:
    if not way:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)  # type: ignore[call-overload]
    copy[way[0]] = changed(copy[way[0]], way[1:], new)
    return copy


@given(st.data())
def test_any_json_is_an_image_or_an_image_error(data: st.DataObject) -> None:
    blobs: dict[str, bytes] = {}
    below = EMPTY
    for media_type, right in RIGHT:
        document: object = right
        if media_type == MANIFEST:
            layers = [{**EMPTY, "mediaType": LAYER}]
            document = {**right, "config": below, "layers": layers}
        elif media_type == INDEX:
            document = {**right, "manifests": [on(below, "linux/amd64"), below]}
        if data.draw(st.booleans(), label="wrong"):
            way = data.draw(st.sampled_from(places(document)))
            document = changed(document, way, data.draw(values))
        blob = json.dumps(document).encode()
        blobs[sha256(blob)] = blob
        below = {"mediaType": media_type, "digest": sha256(blob), "size": len(blob)}
        top = Descriptor(media_type, sha256(blob), len(blob))

    def open_blob(digest: str) -> io.BytesIO:
        if digest not in blobs:
            raise ImageError(f"{digest!r} is missing")
        return io.BytesIO(blobs[digest])

    try:
        message = repr(find_image(top, Platform("linux", "amd64"), open_blob))
    except ImageError as error:
        message = str(error)
    assert message.isprintable()


@given(st.binary(max_size=60) | st.text('[]{}:,"01-e.tn', max_size=40).map(str.encode))
def test_any_bytes_are_a_document_or_an_image_error(data: bytes) -> None:
    top = Descriptor(MANIFEST, sha256(data), len(data))
    with pytest.raises(ImageError):
        find_image(top, None, lambda _: io.BytesIO(data))


def test_a_folder_in_a_blobs_place_is_an_error(layout: Layout, content: BlobStore) -> None:
    top = layout.image(ONE)
    layout.index(top)
    layout.path(top).unlink()
    layout.path(top).mkdir()
    with pytest.raises((ImageError, OperationError)):
        fetch(layout, content)
