"""Which image of the store, or container, a user means."""

from __future__ import annotations

from reflayer.errors import ImageError, ReflayerError, StoreError, did_you_mean, printable
from reflayer.store import records
from reflayer.store.containers import look_for_container
from reflayer.store.ids import is_full_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sqlite3 import Connection

    from reflayer.store.containers import Container
    from reflayer.store.parts import Parts
    from reflayer.store.records import StoredImage


def find_either(db: Connection, text: str, parts: Parts) -> list[Container | StoredImage]:
    """The container and the image that ``text`` means, the container first.

    Raises:
        StoreError: there is neither, or more than one of a kind.
    """
    container = look_for_container(db, text, parts)
    try:
        image, _ = look_for_image(db, text)
    except ImageError:  # no name of an image
        image = None
    found = [one for one in (container, image) if one is not None]
    if not found:
        names = [row[0] for row in db.execute("SELECT name FROM containers")]
        close = did_you_mean(text, names + _image_names(db)) or (
            ": reflayer ps and reflayer images list them"
        )
        raise StoreError(f"{printable(text)}: no such container or image{close}")
    return found


def find_image(db: Connection, text: str) -> tuple[StoredImage, str | None]:
    """The image that ``text`` means, and which of its names that is; None where it is an id.

    A name is one that the store has, one that Docker reads as such, or where an image came from.
    An id may lack its end. ``NAME@DIGEST`` is what was pulled as such, or the image whose manifest
    has the digest.

    Raises:
        ImageError: it is neither a name nor an id.
        StoreError: there is none, or more than one.
    """
    image, name = look_for_image(db, text)
    if image is None:
        close = did_you_mean(text, _image_names(db)) or (
            ": reflayer images lists them, reflayer pull fetches one"
        )
        raise StoreError(f"{printable(text)}: no such image in the store{close}")
    return image, name


def familiar(name: str) -> str:
    """An image's name as Docker shows it; where an image came from stays as it is."""
    from reflayer.images import Reference, open_source

    try:
        source = open_source(name)
    except ReflayerError:  # <none>, or an id
        return name
    return source.familiar() if isinstance(source, Reference) else name


def _image_names(db: Connection) -> list[str]:
    return [familiar(row[0]) for row in db.execute("SELECT name FROM names")]


def look_for_image(db: Connection, text: str) -> tuple[StoredImage | None, str | None]:
    """As ``find_image``; None where there is none.

    Raises:
        ImageError: it is neither a name nor an id.
        StoreError: there is more than one.
    """
    image = records.image_named(db, text)
    if image is not None:
        return image, text
    image = records.image_with_full_id(db, text)
    if image is not None:
        return image, None
    image, name = _by_name(db, text)
    if image is None:
        image = records.image_with_id(db, text)
    return image, name


def _by_name(db: Connection, text: str) -> tuple[StoredImage | None, str | None]:
    if is_full_id(text):
        return None, None
    name, digest = _read(text)
    image = records.image_named(db, name)
    if image is None and digest:
        return records.image_with_manifest(db, digest), None
    return image, None if image is None else name


def _read(text: str) -> tuple[str, str]:
    """The name as the store has it, and the digest if it is one of a manifest."""
    from reflayer.images import Reference, open_source

    source = open_source(text)
    return (str(source), source.digest) if isinstance(source, Reference) else (source.name, "")
