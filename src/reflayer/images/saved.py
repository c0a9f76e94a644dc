"""Which images there are in what ``docker save`` wrote, and of which members."""

from __future__ import annotations

from dataclasses import dataclass

from reflayer.errors import ImageError, listed
from reflayer.images.document import Document, parse_json
from reflayer.images.reference import Reference, parse_reference

_MOST_NAMES = 1000


@dataclass(frozen=True, slots=True)
class SavedImage:
    """One image.

    Attributes:
        config: the member that is its config.
        layers: the members that are its layers, the lowest first.
        tags: its names.
    """

    config: str
    layers: tuple[str, ...]
    tags: tuple[Reference, ...]


def parse_saved(data: bytes) -> list[SavedImage]:
    """Read ``manifest.json``.

    Raises:
        ImageError: it is malformed.
    """
    entries = parse_json(data, "manifest.json")
    if not isinstance(entries, list):
        raise ImageError("manifest.json is not a list of images")
    return [_image(entry) for entry in entries]


def parse_repositories(data: bytes) -> list[SavedImage]:
    """Read ``repositories``, which is all that Docker wrote before 1.10 (Docker's image spec v1).

    The config of an image is then that of its top layer, which names the layer below.

    Raises:
        ImageError: it is malformed.
    """
    document = Document.parse(data, "repositories")
    tags: dict[str, list[Reference]] = {}
    for name in document.fields:
        tagged = document.child(name)
        if tagged is None:
            continue
        for tag in tagged.fields:
            reference = parse_reference(f"{name}:{tag}")
            tags.setdefault(tagged.required_string(tag), []).append(reference)
    return [SavedImage(one, (), tuple(names)) for one, names in tags.items()]


def choose(images: list[SavedImage], which: Reference | int | None) -> SavedImage:
    """The image of that name or place, or the only one.

    Raises:
        ImageError: there is none, or more than one without a name asked for.
    """
    if isinstance(which, int):
        if which < len(images):
            return _of_few_names(images[which])
        raise ImageError(f"there is no image @{which}: {_there(images)}")
    if which is None:
        if len(images) == 1:
            return _of_few_names(images[0])
        raise ImageError(f"say which image: {_there(images)}" if images else _there(images))
    for image in images:
        if which in image.tags:
            return image
    raise ImageError(f"there is no image {which.familiar()}: {_there(images)}")


def _image(entry: object) -> SavedImage:
    if not isinstance(entry, dict):
        raise ImageError("manifest.json has an image that is not an object")
    document = Document(entry, "manifest.json")
    return SavedImage(
        config=document.required_string("Config"),
        layers=tuple(document.strings("Layers")),
        tags=tuple(parse_reference(tag) for tag in document.strings("RepoTags")),
    )


def _of_few_names(image: SavedImage) -> SavedImage:
    if len(image.tags) > _MOST_NAMES:
        raise ImageError(f"the image has {len(image.tags):,} names: say by which to take it")
    return image


def _there(images: list[SavedImage]) -> str:
    if not images:
        return "the archive has no images"
    names = (
        image.tags[0].familiar() if image.tags else f"@{place}"
        for place, image in enumerate(images)
    )
    return f"the archive has {listed(names)}"
