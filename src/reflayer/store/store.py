"""``Store``: what can be done with a store; what takes more than a few lines has its own file."""

from __future__ import annotations

import os
from functools import wraps

from reflayer.linux.user_namespace import refuse_foreign
from reflayer.store.containers import (
    Container,
    containers,
    find_container,
    is_unfinished,
    remove_container,
)
from reflayer.store.parts import Parts, default_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from os import PathLike
    from typing import Any, BinaryIO, TypeVar

    from reflayer.archive import Change, Packing
    from reflayer.images.build.manifest import ConfigChanges
    from reflayer.images.model.platform import Platform
    from reflayer.images.model.reference import Reference
    from reflayer.images.registry import Access
    from reflayer.progress import Progress
    from reflayer.store.commit import Committed
    from reflayer.store.containers import Checkpoint
    from reflayer.store.images import StoredImage
    from reflayer.store.usage import Usage
    from reflayer.store.warm import WarmImage
    from reflayer.walk.folders import AnyPath
    from reflayer.walk.id_map import IdMap

    S = TypeVar("S")


def _where_commands_are(store: type[S]) -> type[S]:
    """Let what a store does be done in the user's namespace, where he has one and is not in it."""
    for name, method in [*vars(store).items()]:
        if callable(method) and not name.startswith("_"):
            setattr(store, name, _in_there(method))
    return store


def _in_there(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def wrapper(self: Store, *arguments: Any, **named: Any) -> Any:
        if not self._parts.is_outside:
            return method(self, *arguments, **named)
        image = named.get("image", *arguments[:1])
        if isinstance(image, str) and image.startswith("rootfs:"):
            refuse_foreign(image.removeprefix("rootfs:"))
        return self._parts.do(wrapper, self, *arguments, **named)

    return wrapper


@_where_commands_are
class Store:
    """The images and containers of one machine; any thread and any process may use it at once.

    A container or an image is meant by a name of it, its id, or the beginning of that: StoreError
    where there is none, or more than one. A ``progress`` (``reflayer.progress``) is told a stage,
    how much of it is done (``clone`` and ``measure`` in entries, all else in bytes) and, if it is
    known, of how much.

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
            ownership: of what only root can keep (owners, devices, some extended attributes)
                ``keep`` makes an error, ``record`` keeps what can be in attributes beside, and
                ``ignore`` leaves it out; by default what the last image or container of the store
                was made with, at first ``keep`` for root of the machine, ``record`` for others.
            method: how content is copied, one of ``reflayer.driver.METHODS``.
            workers: threads that work on a copy.

        Raises:
            ValueError: ``ownership`` is none of these, or ``root`` is empty.
            StoreError: there is no ``root``, and this user has no home.
        """
        if ownership is not None:
            from reflayer.walk.metadata import OWNERSHIPS

            if ownership not in OWNERSHIPS:
                raise ValueError(f"ownership {ownership!r} is not one of {', '.join(OWNERSHIPS)}")
        if root is not None and not os.fspath(root):
            raise ValueError("the path of the store's folder is empty")
        self.root = os.path.abspath(os.fsdecode(default_root() if root is None else root))
        self._parts = Parts(self.root, method, ownership, workers, _words)

    @property
    def ownership(self) -> str:
        """As it was given, else as the store remembers; StoreError: it cannot be read."""
        return self._parts.ownership

    def create(
        self,
        image: str | PathLike[str],
        *,
        name: str | None = None,
        platform: str | None = None,
        pull: str = "missing",
        access: Access | None = None,
        size: int = 0,
        id_map: IdMap | str | None = None,
        progress: Progress | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> Container:
        """Make a container: a writable clone of ``image``, whole or not at all.

        Args:
            image: ``oci:DIR[:TAG]``, ``oci-archive:FILE[:TAG]``, ``docker-archive:FILE[:REF]``,
                ``tar:FILE`` (``-`` is standard input), ``rootfs:DIR``, an image of the store by its
                name or id, or of a registry by its name; or ``NAME@CHECKPOINT`` of a container.
            name: the container's; by default one is made up.
            platform: ``os/architecture[/variant]``; by default this machine's.
            pull: ``missing``; ``always`` to ask the registry, or take in a folder, though the store
                has it; ``never`` to take nothing but what the store has.
            access: how a registry is spoken to; by default as Docker's and Podman's files say.
            size: bytes that it may take, its image's part included; 0 for any number.
            id_map: that of a user namespace that it is to run in, as ``IdMap.parse`` takes it, say
                ``0:100000:65536``: its files have the host's ids then. What is told or made of it,
                changes, images, archives and checkpoints, has the image's.
            progress: is told of ``fetch``, ``unpack`` and ``clone``.
            warn: is told in a line what was left out of a folder, of another platform's image,
                that the file system of a store's first image shares no blocks, or, by any thread,
                for how long a registry has to be waited for.

        Raises:
            QuotaError: there is a ``size``, but the file system has no quotas for it.
            ReflayerError: it cannot be made; the store is as it was before.
            ValueError: ``pull`` is none of these, or ``id_map`` no map.
        """
        from reflayer.store.create import Wanted, create

        ids = _id_map(id_map)
        text = _text(image)
        if "@" in text:
            from reflayer.store.checkpoints import fork, named

            if checkpoint := named(self._parts, text):
                return fork(self._parts, *checkpoint, name, size, progress, ids)
        wanted = Wanted(text, _platform(platform), pull, access, progress, warn)
        return create(self._parts, wanted, name, size, ids)

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

        The arguments are those of ``create``, but ``image`` is no id.

        Raises:
            ReflayerError: it cannot be had; the store is as it was before.
        """
        from reflayer.store.create import Wanted, pull

        wanted = Wanted(_text(image), _platform(platform), "always", access, progress, warn)
        return pull(self._parts, wanted)

    def push(
        self,
        image: str,
        destination: str,
        *,
        access: Access | None = None,
        progress: Progress | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> Reference:
        """Send an image to a registry; return what it is there, with its manifest's digest.

        Args:
            image: one that is in the store.
            destination: a reference, with ``docker://`` before it or not.
            access: how the registry is spoken to, as for ``create``.
            progress: is told of ``pack``, for layers that are not compressed yet, and ``push``.
            warn: is told in a line, by any thread, for how long the registry has to be waited for.

        Raises:
            ReflayerError: it is not in the store, or the registry does not take it.
        """
        from reflayer.store.save import push

        return push(self._parts, image, destination, access, progress, warn)

    def warm(
        self,
        image: str | PathLike[str],
        count: int,
        *,
        wait: bool = True,
        platform: str | None = None,
        access: Access | None = None,
        id_map: IdMap | str | None = None,
        progress: Progress | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        """Keep ``count`` containers of ``image`` ready: ``create`` takes one by a rename.

        They are spares: no container of the store's until one is created, deleted where the disk is
        short (``keep_free``), where there is no room for something else, with their image, and a
        day after the last container was made from it. Another process makes the next.

        Args:
            image: as for ``create``; it is fetched where the store lacks it.
            count: how many; with 0 there are none any more.
            wait: return when they are ready, which takes a clone each; else they are made behind.
            platform: as for ``create``.
            access: as for ``create``.
            id_map: as for ``create``, which takes those of its own map alone; an image has those of
                one, the last that was said.
            progress: is told of ``fetch``, ``unpack`` and ``spares``.
            warn: as for ``create``.

        Raises:
            ReflayerError: the image cannot be had, or they cannot be made, as on a full disk.
        """
        from reflayer.store.create import Wanted
        from reflayer.store.warm import warm

        wanted = Wanted(_text(image), _platform(platform), "missing", access, progress, warn)
        warm(self._parts, wanted, count, wait, _id_map(id_map))

    def spares(self) -> list[WarmImage]:
        """The images that are kept warm, by name: how many containers are ready, of how many."""
        from reflayer.store.warm import warm_images

        return warm_images(self._parts)

    def keep_free(self, percent: int) -> None:
        """Let spares go where less than ``percent`` of the disk, or of its inodes, is free."""
        self._parts.make_folders()
        self._parts.driver.keep_free(percent)

    def containers(self) -> list[Container]:
        """All containers, the newest first; StoreError: the database cannot be read."""
        self._parts.go_on()
        with self._parts.database.reading() as db:
            return containers(db, self._parts)

    def container(self, name: str) -> Container:
        """The container with this name, id, or beginning of an id; else StoreError.

        A rollback of it that was cut off is finished before.
        """
        self._parts.go_on()
        with self._parts.database.reading() as db:
            found = find_container(db, name, self._parts)
            was_cut_off = is_unfinished(db, found)
        if was_cut_off:
            from reflayer.store.checkpoints import finish

            finish(self._parts, found)
        return found

    def remove_container(
        self,
        name: str,
        *,
        wait: bool = True,
        recycle: bool = False,
        warn: Callable[[str], None] | None = None,
    ) -> Container:
        """Remove a container; return what it was.

        Args:
            name: the container.
            wait: its folder is deleted by then; else that goes on in another process.
            recycle: undo what changed in it, so that it is a spare of its image, as ``warm`` makes
                them. It is deleted where it cannot be proved that it would be the same tree as one
                that is made anew, and that no process has anything in it any more, and
                where as many spares are ready as are wanted. Without
                ``wait`` another process does it, and only where spares are wanted.
            warn: is told in a line why it was not recycled.

        Raises:
            StoreError: there is none, or more than one.
            OperationError: its folder cannot be removed; the container is still there.
        """
        return remove_container(self._parts, name, wait, recycle, warn)

    def changes(self, name: str, since: str | None = None) -> Iterator[Change]:
        """What is different in a container from its image, as Docker's diff tells it.

        Args:
            name: the container, or ``NAME@CHECKPOINT``.
            since: what it is told from, likewise; by default the container's image.

        Raises:
            StoreError: there is none, or more than one, or its folder is gone.
            LayerError: it was removed meanwhile.
            OperationError: something in it cannot be read.
        """
        from reflayer.store.checkpoints import layer_of
        from reflayer.store.images import image_with_id

        container, layer = layer_of(self._parts, name)
        if since is not None:
            _, parent = layer_of(self._parts, since)
        else:
            with self._parts.database.reading() as db:
                parent = image_with_id(db, container.image_id).layer
        return self._parts.driver.changes(layer, parent)

    def checkpoint(
        self, name: str, checkpoint: str | None = None, *, freeze: AnyPath | None = None
    ) -> Checkpoint:
        """Keep what a container is now, to go back to it or on from it.

        It costs what changed since the last one, or since the container was made, and is written
        out to disk. Others may write to the container meanwhile: each file is in it as it is at
        some moment, and what they change after the beginning is in the next one, too.

        Args:
            name: the container.
            checkpoint: what to call it; by default the next number.
            freeze: the folder of a cgroup (version 2) whose processes stand still meanwhile. A kill
                of this one leaves them so.

        Raises:
            StoreError: there is no such container, or a checkpoint is called so.
            OperationError: what changed cannot be told or copied; nothing is recorded.
        """
        from reflayer.store.checkpoints import checkpoint as make

        return make(self._parts, name, checkpoint, None if freeze is None else os.fsdecode(freeze))

    def rollback(
        self, name: str, checkpoint: str | None = None, *, progress: Progress | None = None
    ) -> Checkpoint | None:
        """Let a container be again what it was; return the checkpoint that it stands on then.

        It costs what changed since the one that it stands on, and what is between the two. Where
        times do not tell what changed (after a boot, on tmpfs and NFS) and with snapshots it is a
        clone, and the container's path leads to another folder then. Nothing may run in it
        meanwhile. If it is cut off, the next call that has to do with the container finishes it
        first.

        Args:
            name: the container.
            checkpoint: to which; by default the last that was made or gone back to, or what the
                container was at first.
            progress: is told of ``clone``.

        Raises:
            StoreError: there is no such container or checkpoint.
            OperationError: it cannot be done; if something is, the next call goes on with it.
        """
        from reflayer.store.checkpoints import rollback

        return rollback(self._parts, name, checkpoint, progress)

    def fork(
        self,
        name: str,
        checkpoint: str | None = None,
        *,
        new: str | None = None,
        progress: Progress | None = None,
    ) -> Container:
        """Make another container of what one is, or was at a checkpoint: a clone.

        Args:
            name: the container.
            checkpoint: of which; by default of one that is made now, unless nothing has changed
                since the last.
            new: the new one's name; by default one is made up.
            progress: is told of ``clone``.

        Raises:
            StoreError: there is no such container or checkpoint, or ``new`` is taken.
            ReflayerError: it cannot be made; the store is as it was before.
        """
        from reflayer.store.checkpoints import fork

        return fork(self._parts, name, checkpoint, new, 0, progress)

    def checkpoints(self, name: str) -> list[Checkpoint]:
        """The checkpoints of a container, the oldest first; StoreError: there is none."""
        from reflayer.store.containers import checkpoints

        return checkpoints(self._parts, name)

    def remove_checkpoint(self, name: str, checkpoint: str, *, wait: bool = True) -> Checkpoint:
        """Remove a checkpoint of a container; return what it was.

        What goes on from it stays, and so do forks. Its files are deleted, with ``wait`` by then,
        as soon as nothing lies on it.

        Raises:
            StoreError: there is no such container or checkpoint.
        """
        from reflayer.store.checkpoints import remove_checkpoint

        return remove_checkpoint(self._parts, name, checkpoint, wait)

    def export(self, name: str, out: BinaryIO, *, progress: Progress | None = None) -> Packing:
        """Write all of a container as a plain tar to ``out``, which is not forced to disk.

        Return the ``entries``, the ``size`` in bytes, and what was ``skipped`` by kind;
        ``progress`` is told of ``pack``.

        Raises:
            StoreError: there is none, or more than one, or its folder is gone.
            LayerError: it was removed meanwhile.
            OperationError: something in it cannot be read, or changed meanwhile.
            OSError: ``out`` cannot be written.
        """
        from reflayer.archive import pack_tree
        from reflayer.store.checkpoints import opened

        container = opened(self._parts, name)
        id_map = container.id_map or self._parts.ids_in_layers()
        packing = pack_tree(container.path, id_map=id_map)
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
            name: the container, or ``NAME@CHECKPOINT``.
            image: its name, as Docker reads them; another that was called so is no longer.
            changes: what is different in how its containers run.
            author: who made it.
            message: what for; it is in the image's history.
            created: in seconds since 1970; by default now.
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
            self._parts, name, image, changes, author, message, created, compression, progress
        )

    def save(
        self,
        image: str,
        destination: str | PathLike[str],
        *,
        compression: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Write an image where other programs read it; compressed layers stay the same bytes.

        Args:
            image: one that is in the store.
            destination: ``oci:DIR[:TAG]``, an OCI image layout that it is added to, or
                ``docker-archive:FILE[:REF]``, a file that is replaced when all is written.
            compression: in a layout, of plain layers: ``gzip`` (default), ``zstd`` or ``none``.
            progress: is told of ``pack`` and ``write``.

        Raises:
            StoreError: there is no such image, or more than one.
            ImageError: it cannot be written there, or a blob is damaged.
            ReflayerError: something could not be read or written; what was there stays as it was.
        """
        from reflayer.store.save import save

        save(self._parts, image, _text(destination), compression, progress)

    def images(self) -> list[StoredImage]:
        """All images, by name, those without one last; StoreError: the database is unreadable."""
        from reflayer.store.images import images

        self._parts.go_on()
        with self._parts.database.reading() as db:
            return images(db)

    def find(self, name: str) -> list[Container | StoredImage]:
        """The container and the image that ``name`` means, in this order; StoreError: neither."""
        from reflayer.store.images import find_either

        with self._parts.database.reading() as db:
            return find_either(db, name, self._parts)

    def image_config(self, image: str) -> dict[str, object]:
        """An image's config, which says how its containers run (OCI image-spec, config.md).

        Raises:
            StoreError: there is none, or more than one.
            ImageError: its blobs are damaged.
        """
        from reflayer.store.images import config_of, find

        return config_of(find(self._parts, image)[0], self._parts)

    def tag(self, image: str, name: str) -> StoredImage:
        """Give an image another name; an image that was called so is no longer.

        Raises:
            StoreError: there is no such image, or more than one.
            ImageError: ``name`` is none, as Docker reads names.
        """
        from reflayer.store.names import tag

        return tag(self._parts, image, name)

    def usage(self, *names: str, progress: Progress | None = None) -> Usage:
        """What containers and images take on disk, and what their removal would give back.

        Every file of those ``names``, by default of all, is looked at; what is not written yet is
        written first. ``progress`` is told of ``measure``.

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

        Return what it was, or None where it stays under other names or for its containers.

        Args:
            name: the image.
            wait: until its folder is deleted; otherwise that goes on in another process.
            force: take all of its names where its id is given, and the last one though there are
                containers of it: it goes with the last of them.

        Raises:
            StoreError: there is none; or, without ``force``, there are containers of it, or its id
                is given but it has several names.
        """
        from reflayer.store.names import remove_image

        return remove_image(self._parts, name, wait, force)

    def prune(self, *, unused: bool = False) -> list[StoredImage]:
        """Delete what is not needed: what was removed and is still there, what crashes left.

        With ``unused``, the images that have no container, too. Return the images that are gone.

        Raises:
            OperationError: something cannot be deleted, the first that could not; all else is.
            StoreError: the database failed.
        """
        from reflayer.store.names import prune

        return prune(self._parts, unused)


def _text(image: str | PathLike[str]) -> str:
    """``image`` as it is written; a path without a transport begins with ``/``, as no name does."""
    if isinstance(image, str):
        return image
    text = os.fsdecode(image)
    return text if ":" in text else os.path.abspath(text)


def _platform(text: str | None) -> Platform | None:
    if text is None:
        return None
    from reflayer.images.model.platform import Platform

    return Platform.parse(text)


def _id_map(told: IdMap | str | None) -> IdMap | None:
    if not isinstance(told, str):
        return told
    from reflayer.walk.id_map import IdMap

    return IdMap.parse(told)


def _words() -> Any:
    """What a container can do itself; it imports ``containers``, which so cannot import it."""
    from reflayer.store import checkpoints

    return checkpoints
