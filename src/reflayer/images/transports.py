"""Where images come from and go to: one text says the transport and the place."""

from __future__ import annotations

import os

from reflayer.errors import ImageError, OperationError, did_you_mean, printable
from reflayer.images.model.reference import Reference, parse_reference, refuse_digest
from reflayer.record import record, replace
from reflayer.xdg import expanded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from reflayer.images.content.source import Destination, Source
    from reflayer.images.registry import Access

_PLACES = ("oci", "oci-archive", "docker-archive", "tar", "rootfs")
_OTHERS = frozenset(  # containers-transports(5)
    {"containers-storage", "dir", "docker-daemon", "ostree", "sif", "tarball", "file"}
)


@record
class RootFs:
    """A folder that is a root file system; ``path`` is absolute."""

    path: str

    @property
    def name(self) -> str:
        return f"rootfs:{self.path}"

    def stamp(self) -> str:
        """What is the same as long as all in the folder is: whatever changes there, a ctime does.

        Empty where something was changed just now, or cannot be read, of which copying it tells.
        """
        import hashlib
        import time

        from reflayer.archive.tree_diff import TreeDiff
        from reflayer.images.content.source import UNSETTLED

        try:
            found = [entry.status for entry in TreeDiff(self.path)]
        except OperationError:
            return ""
        if time.time() - max(status.st_ctime for status in found) < UNSETTLED:
            return ""
        inodes = sorted((status.st_dev, status.st_ino, status.st_ctime_ns) for status in found)
        return hashlib.sha256(repr(inodes).encode()).hexdigest()


def registry_reference(text: str) -> Reference | None:
    """The image in a registry that ``text`` names; None where it names a place of this machine."""
    transport, colon, rest = text.partition(":")
    if colon and transport in _PLACES:
        return None
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
    # What a path follows is no image's name, since no tag can be one.
    is_word = transport.isascii() and transport.replace("-", "").isalpha()
    has_path = rest[:1] in ("/", ".", "~") and is_word
    if colon and (transport in _OTHERS or has_path):
        known = ", ".join(f"{one}:" for one in _PLACES)
        raise ImageError(
            f"the transport {printable(transport)}: is not known: docker:// and {known} are"
            + did_you_mean(transport, _PLACES)
        )
    return parse_reference(text)


def open_source(
    text: str, access: Access | None = None, warn: Callable[[str], None] | None = None
) -> Source | RootFs:
    """What ``text`` names; nothing is read yet.

    ``oci:DIR[:TAG]``, ``oci-archive:FILE[:TAG]``, ``docker-archive:FILE[:REF]``, ``tar:FILE``,
    ``rootfs:DIR``; or, as ``docker://REF`` or without a prefix, a reference, whose registry is
    spoken to as ``access`` says; ``warn`` is told where it has to be waited for. As in skopeo, the
    first colon after the prefix ends DIR and FILE where something may follow. Instead of TAG and
    REF, ``@N`` is the image's place. For FILE, ``-`` is standard input.
    """
    # Each is imported only where it is meant: they need more than most calls do.
    reference = registry_reference(text)
    if reference is not None:
        from reflayer.images.registry import Access, RegistrySource

        return RegistrySource(reference, access or Access(), warn)
    transport = text.partition(":")[0]
    if transport == "tar":
        from reflayer.images.tar import TarImage

        path = _expanded(text)
        return TarImage(path if path == "-" else os.path.abspath(path))
    if transport == "rootfs":
        return RootFs(os.path.abspath(_expanded(text)))
    path, name = _path_and_name(text)
    if transport == "docker-archive":
        from reflayer.images.docker_archive import DockerArchive, parse_which

        return DockerArchive(path, parse_which(name))
    from reflayer.images.oci import OciLayout

    return OciLayout(path, name, is_archive=transport == "oci-archive")


def open_destination(text: str, name: Reference | None = None) -> Destination:
    """What ``text`` names; nothing is touched yet.

    In an archive the image is called ``name`` where ``text`` says nothing else.
    """
    if registry_reference(text) is None:
        transport = text.partition(":")[0]
        if transport == "oci":
            from reflayer.images.oci import OciLayout

            return OciLayout(*_path_and_name(text))
        if transport == "docker-archive":
            from reflayer.images.docker_archive import DockerArchive, parse_which

            path, place = _path_and_name(text)
            which = parse_which(place)
            if isinstance(which, int):
                raise ImageError(
                    f"{printable(text)}: an image is saved by a name, not by its place"
                )
            if which is None:
                return DockerArchive(path, replace(name, digest="") if name and name.tag else None)
            if which.digest:
                raise ImageError(f"{printable(text)}: an archive names images without a digest")
            refuse_digest(which)
            return DockerArchive(path, which)
    raise ImageError(
        f"{printable(text)}: an image is saved to oci:DIR[:TAG] or docker-archive:FILE[:REF]"
    )


def new_name(text: str) -> Reference:
    """The name in a registry that an image is to get: no place, and nothing like a digest."""
    reference = registry_reference(text)
    if reference is None:
        raise ImageError(f"{printable(text)} is a place, not an image's name: save it there then")
    if reference.digest:
        raise ImageError(f"{printable(text)}: a new image's name has no digest yet")
    refuse_digest(reference)
    return reference


def _path_and_name(text: str) -> tuple[str, str]:
    """The absolute path, or ``-`` for a file, and what follows it."""
    transport, place = text.partition(":")[0], _expanded(text)
    path, colon, name = place.partition(":")
    if not path or (colon and not name):
        raise ImageError(f"{printable(f'{transport}:{place}')}: a path or a name is empty")
    return path if path == "-" and transport != "oci" else os.path.abspath(path), name


def _expanded(text: str) -> str:
    transport, _, place = text.partition(":")
    if not place or "\0" in place:
        raise ImageError(f"{transport}: needs a path after it")
    return expanded(place)
