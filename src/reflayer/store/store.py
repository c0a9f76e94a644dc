"""``Store``: what can be done with a store.

What takes more than a few lines is a function in a file of its own; its documentation is here.
"""

from __future__ import annotations

import os

from reflayer.store.containers import (
    Container,
    container_with_folder,
    containers,
    find_container,
    remove_container,
)
from reflayer.store.parts import Parts, default_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from os import PathLike
    from typing import BinaryIO

    from reflayer.archive import Change, Packing
    from reflayer.images.build.manifest import ConfigChanges
    from reflayer.images.model.reference import Reference
    from reflayer.images.registry import Access
    from reflayer.progress import Progress
    from reflayer.store.commit import Committed
    from reflayer.store.images import StoredImage
    from reflayer.store.usage import Usage
    from reflayer.walk.folders import AnyPath


class Store:
    """The images and containers of one machine; any thread and any process may use it at once.

    A container or an image is meant by a name of it, its id, or the beginning of that. What takes
    its time has a ``progress`` (``reflayer.progress``), which is told a stage, how much of it is
    done (``clone`` and ``measure`` in entries, all else in bytes) and, if it is known, of how much.

    Attributes:
        root: the store's folder, absolute.
    """

    def __init__(
        self,
        root: AnyPath | None = None,
        *,
        ownership: str | None = None,
        method: str = "auto",
        workers: int | None = None,
    ) -> None:
        """Nothing is touched before something is asked for.

        Args:
            root: the store's folder; by default ``$REFLAYER_ROOT``, else ``/var/lib/reflayer`` for
                root and ``$XDG_DATA_HOME/reflayer`` for others. The first ``create`` makes it.
            ownership: ``keep``, or ``ignore`` to leave out what only root can keep: owners,
                devices, some extended attributes; by default what the last image or container of
                the store was made with, at first ``keep``.
            method: how content is copied, one of ``reflayer.driver.METHODS``.
            workers: threads that work on a copy.

        Raises:
            ValueError: ``ownership`` is neither, or ``root`` is empty.
            StoreError: there is no ``root``, and this user has no home.
        """
        if ownership not in (None, "keep", "ignore"):
            raise ValueError(f"ownership {ownership!r} is neither keep nor ignore")
        if root is not None and not os.fspath(root):
            raise ValueError("the path of the store's folder is empty")
        self.root = os.path.abspath(os.fsdecode(default_root() if root is None else root))
        self._parts = Parts(self.root, method, ownership, workers)

    @property
    def ownership(self) -> str:
        """``keep`` or ``ignore``: as it was given, else as the store remembers it.

        Raises:
            StoreError: the database cannot be read.
        """
        return self._parts.ownership

    def create(
        self,
        image: str | PathLike[str],
        *,
        name: str | None = None,
        platform: str | None = None,
        pull: str = "missing",
        access: Access | None = None,
        progress: Progress | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> Container:
        """Make a container: a writable clone of ``image``, whole or not at all.

        Args:
            image: ``oci:DIR[:TAG]``, ``oci-archive:FILE[:TAG]``, ``docker-archive:FILE[:REF]``,
                ``tar:FILE`` (``-`` is standard input), ``rootfs:DIR``,
                or the name or id of an image that is in the store or, a name, in its registry.
            name: the container's; by default one is made up.
            platform: ``os/architecture[/variant]``; by default this machine's.
            pull: ``missing``; ``always`` to ask the registry, or take in a folder, though the store
                has it; ``never`` to take nothing but what the store has.
            access: how a registry is to be spoken to; by default as Docker's and Podman's files of
                credentials and certificates say.
            progress: is told of ``fetch``, ``unpack`` and ``clone``.
            warn: is told in a line what was left out of a folder, or that the image is for another
                platform.

        Raises:
            ReflayerError: it cannot be made; the store is as it was before.
            ValueError: ``pull`` is none of these.
        """
        from reflayer.store.create import create
        from reflayer.store.pull import Wanted

        wanted = Wanted(_text(image), platform, pull, access, progress, warn)
        return create(self._parts, wanted, name)

    def pull(
        self,
        image: str | PathLike[str],
        *,
        platform: str | None = None,
        access: Access | None = None,
        progress: Progress | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> StoredImage:
        """Have an image in the store as its registry has it now, unpacked.

        Args:
            image: what ``create`` takes, but no id.
            platform: ``os/architecture[/variant]``; by default this machine's.
            access: how the registry is to be spoken to.
            progress: is told of ``fetch``, ``unpack`` and ``clone``.
            warn: as for ``create``.

        Raises:
            ReflayerError: it cannot be had; the store is as it was before.
        """
        from reflayer.store.pull import Wanted, pull

        wanted = Wanted(_text(image), platform, "always", access, progress, warn)
        return pull(self._parts, wanted)

    def push(
        self,
        image: str,
        destination: str,
        *,
        access: Access | None = None,
        progress: Progress | None = None,
    ) -> Reference:
        """Send an image to a registry.

        Args:
            image: one that is in the store.
            destination: a reference, with ``docker://`` before it or not.
            access: how the registry is to be spoken to.
            progress: is told of ``pack``, for layers that are not compressed yet, and ``push``.

        Returns:
            What it is there, with the digest of its manifest.

        Raises:
            ReflayerError: it is not in the store, or the registry does not take it.
        """
        from reflayer.store.save import push

        return push(self._parts, image, destination, access, progress)

    def containers(self) -> list[Container]:
        """All containers, the newest first.

        Raises:
            StoreError: the database cannot be read.
        """
        self._parts.go_on()
        with self._parts.database.reading() as db:
            return containers(db, self._parts)

    def container(self, name: str) -> Container:
        """The container with this name, id, or beginning of an id.

        Raises:
            StoreError: there is none, or more than one.
        """
        self._parts.go_on()
        with self._parts.database.reading() as db:
            return find_container(db, name, self._parts)

    def remove_container(self, name: str, *, wait: bool = True) -> Container:
        """Remove a container; return what it was.

        Args:
            name: the container.
            wait: wait until its folder is deleted; otherwise that goes on in another process.

        Raises:
            StoreError: there is none, or more than one.
            OperationError: its folder cannot be removed; the container is still there.
        """
        return remove_container(self._parts, name, wait)

    def changes(self, name: str) -> Iterator[Change]:
        """What is different in a container from its image, as Docker's diff tells it.

        Raises:
            StoreError: there is none, or more than one, or its folder is gone.
            LayerError: it was removed meanwhile.
            OperationError: something in it cannot be read.
        """
        parts = self._parts
        with parts.database.reading() as db:
            container = container_with_folder(db, name, parts)
            (layer,) = db.execute(
                "SELECT layer FROM images WHERE id = ?", (container.image_id,)
            ).fetchone()
        return parts.driver.changes(container.id, layer)

    def export(self, name: str, out: BinaryIO, *, progress: Progress | None = None) -> Packing:
        """Write all of a container as a plain tar.

        Args:
            name: the container.
            out: a buffered file; nothing is forced to disk.
            progress: is told of ``pack``.

        Returns:
            What was written: ``entries``, ``size`` in bytes, and what was ``skipped`` by kind.

        Raises:
            StoreError: there is none, or more than one, or its folder is gone.
            LayerError: it was removed meanwhile.
            OperationError: something in it cannot be read, or changed meanwhile.
            OSError: ``out`` cannot be written.
        """
        from reflayer.archive import pack_tree

        with self._parts.database.reading() as db:
            container = container_with_folder(db, name, self._parts)
        packing = pack_tree(container.path)
        for chunk in packing:
            out.write(chunk)
            if progress is not None:
                progress("pack", packing.size, None)
        self._parts.driver.path(container.id)  # else its deletion may have gone before us
        return packing

    def commit(
        self,
        name: str,
        image: str,
        *,
        changes: ConfigChanges | None = None,
        author: str = "",
        message: str = "",
        created: float | None = None,
        compression: str = "gzip",
        progress: Progress | None = None,
    ) -> Committed:
        """Make an image of a container: its own image's layers, and on top what changed in it.

        The same changes with the same words are the same image. Where nothing changed, it has no
        more layers than its parent.

        Args:
            name: the container.
            image: what the image is to be called, as Docker reads names; another that was called so
                is no longer.
            changes: what is different in how its containers run.
            author: who made it.
            message: what for; it is in the image's history.
            created: when it was made, in seconds since the epoch; by default now.
            compression: of the new layer: ``gzip``, ``zstd`` or ``none``.
            progress: is told of ``pack``, ``unpack`` and ``clone``.

        Raises:
            StoreError: there is no such container, or more than one, or its folder is gone.
            ImageError: the name cannot be one, or something in the config is no text.
            ArchiveError: a name in the container cannot be in a layer.
            ReflayerError: something could not be read or written; nothing is recorded.
            ValueError: ``compression`` is none of these.
        """
        from reflayer.store.commit import commit

        return commit(
            self._parts,
            name,
            image,
            changes,
            author=author,
            message=message,
            created=created,
            compression=compression,
            progress=progress,
        )

    def save(
        self,
        image: str,
        destination: str | PathLike[str],
        *,
        compression: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Write an image to where other programs can read it.

        Layers that came compressed go out as the same bytes.

        Args:
            image: one that is in the store.
            destination: ``oci:DIR[:TAG]``, an OCI image layout that it is added to, or
                ``docker-archive:FILE[:REF]``, a file that is replaced when all is written.
            compression: in a layout, of layers that are plain so far: ``gzip``, which is the
                default, ``zstd`` or ``none``.
            progress: is told of ``pack`` and ``write``.

        Raises:
            StoreError: there is no such image, or more than one.
            ImageError: it cannot be written there, or a blob is damaged.
            ReflayerError: something could not be read or written; what was there stays as it was.
        """
        from reflayer.store.save import save

        save(self._parts, image, _text(destination), compression, progress)

    def images(self) -> list[StoredImage]:
        """All images, by name; those without a name last.

        Raises:
            StoreError: the database cannot be read.
        """
        from reflayer.store.images import images

        self._parts.go_on()
        with self._parts.database.reading() as db:
            return images(db)

    def find(self, name: str) -> list[Container | StoredImage]:
        """The container and the image that ``name`` means, the container first.

        Raises:
            StoreError: there is neither, or more than one of a kind.
        """
        from reflayer.store.images import find_either

        with self._parts.database.reading() as db:
            return find_either(db, name, self._parts)

    def image_config(self, image: str) -> dict[str, object]:
        """An image's config, which says how its containers run (OCI image-spec, config.md).

        Raises:
            StoreError: there is none, or more than one.
            ImageError: its blobs are damaged.
        """
        from reflayer.store.images import config_of, find_image

        with self._parts.database.reading() as db:
            known, _ = find_image(db, image)
        return config_of(known, self._parts)

    def tag(self, image: str, name: str) -> StoredImage:
        """Give an image another name; an image that was called so is no longer.

        Args:
            image: one that is in the store.
            name: the new one, as Docker reads names.

        Raises:
            StoreError: there is no such image, or more than one.
            ImageError: the name cannot be one.
        """
        from reflayer.store.images import tag

        return tag(self._parts, image, name)

    def usage(self, *names: str, progress: Progress | None = None) -> Usage:
        """What containers and images take on disk, and what their removal would give back.

        Every file is looked at; what is not written yet is written first.

        Args:
            names: of containers and images; by default all.
            progress: is told of ``measure``.

        Raises:
            StoreError: one of ``names`` is neither, or the beginning of several ids.
            OperationError: something cannot be read for another reason than its permissions.
        """
        from reflayer.store.usage import usage

        self._parts.go_on()
        return usage(self._parts, names, progress)

    def remove_image(
        self, name: str, *, wait: bool = True, force: bool = False
    ) -> StoredImage | None:
        """Remove an image, or only one of its names where it has others.

        Args:
            name: the image.
            wait: wait until its folder is deleted; otherwise that goes on in another process.
            force: take all of its names where its id is given, and the last one though there are
                containers of it: it goes with the last of them.

        Returns:
            What the image was, or None where it stays under other names or for its containers.

        Raises:
            StoreError: there is none; or, without ``force``, there are containers of it, or its id
                is given but it has several names.
        """
        from reflayer.store.images import remove_image

        return remove_image(self._parts, name, wait, force)

    def prune(self, *, unused: bool = False) -> list[StoredImage]:
        """Delete what is not needed: what was removed and is still there, what crashes left.

        Args:
            unused: the images that have no container, too.

        Returns:
            The images that are gone.

        Raises:
            OperationError: something cannot be deleted, the first that could not; all else is.
            StoreError: the database failed.
        """
        from reflayer.store.images import prune

        return prune(self._parts, unused)


def _text(image: str | PathLike[str]) -> str:
    """``image`` as it is written; a path without a transport begins with ``/``, as no name does."""
    if isinstance(image, str):
        return image
    text = os.fsdecode(image)
    return text if ":" in text else os.path.abspath(text)
