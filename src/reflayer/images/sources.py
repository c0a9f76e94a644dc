"""Where images come from: one text says the transport and the place."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Protocol

from reflayer.errors import ImageError, did_you_mean, printable
from reflayer.images.reference import Reference, parse_reference, refuse_digest
from reflayer.xdg import expanded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.images.content import Content
    from reflayer.images.image import Image
    from reflayer.images.platform import Platform
    from reflayer.progress import Progress

    Fetched = tuple[Image, tuple[str, ...]]


class Source(Protocol):
    """An image somewhere, to be fetched."""

    @property
    def name(self) -> str:
        """What a store calls the image."""

    def fetch(
        self, content: Content, platform: Platform | None, progress: Progress | None
    ) -> Fetched:
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
        from reflayer.images.tar_image import TarImage

        return TarImage(_absolute(place))
    if transport == "rootfs":
        return RootFs(os.path.abspath(place))
    path, colon, name = place.partition(":")
    if not path or (colon and not name):
        raise ImageError(f"{printable(f'{transport}:{place}')}: a path or a name is empty")
    if transport == "oci":
        from reflayer.images.oci_layout import OciLayout

        return OciLayout(os.path.abspath(path), name)
    path = _absolute(path)
    from reflayer.images.archives import DockerArchive, OciArchive

    if transport == "oci-archive":
        return OciArchive(path, name)
    if re.fullmatch(r"@[0-9]{1,6}", name):
        return DockerArchive(path, int(name[1:]))
    return DockerArchive(path, parse_reference(name) if name else None)


def _absolute(path: str) -> str:
    return path if path == "-" else os.path.abspath(path)
