"""From the manifest or index that a name points to down to one image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reflayer.errors import ImageError, OperationError, printable
from reflayer.images.digest import check_digest_is, check_size, digest_text, hash_like
from reflayer.images.image import LARGEST_CONFIG, Image, check_platform, image_of
from reflayer.images.manifest import LARGEST_MANIFEST, Index, Manifest, parse_manifest
from reflayer.images.media_types import INDEXES, MANIFESTS
from reflayer.images.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from reflayer.images.content import Content
    from reflayer.images.descriptor import Descriptor

    Open = Callable[[str], BinaryIO]
    Candidate = tuple[Descriptor, Platform | None]

_DEEPEST = 8  # indexes within indexes


def find_image(
    top: Descriptor, platform: Platform | None, open_blob: Open, name: str = ""
) -> Image:
    """The image for ``platform`` that ``top`` is or leads to.

    Without a platform an index gives the image for this machine, and a manifest is taken as it is.

    Args:
        top: a manifest, or an index (of indexes, even).
        platform: what the image has to run on.
        open_blob: opens a blob by its digest.
        name: what whoever asked calls ``top``, for messages; otherwise its digest is told.

    Raises:
        ImageError: there is none, or a document is missing, malformed or not what it should be.
        OperationError: a blob could not be read.
    """
    contents = _parse(top, open_blob)
    if isinstance(contents, Manifest):
        image = _image(top, contents, open_blob)
        check_platform(image.platform, platform, name or top.digest)
        return image
    wanted = platform or Platform.of_machine()
    candidates = list(_candidates(contents, None, open_blob, {top.digest}, _DEEPEST))
    chosen = _best(wanted, candidates)
    if chosen is None:
        candidates = [(one, known or _look(one, open_blob)) for one, known in candidates]
        chosen = _best(wanted, candidates)
    if chosen is None:
        raise _no_image(
            name or top.digest, wanted, [known for _, known in candidates if known is not None]
        )
    contents = _parse(chosen, open_blob)
    assert isinstance(contents, Manifest)
    return _image(chosen, contents, open_blob)


def read_image(content: Content, manifest: Descriptor) -> Image:
    """The image of a manifest that is in ``content``.

    Raises:
        ImageError: its manifest or config is missing or damaged.
        OperationError: they could not be read.
    """
    return find_image(manifest, None, content.open)


def read_document(descriptor: Descriptor, open_blob: Open, largest: int) -> bytes:
    """All of a small blob, checked against its descriptor.

    Raises:
        ImageError: it is not there, not what it should be, or has more than ``largest`` bytes.
        OperationError: it could not be read.
    """
    digest, size = descriptor.digest, descriptor.size
    if size > largest:
        raise ImageError(f"{digest} claims {size} bytes, more than the {largest} it may have")
    with open_blob(digest) as blob:
        try:
            data = blob.read(size + 1)
        except OSError as error:
            raise OperationError.from_os_error(error, digest.encode(), "read") from error
    check_size(len(data), descriptor.size, digest)
    hashing = hash_like(digest)
    hashing.update(data)
    check_digest_is(digest_text(hashing), digest)
    return data


def _parse(descriptor: Descriptor, open_blob: Open) -> Manifest | Index:
    data = read_document(descriptor, open_blob, LARGEST_MANIFEST)
    return parse_manifest(data, descriptor)


def _image(manifest: Descriptor, contents: Manifest, open_blob: Open) -> Image:
    config = read_document(contents.config, open_blob, LARGEST_CONFIG)
    return image_of(manifest, contents, config)


def _candidates(
    index: Index, inherited: Platform | None, open_blob: Open, seen: set[str], depth: int
) -> Iterator[Candidate]:
    """The images of an index and those within, each with its platform where that is said."""
    for one in index.manifests:
        platform = one.platform or inherited
        if one.media_type in MANIFESTS:
            yield one, platform
        elif one.media_type in INDEXES and one.digest not in seen:
            if depth == 0:
                raise ImageError(f"more than {_DEEPEST} indexes are within one another")
            seen.add(one.digest)
            inner = _parse(one, open_blob)
            assert isinstance(inner, Index)
            yield from _candidates(inner, platform, open_blob, seen, depth - 1)


def _look(manifest: Descriptor, open_blob: Open) -> Platform:
    """The platform that an image's config has."""
    contents = _parse(manifest, open_blob)
    assert isinstance(contents, Manifest)
    return _image(manifest, contents, open_blob).platform


def _best(wanted: Platform, candidates: list[Candidate]) -> Descriptor | None:
    for platform in wanted.fitting():
        for one, known in candidates:
            if known == platform:
                return one
    return None


def _no_image(name: str, wanted: Platform, there: list[Platform]) -> ImageError:
    # BuildKit lists attestations as images for an unknown platform.
    names = sorted({printable(str(one)) for one in there if one.architecture != "unknown"})
    only = f"only for {', '.join(names)}" if names else "nor for any other platform"
    return ImageError(f"{name} has no image for {wanted}, {only}")
