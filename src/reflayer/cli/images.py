"""The commands for images: ``images``, ``inspect``, ``tag``, ``rmi``, ``save``, ``prune``."""

from __future__ import annotations

import os

from reflayer.cli.arguments import (
    ANY_NAME,
    JSON,
    QUIET,
    WAIT,
    each,
    image_name,
    open_store,
    option,
    ownership,
    takes,
)
from reflayer.cli.interrupt import ignore_signals
from reflayer.cli.output import ago, print_json, print_table, seconds_of, size_text, timestamp
from reflayer.errors import brief

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from reflayer.images.model.document import Document
    from reflayer.store import Container, Store
    from reflayer.store.images import StoredImage


@takes(QUIET, JSON)
def images(arguments: Namespace) -> int:
    """List the images. <none> is one whose name has moved to another image; it goes with
    the last of its containers.
    """
    found = open_store(arguments).images()
    if arguments.json:
        print_json([image_fields(one) for one in found])
    elif arguments.quiet:
        for one in found:
            print(_digits(one)[:12])
    else:
        print_table(
            ("NAME", "IMAGE ID", "PLATFORM", "CREATED", "SIZE"),
            [row for one in found for row in _rows(one)],
        )
    return 0


def image_fields(image: StoredImage) -> dict[str, object]:
    """An image for JSON."""
    shown = ("id", "names", "platform", "created", "size")
    return {name: getattr(image, name) for name in shown}


def _digits(image: StoredImage) -> str:
    return image.id.partition(":")[2]


def _rows(image: StoredImage) -> list[tuple[str, ...]]:
    from reflayer.images.model.reference import familiar

    created = seconds_of(image.created)
    rest = (
        _digits(image)[:12],
        brief(image.platform),
        "N/A" if created is None else ago(created),
        "N/A" if image.size is None else size_text(image.size),
    )
    return [(name, *rest) for name in map(familiar, image.names or ("<none>",))]


@takes(option("names NAME", ANY_NAME, nargs="+", completed_by="either"))
def inspect(arguments: Namespace) -> int:
    """Print what is known of containers and images, their command and environment among it, as
    a JSON array of objects as docker inspect has them. Where a container and an image are
    called the same, it is the container.
    """
    from reflayer.store import Container

    store = open_store(arguments)
    told: list[dict[str, object]] = []

    def add(name: str) -> None:
        one = store.find(name)[0]
        told.append(_container(store, one) if isinstance(one, Container) else _image(store, one))

    status = each(arguments.names, add)
    print_json(told)
    return status


def _container(store: Store, container: Container) -> dict[str, object]:
    from reflayer.images.model.reference import familiar

    settings = _config(store, container.image_id).child("config")
    words = () if settings is None else (settings.words("Entrypoint"), settings.words("Cmd"))
    command = [word for part in words for word in part]
    return {
        "Id": container.id,
        "Created": timestamp(container.created),
        "Path": command[0] if command else "",
        "Args": command[1:],
        "Image": container.image_id,
        "Name": f"/{container.name}",
        "Driver": "reflayer",
        "GraphDriver": {"Name": "reflayer", "Data": {"MergedDir": container.path}},
        "Config": {**(settings.fields if settings else {}), "Image": familiar(container.image)},
    }


def _image(store: Store, image: StoredImage) -> dict[str, object]:
    from reflayer.images.model.reference import familiar

    config = _config(store, image.id)
    settings, rootfs = config.child("config"), config.child("rootfs")
    history = list(config.children("history"))
    system, architecture, *variant = image.platform.split("/")
    return {
        "Id": image.id,
        "RepoTags": [familiar(name) for name in image.names if "@" not in name],
        "RepoDigests": [familiar(name) for name in image.names if "@" in name],
        "Comment": history[-1].string("comment") if history else "",
        "Created": image.created,
        "Author": config.string("author"),
        "Architecture": architecture,
        **({"Variant": variant[0]} if variant else {}),
        "Os": system,
        "Size": image.size,
        "RootFS": {"Type": "layers", "Layers": rootfs.strings("diff_ids") if rootfs else []},
        "Config": settings.fields if settings else {},
    }


def _config(store: Store, image: str) -> Document:
    from reflayer.images.model.document import Document

    return Document(store.image_config(image), f"the config of image {image[:19]}")


@takes(image_name(ANY_NAME), option("name NAME", "the new name: [HOST/]NAME[:TAG]"))
def tag(arguments: Namespace) -> int:
    """Give an image another name. What was called so before is called so no longer, and goes
    if it has neither another name nor a container.
    """
    open_store(arguments).tag(arguments.image, arguments.name)
    ignore_signals()
    return 0


@takes(
    option("images IMAGE", ANY_NAME, nargs="+", completed_by="images"),
    option(
        "-f --force",
        "take all names of an image given by its id, and the last one though there are "
        "containers of it: it goes with them",
        action="store_true",
    ),
    WAIT,
)
def rmi(arguments: Namespace) -> int:
    """Remove images: a name, and with the last name the image. One that containers were made
    from stays until they are removed.
    """
    store = open_store(arguments)

    def remove(name: str) -> None:
        gone = store.remove_image(name, wait=arguments.wait, force=arguments.force)
        print(f"Untagged: {name}" if gone is None else f"Deleted: {gone.id}", flush=True)

    return each(arguments.images, remove)


@takes(
    image_name("a name of the image, its id, or the beginning of its id"),
    option("destination DEST", "where to write it"),
    option(
        "--compression",
        "in a layout, of layers that are plain so far; by default gzip",
        choices=["gzip", "zstd", "none"],
    ),
    ownership(),
)
def save(arguments: Namespace) -> int:
    """Write an image to where other programs can read it.

    DEST is one of
      oci:DIR[:TAG]               an OCI image layout, made or added to; what was called
          TAG there is no longer
      docker-archive:FILE[:REF]   what docker load reads; FILE is replaced.
          Without REF the image is called there what IMAGE is

    In a layout, layers that came compressed go out as the same bytes; in an archive all are
    plain, as docker save writes them. It is there when all of it is written.
    """
    from reflayer.cli.progress_bars import bars

    with bars() as progress:
        open_store(arguments).save(
            arguments.image,
            arguments.destination,
            compression=arguments.compression,
            progress=progress,
        )
        ignore_signals()
    return 0


@takes(option("-a --all", "remove all images that have no container, too", action="store_true"))
def prune(arguments: Namespace) -> int:
    """Delete what was removed and is still on the disk, and what crashes left; say why where
    something cannot be deleted. Containers stay, but those of reflayer run --rm whose process
    was killed.
    """
    store = open_store(arguments)
    before = _free(store.root)
    if os.path.isdir(f"{store.root}/running"):
        from reflayer.sandbox.run import sweep

        sweep(store)
    for image in store.prune(unused=arguments.all):
        for name in image.names:
            print(f"Untagged: {name}")
        print(f"Deleted: {image.id}")
    print(f"Total reclaimed space: {size_text(max(0, _free(store.root) - before))}")
    return 0


def _free(root: str) -> int:
    """The bytes that are free where the store is."""
    try:
        status = os.statvfs(root)
    except FileNotFoundError:
        return 0
    return status.f_bfree * status.f_frsize
