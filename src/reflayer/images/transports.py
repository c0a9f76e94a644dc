"""Where images come from and go to: one text says the transport and the place."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Protocol

from reflayer.errors import ImageError, did_you_mean, printable
from reflayer.images.model.reference import Reference, parse_reference, refuse_digest
from reflayer.xdg import expanded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.images.content.blob_store import Content
    from reflayer.images.model.image import Image
    from reflayer.images.model.platform import Platform
    from reflayer.progress import Progress


class Source(Protocol):
    """An image somewhere, to be fetched."""

    @property
    def name(self) -> str:
        """What a store calls the image."""

    def fetch(
        self, content: Content, platform: Platform | None, progress: Progress | None
    ) -> tuple[Image, tuple[str, ...]]:
        """Bring it into ``content``; all of its blobs are there, checked, when this returns.

        With it comes what a store calls it, the first of which is ``name``.

        Args:
            content: where the blobs go. Those that are there are not read again.
            platform: what it has to run on; None for this machine, or for whatever the only
                one is.
            progress: is told of stage ``fetch``, in bytes, by one thread at a time.

        Raises:
            ImageError: there is no such image, or it is not right.
            OperationError: it could not be read or written.
        """


class Destination(Protocol):
    """A place that an image can be written to."""

    @property
    def is_plain(self) -> bool:
        """Whether layers are written plain there, whatever they are in the content store."""

    def write(
        self, content: Content, image: Image, name: Reference | None, progress: Progress | None
    ) -> None:
        """Write ``image`` there.

        Args:
            content: where its blobs are; a manifest of OCI's may be added to it for that.
            image: it.
            name: what it is called there, where the place says nothing else.
            progress: is told of stage ``write``, in bytes.

        Raises:
            ImageError: a blob is missing or damaged, or something else is there.
            OperationError: something could not be read or written.
        """


_PLACES = ("oci", "oci-archive", "docker-archive", "tar", "rootfs")
_OTHERS = re.compile(  # containers-transports(5); and what a path follows, which no tag can be
    r"(containers-storage|dir|docker-daemon|ostree|sif|tarball|file):"
    r"|([A-Za-z-]+):[/.~]"
)


@dataclass(frozen=True, slots=True)
class RootFs:
    """A folder that is a root file system.

    Attributes:
        path: absolute.
    """

    path: str

    @property
    def name(self) -> str:
        """What a store calls it."""
        return f"rootfs:{self.path}"


def open_source(text: str) -> Source | RootFs | Reference:
    """What ``text`` names; nothing is read yet.

    ``oci:DIR[:TAG]``, ``oci-archive:FILE[:TAG]``, ``docker-archive:FILE[:REF]``, ``tar:FILE``,
    ``rootfs:DIR``; or, as ``docker://REF`` or without a prefix, a reference. As in skopeo, the
    first colon after the prefix ends DIR and FILE where something may follow. Instead of TAG and
    REF, ``@N`` is the image's place. For FILE, ``-`` is standard input.

    Raises:
        ImageError: it is none of these.
    """
    transport, colon, place = text.partition(":")
    if colon and transport in _PLACES:
        return _open_place(transport, place)
    if text.startswith("docker://"):
        return parse_reference(text.removeprefix("docker://"))
    if text.startswith(("/", ".")):
        raise ImageError(
            f"{printable(text)} is a path, not an image's name: "
            "say which it is by rootfs:, tar:, oci: or docker-archive: before it"
        )
    if text.startswith(("http://", "https://")):
        raise ImageError(
            f"{printable(text[:300])} is an address: give the image's name, "
            "HOST[:PORT]/REPOSITORY[:TAG]"
        )
    if _OTHERS.match(text):
        known = ", ".join(f"{one}:" for one in _PLACES)
        raise ImageError(
            f"the transport {printable(transport)}: is not known: docker:// and {known} are"
            + did_you_mean(transport, _PLACES)
        )
    return parse_reference(text)


def open_destination(text: str) -> Destination:
    """What ``text`` names; nothing is touched yet.

    Raises:
        ImageError: it is neither a layout nor an archive, or a name in it is none.
    """
    from reflayer.images.docker_archive import DockerArchive
    from reflayer.images.oci import OciLayout

    there = open_source(text)
    if isinstance(there, DockerArchive):
        if isinstance(there.which, int):
            raise ImageError(f"{printable(text)}: an image is saved by a name, not by its place")
        if there.which is not None and there.which.digest:
            raise ImageError(f"{printable(text)}: an archive names images without a digest")
        if there.which is not None:
            refuse_digest(there.which)
    if isinstance(there, DockerArchive) or (isinstance(there, OciLayout) and not there.is_archive):
        return there
    raise ImageError(
        f"{printable(text)}: an image is saved to oci:DIR[:TAG] or docker-archive:FILE[:REF]"
    )


def new_name(text: str) -> Reference:
    """The name in a registry that an image is to get.

    Raises:
        ImageError: it cannot be one, or is one of a place, with a digest, or like one.
    """
    reference = open_source(text)
    if not isinstance(reference, Reference):
        raise ImageError(f"{printable(text)} is a place, not an image's name: save it there then")
    if reference.digest:
        raise ImageError(f"{printable(text)}: a new image's name has no digest yet")
    refuse_digest(reference)
    return reference


def _open_place(transport: str, place: str) -> Source | RootFs:
    if not place or "\0" in place:
        raise ImageError(f"{transport}: needs a path after it")
    place = expanded(place)
    # Each is imported only where it is meant: they need more than most calls do.
    if transport == "tar":
        from reflayer.images.tar import TarImage

        return TarImage(_absolute(place))
    if transport == "rootfs":
        return RootFs(os.path.abspath(place))
    path, colon, name = place.partition(":")
    if not path or (colon and not name):
        raise ImageError(f"{printable(f'{transport}:{place}')}: a path or a name is empty")
    if transport == "docker-archive":
        from reflayer.images.docker_archive import DockerArchive, parse_which

        return DockerArchive(_absolute(path), parse_which(name))
    from reflayer.images.oci import OciLayout

    if transport == "oci-archive":
        return OciLayout(_absolute(path), name, is_archive=True)
    return OciLayout(os.path.abspath(path), name)


def _absolute(path: str) -> str:
    return path if path == "-" else os.path.abspath(path)
