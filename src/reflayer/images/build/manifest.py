"""Manifests and configs that are made; of the same layers always the same ones.

An image that came without them gets them; another, with OCI's media types or with compressed
layers, is the same image by its config with another manifest. How a layer is compressed its first
bytes tell; what its media type says may be wrong. A commit's config is its parent's with one layer
more and some changes (OCI image-spec, config.md).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from reflayer.archive.compression import compression_of
from reflayer.archive.tar_header import BLOCK
from reflayer.errors import ImageError
from reflayer.images.build.layer import add_layer, plain_tar
from reflayer.images.content.resolve import find_image, read_document
from reflayer.images.model.descriptor import (
    LAYER_TYPES,
    OCI_CONFIG,
    OCI_MANIFEST,
    check_digest_is,
    layer_type,
)
from reflayer.images.model.document import Document
from reflayer.images.model.image import LARGEST_MANIFEST
from reflayer.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from reflayer.images.content.blob_store import BlobStore
    from reflayer.images.model.descriptor import Descriptor
    from reflayer.images.model.image import Image
    from reflayer.images.model.platform import Platform
    from reflayer.progress import Progress

_OF_THE_PARENT = ("author", "container", "container_config", "created", "docker_version", "id")
"""What a config says of how its own image was made."""
_NOTHING: Mapping[str, str] = {}


def config_of(platform: Platform, *diff_ids: str) -> bytes:
    """A config with nothing in it but what has to be there (OCI image-spec, config.md)."""
    variant = {"variant": platform.variant} if platform.variant else {}
    return to_json(
        {
            "architecture": platform.architecture,
            "os": platform.os,
            **variant,
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
    )


def add_image(
    content: BlobStore, config: bytes, layers: tuple[Descriptor, ...], said: Platform | None = None
) -> Image:
    """Add the config and a manifest for the layers, which are in ``content``.

    Where the config does not say what the image runs on, that is ``said``, else this machine.
    """
    return add_manifest(content, content.add_bytes(config, OCI_CONFIG), layers, {}, said)


def add_manifest(
    content: BlobStore,
    config: Descriptor,
    layers: tuple[Descriptor, ...],
    annotations: Mapping[str, object],
    said: Platform | None,
) -> Image:
    """Add a manifest for a config and layers that are in ``content``."""
    data = manifest_of(config, layers, annotations)
    top = replace(content.add_bytes(data, OCI_MANIFEST), platform=said)
    image = find_image(top, None, content.open)
    content.sync()
    return image


def manifest_of(
    config: Descriptor, layers: Iterable[Descriptor], annotations: Mapping[str, object] = _NOTHING
) -> bytes:
    """A manifest of OCI's media types."""

    def said(of: Mapping[str, object]) -> dict[str, object]:
        return {"annotations": dict(of)} if of else {}

    return to_json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {**config.as_json(), "mediaType": OCI_CONFIG},
            "layers": [{**one.as_json(), **said(one.annotations)} for one in layers],
            **said(annotations),
        }
    )


def with_compressed_layers(
    content: BlobStore, image: Image, compression: str, progress: Progress | None
) -> Image:
    """The image with layers that every program reads: by gzip or zstd, or plain.

    Those by gzip and zstd stay as they are; the others get this ``compression``, one of these or
    ``none``. ``progress`` is told of stage ``pack``, in bytes of each plain layer.
    """
    found = [_compression(content, layer) for layer in image.layers]
    if {"gzip", "zstd", compression}.issuperset(found):
        return image
    layers = tuple(
        layer
        if kind in ("gzip", "zstd", compression)
        else _compressed(content, layer, diff_id, compression, progress)
        for layer, diff_id, kind in zip(image.layers, image.diff_ids, found, strict=True)
    )
    return _with_layers(content, image, oci_layers(content, layers))


def with_oci_types(content: BlobStore, image: Image) -> Image:
    """The image with a manifest of OCI's media types; its config and layers are the same bytes."""
    layer_types = {layer.media_type for layer in image.layers}
    types = image.manifest.media_type, image.config.media_type
    if types == (OCI_MANIFEST, OCI_CONFIG) and layer_types <= set(LAYER_TYPES.values()):
        return image
    return _with_layers(content, image, oci_layers(content, image.layers))


def oci_layers(content: BlobStore, layers: tuple[Descriptor, ...]) -> tuple[Descriptor, ...]:
    """The same layers with the media types that OCI has for what they are."""
    return tuple(
        replace(layer, media_type=layer_type(_compression(content, layer))) for layer in layers
    )


def _compression(content: BlobStore, layer: Descriptor) -> str:
    with content.open(layer.digest) as file:
        return compression_of(file.read(BLOCK))


def _compressed(
    content: BlobStore, layer: Descriptor, diff_id: str, compression: str, progress: Progress | None
) -> Descriptor:
    with content.open(layer.digest) as file, plain_tar(file, layer.size) as chunks:
        added = add_layer(content, chunks, compression, progress)
    if diff_id.startswith("sha256:"):
        check_digest_is(added.diff_id, diff_id)
    return replace(added.layer, annotations=layer.annotations)


def _with_layers(content: BlobStore, image: Image, layers: tuple[Descriptor, ...]) -> Image:
    data = read_document(image.manifest, content.open, LARGEST_MANIFEST)
    annotations = Document.parse(data, f"the manifest {image.manifest.digest}").child("annotations")
    fields = annotations.fields if annotations else {}
    return add_manifest(content, image.config, layers, fields, image.platform)


def to_json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


@record
class ConfigChanges:
    """What is to be different in how an image's containers run; None and empty: as before.

    Attributes:
        cmd: the command's words; an empty list takes it away.
        entrypoint: what comes before the command, likewise. One that is given without ``cmd`` takes
            the command away, which was meant for another, as in a Dockerfile.
        env: variables to set.
        labels: labels to set.
        workdir: the folder to start in, an absolute path.
        user: ``USER[:GROUP]``, names or numbers.
        expose: ports to add, ``NUMBER/PROTOCOL``.
        volumes: folders to add as volumes, absolute paths.
        stop_signal: what ends it, a name or number.
    """

    cmd: Sequence[str] | None = None
    entrypoint: Sequence[str] | None = None
    env: Mapping[str, str] = _NOTHING
    labels: Mapping[str, str] = _NOTHING
    workdir: str | None = None
    user: str | None = None
    expose: Sequence[str] = ()
    volumes: Sequence[str] = ()
    stop_signal: str | None = None

    def __post_init__(self) -> None:
        """Check the types, as a text is a sequence of letters, too; a wrong one is a ValueError."""
        for name in ("cmd", "entrypoint", "expose", "volumes"):
            words = getattr(self, name)
            if isinstance(words, str):
                raise ValueError(f"{name} is the text {words!r}: give a list, such as [{words!r}]")
            _check_texts(name, words or ())
        for name in ("env", "labels"):
            pairs = getattr(self, name)
            if not isinstance(pairs, Mapping):
                raise ValueError(f"{name} is {pairs!r}: give a mapping, such as {{'KEY': 'value'}}")
            _check_texts(name, [*pairs, *pairs.values()])
        for name in ("workdir", "user", "stop_signal"):
            value = getattr(self, name)
            if not isinstance(value, str | None):
                raise ValueError(f"{name} is {value!r}, which is no text")


def _check_texts(name: str, words: Iterable[object]) -> None:
    for word in words:
        if not isinstance(word, str):
            raise ValueError(f"{name} has {word!r} in it, which is no text")


def child_config(
    parent: bytes,
    platform: Platform,
    diff_id: str | None,
    changes: ConfigChanges,
    *,
    created: float,
    author: str,
    message: str,
) -> bytes:
    """The config of a child of the image whose config ``parent`` is; the same for the same words.

    Args:
        parent: a config that has been read before.
        platform: what the image runs on, where its config does not say.
        diff_id: of the layer that is put on top; None where nothing has changed.
        changes: what is to be different.
        created: in seconds since the epoch.
        author, message: or empty.
    """
    document = Document.parse(parent, "the config of the container's image")
    moment = _moment(created)
    child = {key: value for key, value in document.fields.items() if key not in _OF_THE_PARENT}
    settings = document.child("config")
    rootfs = document.child("rootfs")
    assert rootfs is not None  # else it would be no image
    diff_ids = rootfs.strings("diff_ids")
    history = [entry.fields for entry in document.children("history")]
    # One entry for each layer: what builders left out is made up for.
    told = sum(1 for entry in history if not entry.get("empty_layer"))
    history += [{}] * (len(diff_ids) - told)
    if document.platform() is None:
        said = {"os": platform.os, "architecture": platform.architecture}
        child |= {**said, **({"variant": platform.variant} if platform.variant else {})}
    child |= {
        "created": moment,
        "config": _changed(settings.fields if settings else {}, changes),
        "rootfs": {"type": "layers", "diff_ids": [*diff_ids, *([diff_id] if diff_id else [])]},
        "history": [
            *history,
            {
                "created": moment,
                "created_by": "reflayer commit",
                **({"author": author} if author else {}),
                **({"comment": message} if message else {}),
                **({} if diff_id else {"empty_layer": True}),
            },
        ],
        **({"author": author} if author else {}),
    }
    try:
        return to_json(child)
    except UnicodeEncodeError as error:
        raise ImageError("an image's config is text, but something in it is not UTF-8") from error


def _changed(settings: Mapping[str, Any], changes: ConfigChanges) -> dict[str, Any]:
    changed = dict(settings)
    if changes.entrypoint is not None:
        changed["Entrypoint"] = list(changes.entrypoint) or None
        changed["Cmd"] = None
    if changes.cmd is not None:
        changed["Cmd"] = list(changes.cmd) or None
    if changes.env:
        changed["Env"] = _environment(Document(changed, "the image's config"), changes.env)
    added = {
        "Labels": changes.labels,
        "ExposedPorts": {port: {} for port in changes.expose},
        "Volumes": {path: {} for path in changes.volumes},
    }
    for key in filter(added.get, added):
        before = Document(changed, "the image's config").child(key)
        changed[key] = {**(before.fields if before else {}), **added[key]}
    said = {"WorkingDir": changes.workdir, "User": changes.user, "StopSignal": changes.stop_signal}
    changed |= {key: value for key, value in said.items() if value is not None}
    return {key: value for key, value in changed.items() if value is not None}


def _environment(settings: Document, env: Mapping[str, str]) -> list[str]:
    """The variables as before, those that are set anew in their old place."""
    left = dict(env)
    variables = []
    for variable in settings.strings("Env"):
        name = variable.partition("=")[0]
        if name not in env:
            variables.append(variable)
        elif name in left:
            variables.append(f"{name}={left.pop(name)}")
    return variables + [f"{name}={value}" for name, value in left.items()]


def _moment(seconds: float) -> str:
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise ImageError(f"{seconds} seconds since 1970 is no time for an image") from error
    return moment.isoformat().replace("+00:00", "Z")
