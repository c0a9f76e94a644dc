"""From a name, or the manifest or index that it points to, down to one image."""

from __future__ import annotations

import re

from reflayer.errors import ImageError, brief, failing, listed
from reflayer.images.model.descriptor import (
    CONFIGS,
    CONTAINERD_NAME,
    INDEXES,
    MANIFESTS,
    REF_NAME,
    SAYS_NOTHING,
    Descriptor,
    check_digest_is,
    check_size,
    digest_bytes,
)
from reflayer.images.model.image import (
    LARGEST_CONFIG,
    LARGEST_MANIFEST,
    Config,
    Image,
    Index,
    Manifest,
    NoImageError,
    artefact,
    check_layers,
    check_platform,
    parse_config,
    parse_manifest,
)
from reflayer.images.model.platform import Platform
from reflayer.images.model.reference import parse_reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import BinaryIO, TypeVar

    from reflayer.images.model.document import Document

    Open = Callable[[str], BinaryIO]
    Type = TypeVar("Type")
    Candidate = tuple[Descriptor, Platform | None]

_DEEPEST = 8  # indexes within indexes
_MOST_READ = 500  # manifests and configs, in the search for one
_EMPTY = digest_bytes(b"{}")


def find_image(
    top: Descriptor, platform: Platform | None, open_blob: Open, name: str = ""
) -> Image:
    """The image for ``platform`` that ``top`` is or leads to.

    Without a platform an index gives the image for this machine, and a manifest is taken as it is.
    ``name`` is that of ``top``, for messages; otherwise its digest is told.
    """
    search = _Search(open_blob, platform, name or top.digest)
    contents = search.parse(top)
    if isinstance(contents, Index):
        return next(search.images(contents.manifests))
    config = search.config(top, contents)
    check_platform(config.platform or top.platform, platform, name or top.digest)
    return _image_of(top, contents, config, top.platform or platform)


def choose_image(
    index: Document, which: str, platform: Platform | None, open_blob: Open, where: str
) -> tuple[Image, Descriptor]:
    """The image of the layout ``where`` that ``which`` names, and what is listed there for it.

    ``which`` is a tag, a whole name, or ``@N`` for the place in the index; empty for the only
    image. Without a platform it is for this machine, or whatever the only one is for.
    """
    entries = [entry.descriptor() for entry in index.children("manifests")]
    if re.fullmatch(r"@[0-9]{1,6}", which):
        found = entries[int(which[1:]) :][:1]
    else:
        found = [one for one in entries if not which or _is_called(one, which)]
    found = list({one.digest: one for one in found}.values())
    if not which and len(set(map(names_of, found))) > 1:
        found = [one for one in found if _is_image(one, open_blob)]
        if len(set(map(names_of, found))) > 1:
            raise ImageError(f"{where} has several images, say which: {_there(entries)}")
    if not found:
        what = f"no image {brief(which)}" if which else "no image"
        raise ImageError(f"{where} has {what}; there are: {_there(entries)}")
    if len(found) == 1:
        return find_image(found[0], platform, open_blob, where), found[0]
    images = list(_Search(open_blob, platform, where).images(found))  # equally good ones
    if len({image.manifest.digest for image in images}) > 1:
        raise ImageError(
            f"{where} has several images {brief(which)}".rstrip()
            + f" for {images[0].platform}, say which by its place, @0 to @{len(entries) - 1}"
        )
    return images[0], found[0]


def names_of(one: Descriptor) -> tuple[str, ...]:
    """What a layout calls what it lists: whole names, if there are such, before tags."""
    said = (one.annotations.get(key, "") for key in (CONTAINERD_NAME, REF_NAME))
    return tuple(dict.fromkeys(filter(None, said)))


def read_document(descriptor: Descriptor, open_blob: Open, largest: int) -> bytes:
    """All of a small blob, checked against its descriptor."""
    digest, size = descriptor.digest, descriptor.size
    if size > largest:
        raise ImageError(f"{digest} claims {size} bytes, more than the {largest} it may have")
    with open_blob(digest) as blob, failing(digest, "read"):
        data = blob.read(size + 1)
    check_size(len(data), size, digest)
    check_digest_is(digest_bytes(data, digest), digest)
    return data


class _Search:
    """The way down from manifests and indexes, past what is no image."""

    def __init__(self, open_blob: Open, wanted: Platform | None, name: str) -> None:
        self._open = open_blob
        self._wanted = wanted or Platform.of_machine()
        self._name = name
        self._left = _MOST_READ
        self._indexes: set[str] = set()
        self._looked: dict[str, tuple[Manifest, Config] | None] = {}
        self._others: list[str] = []

    def images(self, tops: Iterable[Descriptor]) -> Iterator[Image]:
        """The images that fit best, at least one: as an index says, else as their configs say."""
        said = list(self.candidates(tops))
        told: list[Candidate] = []
        for candidates, known in self._choices(said, told):
            images = self._those(candidates, known)
            for image in images:
                yield image
                yield from images
                return
        raise self._no_image([*said, *told])

    def _choices(
        self, said: list[Candidate], told: list[Candidate]
    ) -> Iterator[tuple[list[Candidate], Platform | None]]:
        """Where to look for which platform, the best first; ``told`` is filled by the configs."""
        fitting = tuple(self._wanted.fitting())
        yield from ((said, known) for known in fitting)
        silent = (one for one, platform in said if platform is None)
        told += [(one, looked[1].platform) for one in silent if (looked := self.look(one))]
        yield from ((told, known) for known in (*fitting, None))

    def candidates(
        self, tops: Iterable[Descriptor], inherited: Platform | None = None, depth: int = _DEEPEST
    ) -> Iterator[Candidate]:
        """What may be an image, in indexes within, too; with its platform where that is said."""
        for one in tops:
            platform = one.platform or inherited
            if one.media_type in MANIFESTS:
                yield one, platform
            elif one.media_type not in INDEXES and (
                one.media_type not in SAYS_NOTHING or one.size > LARGEST_MANIFEST
            ):
                self._others.append(one.media_type or "unknown")
            elif one.digest not in self._indexes:
                if depth == 0:
                    raise ImageError(f"more than {_DEEPEST} indexes are within one another")
                self._indexes.add(one.digest)
                contents = self._past_others(self.parse, one)
                if isinstance(contents, Index):
                    yield from self.candidates(contents.manifests, platform, depth - 1)
                elif contents is not None:
                    yield one, platform

    def look(self, one: Descriptor) -> tuple[Manifest, Config] | None:
        """What is in the manifest and the config of an image; None where it is no image."""
        if one.digest not in self._looked:
            self._looked[one.digest] = self._past_others(self._image, one)
        return self._looked[one.digest]

    def parse(self, one: Descriptor) -> Manifest | Index:
        return parse_manifest(self._read(one, LARGEST_MANIFEST), one)

    def config(self, one: Descriptor, contents: Manifest) -> Config:
        what, config = f"the manifest {one.digest}", contents.config
        is_known = config.media_type in CONFIGS
        if not is_known and (config.digest == _EMPTY or config.size > LARGEST_CONFIG):
            raise artefact(what, contents.kind)
        data = self._read(config, LARGEST_CONFIG)
        try:
            parsed = parse_config(data, f"the config {config.digest}")
        except ImageError as error:
            if is_known:
                raise
            if config.media_type in SAYS_NOTHING:
                raise NoImageError(str(error), contents.kind or "unknown") from error
            raise artefact(what, contents.kind) from error
        check_layers(len(contents.layers), parsed, what)
        return parsed

    def _image(self, one: Descriptor) -> tuple[Manifest, Config]:
        contents = self.parse(one)
        if isinstance(contents, Index):
            raise ImageError(f"{one.digest} is an index, but is listed as {one.media_type}")
        return contents, self.config(one, contents)

    def _those(self, candidates: list[Candidate], known: Platform | None) -> Iterator[Image]:
        for one, platform in candidates:
            if platform == known and (looked := self.look(one)):
                yield _image_of(one, *looked, known or self._wanted)

    def _past_others(self, read: Callable[[Descriptor], Type], one: Descriptor) -> Type | None:
        try:
            return read(one)
        except NoImageError as error:
            self._others.append(error.kind)
            return None

    def _read(self, one: Descriptor, largest: int) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise ImageError(f"{self._name} leads to more than {_MOST_READ} manifests and configs")
        return read_document(one, self._open, largest)

    def _no_image(self, there: list[Candidate]) -> ImageError:
        others = {digest for digest, looked in self._looked.items() if looked is None}
        names = {
            str(platform)
            for one, platform in there
            # BuildKit lists attestations as images for an unknown platform.
            if platform and platform.architecture != "unknown" and one.digest not in others
        }
        only = f"only for {listed(sorted(names))}" if names else "nor for any other platform"
        beside = f"; beside that is: {listed(self._others)}" if self._others else ""
        return ImageError(f"{self._name} has no image for {self._wanted}, {only}{beside}")


def _is_image(top: Descriptor, open_blob: Open) -> bool:
    """Whether ``top`` is an image or leads to one; and not to a signature, say."""
    search = _Search(open_blob, None, "")
    return any(search.look(one) for one, _ in search.candidates((top,)))


def _is_called(one: Descriptor, which: str) -> bool:
    names = names_of(one)
    if which in names:
        return True
    try:
        return str(parse_reference(which)) in names
    except ImageError:
        return False


def _there(entries: list[Descriptor]) -> str:
    return listed(sorted(name for one in entries for name in names_of(one)[-1:])) or "no tags"


def _image_of(
    manifest: Descriptor, contents: Manifest, config: Config, said: Platform | None
) -> Image:
    # Bare: the same image is equal wherever it comes from.
    return Image(
        manifest=Descriptor(contents.media_type, manifest.digest, manifest.size),
        config=contents.config,
        layers=contents.layers,
        diff_ids=config.diff_ids,
        platform=config.platform or said or Platform.of_machine(),
        created=config.created,
    )
