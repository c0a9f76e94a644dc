"""From the store into a registry."""

from __future__ import annotations

from dataclasses import replace

from reflayer.errors import ReflayerError, StoreError, printable
from reflayer.images import Reference, open_source
from reflayer.images.model.reference import refuse_digest
from reflayer.images.registry.credentials import Access
from reflayer.images.registry.destination import RegistryDestination
from reflayer.store.find import find_image
from reflayer.store.making import making
from reflayer.store.save import image_content

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.progress import Progress
    from reflayer.store.parts import Parts


def push(
    parts: Parts, text: str, destination: str, access: Access | None, progress: Progress | None
) -> Reference:
    """What ``Store.push`` does."""
    reference = open_source(destination)
    if not isinstance(reference, Reference):
        raise StoreError(
            f"{printable(destination)} is not in a registry: reflayer save writes such ones"
        )
    refuse_digest(reference)
    with parts.database.reading() as db:
        find_image(db, text)  # nothing is made in order to send what is not there

    def source(digest: str) -> str | None:
        return _repository_with(digest, reference, parts)

    with making(parts):
        with parts.database.reading() as db:
            known, _ = find_image(db, text)
        image = image_content(parts, known, progress=progress)
        there = RegistryDestination(reference, access or Access(), source)
        there.write(parts.content, image, progress)
    return replace(reference, digest=image.manifest.digest)


def _repository_with(digest: str, reference: Reference, parts: Parts) -> str | None:
    """Another repository of the same registry that the blob may be in: an image came from there."""
    with parts.database.reading() as db:
        rows = db.execute(
            "SELECT name FROM names JOIN blobs ON blobs.image = names.image "
            "WHERE digest = ? ORDER BY name",
            (digest,),
        ).fetchall()
    for (name,) in rows:
        try:
            other = open_source(name)
        except ReflayerError:  # an archive that is gone
            continue
        if isinstance(other, Reference) and other.domain == reference.domain:
            if other.path == reference.path:
                return None  # then it is there most likely
            return other.path
    return None
