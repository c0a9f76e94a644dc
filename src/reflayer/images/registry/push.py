"""An image into a registry: what is not there yet, side by side, and its manifest last."""

from __future__ import annotations

from threading import Lock

from reflayer.errors import RegistryError
from reflayer.images.registry.retry import StoppedError, again
from reflayer.images.registry.session import Session
from reflayer.images.registry.upload import upload
from reflayer.images.side_by_side import side_by_side

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from reflayer.images.content import Content
    from reflayer.images.descriptor import Descriptor
    from reflayer.images.image import Image
    from reflayer.images.reference import Reference
    from reflayer.images.registry.access import Access
    from reflayer.progress import Progress

    Sources = Callable[[str], str | None]


def push_image(
    image: Image,
    reference: Reference,
    access: Access,
    content: Content,
    sources: Sources,
    progress: Progress | None,
) -> None:
    """Send ``image`` to where ``reference`` says; its blobs go as they are.

    Args:
        image: what is sent, all of whose blobs are in ``content``.
        reference: where to; a digest has to be the image's own.
        access: how the registry is to be spoken to.
        content: has the blobs.
        sources: a repository of the same registry that may have the blob with this digest.
        progress: is told of stage ``push``, in bytes, by one thread at a time.

    Raises:
        RegistryError: the registry cannot be reached, or does not take it.
        ImageError: a blob is missing, or has another digest.
        OperationError: a blob cannot be read.
    """
    if reference.digest not in ("", image.manifest.digest):
        raise RegistryError(f"{reference}: the image has another digest: {image.manifest.digest}")
    session = Session(reference, access, "pull,push")
    try:
        blobs = {one.digest: one for one in (*image.layers, image.config)}
        _send(list(blobs.values()), session, content, sources, progress)
        _put_manifest(image.manifest, reference.tag or reference.digest, session, content)
    finally:
        session.close()


def _send(
    blobs: list[Descriptor],
    session: Session,
    content: Content,
    sources: Sources,
    progress: Progress | None,
) -> None:
    done = dict.fromkeys((one.digest for one in blobs), 0)
    size = sum(one.size for one in blobs)
    lock = Lock()

    def send(blob: Descriptor) -> None:
        def told(count: int) -> None:
            if session.stop.is_set():
                raise StoppedError
            with lock:
                done[blob.digest] = count
                if progress is not None:
                    progress("push", sum(done.values()), size)

        with content.open(blob.digest) as file:
            upload(session, blob, file.fileno(), sources(blob.digest), told)

    side_by_side(send, blobs, session.interrupt)


def _put_manifest(manifest: Descriptor, name: str, session: Session, content: Content) -> None:
    with content.open(manifest.digest) as file:
        data = file.read()
    what = f"{session.path} does not take the manifest"
    url = session.url(f"manifests/{name}")

    def put() -> None:
        headers = {"Content-Type": manifest.media_type}
        with session.request("PUT", url, what, headers=headers, body=lambda: data) as response:
            digest = response.headers.get("Docker-Content-Digest")
        if digest and digest != manifest.digest:
            raise RegistryError(
                f"{session.name}: has made another manifest of {manifest.digest} than was sent"
            )

    again(session.stop, put)
