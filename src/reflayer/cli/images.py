"""The commands for images: ``images``, ``inspect``, ``tag``, ``rmi``, ``save``, ``prune``."""

from __future__ import annotations

import os

from reflayer.cli.arguments import (
    ANY_NAME,
    add_image,
    add_json,
    add_ownership,
    add_quiet,
    add_wait,
    complete_either,
    complete_images,
    completed,
    each,
)
from reflayer.cli.bars import bars
from reflayer.cli.interrupt import ignore_signals
from reflayer.cli.output import ago, print_json, print_table, seconds_of, size_text, timestamp
from reflayer.errors import brief

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from reflayer.images.model.document import Document
    from reflayer.store import Container, Store
    from reflayer.store.records import StoredImage


def add_images(parser: ArgumentParser) -> None:
    """Tell ``parser`` what ``reflayer images`` takes."""
    parser.description = (
        "List the images. <none> is one whose name has moved to another image; it goes with\n"
        "the last of its containers."
    )
    add_quiet(parser)
    add_json(parser)


def run_images(arguments: Namespace) -> int:
    """Print them."""
    from reflayer.store import Store

    images = Store(arguments.root).images()
    if arguments.json:
        print_json([image_fields(one) for one in images])
    elif arguments.quiet:
        for one in images:
            print(_digits(one)[:12])
    else:
        print_table(
            ("NAME", "IMAGE ID", "PLATFORM", "CREATED", "SIZE"),
            [row for one in images for row in _rows(one)],
        )
    return 0


def image_fields(image: StoredImage) -> dict[str, object]:
    """An image for JSON."""
    return {
        "id": image.id,
        "names": list(image.names),
        "platform": image.platform,
        "created": image.created,
        "size": image.size,
    }


def _digits(image: StoredImage) -> str:
    return image.id.partition(":")[2]


def _rows(image: StoredImage) -> list[tuple[str, ...]]:
    from reflayer.store.find import familiar

    created = seconds_of(image.created)
    rest = (
        _digits(image)[:12],
        brief(image.platform),
        "N/A" if created is None else ago(created),
        "N/A" if image.size is None else size_text(image.size),
    )
    return [(name, *rest) for name in map(familiar, image.names or ("<none>",))]


def add_inspect(parser: ArgumentParser) -> None:
    """Tell ``parser`` what ``reflayer inspect`` takes."""
    parser.description = (
        "Print what is known of containers and images, their command and environment among it, as\n"
        "a JSON array of objects as docker inspect has them. Where a container and an image are\n"
        "called the same, it is the container."
    )
    names = parser.add_argument("names", metavar="NAME", nargs="+", help=ANY_NAME)
    completed(names, complete_either)


def run_inspect(arguments: Namespace) -> int:
    """Print it."""
    from reflayer.store import Container, Store

    store = Store(arguments.root)
    told: list[dict[str, object]] = []

    def add(name: str) -> None:
        one = store.find(name)[0]
        told.append(_container(store, one) if isinstance(one, Container) else _image(store, one))

    status = each(arguments.names, add)
    print_json(told)
    return status


def _container(store: Store, container: Container) -> dict[str, object]:
    from reflayer.store.find import familiar

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
    from reflayer.store.find import familiar

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


def add_tag(parser: ArgumentParser) -> None:
    """Tell ``parser`` what ``reflayer tag`` takes."""
    parser.description = (
        "Give an image another name. What was called so before is called so no longer, and goes\n"
        "if it has neither another name nor a container."
    )
    add_image(parser, ANY_NAME)
    parser.add_argument("name", metavar="NAME", help="the new name: [HOST/]NAME[:TAG]")


def run_tag(arguments: Namespace) -> int:
    """Name it."""
    from reflayer.store import Store

    Store(arguments.root).tag(arguments.image, arguments.name)
    return 0


def add_rmi(parser: ArgumentParser) -> None:
    """Tell ``parser`` what ``reflayer rmi`` takes."""
    parser.description = (
        "Remove images: a name, and with the last name the image. One that containers were made\n"
        "from stays until they are removed."
    )
    images = parser.add_argument("images", metavar="IMAGE", nargs="+", help=ANY_NAME)
    completed(images, complete_images)
    parser.add_argument(
        "-f",
        "--force",
        action="store_true",
        help="take all names of an image given by its id, and the last one though there are "
        "containers of it: it goes with them",
    )
    add_wait(parser)


def run_rmi(arguments: Namespace) -> int:
    """Remove them."""
    from reflayer.store import Store

    store = Store(arguments.root)

    def remove(name: str) -> None:
        gone = store.remove_image(name, wait=arguments.wait, force=arguments.force)
        print(f"Untagged: {name}" if gone is None else f"Deleted: {gone.id}", flush=True)

    return each(arguments.images, remove)


def add_save(parser: ArgumentParser) -> None:
    """Tell ``parser`` what ``reflayer save`` takes."""
    parser.description = (
        "Write an image to where other programs can read it.\n\n"
        "DEST is one of\n"
        "  oci:DIR[:TAG]               an OCI image layout, made or added to; what was called TAG "
        "there is no longer\n"
        "  docker-archive:FILE[:REF]   what docker load reads; FILE is replaced. Without REF "
        "the image is called there what IMAGE is\n\n"
        "In a layout, layers that came compressed go out as the same bytes; in an archive all are\n"
        "plain, as docker save writes them. It is there when all of it is written."
    )
    add_image(parser, "a name of the image, its id, or the beginning of its id")
    parser.add_argument("destination", metavar="DEST", help="where to write it")
    parser.add_argument(
        "--compression",
        choices=["gzip", "zstd", "none"],
        help="in a layout, of layers that are plain so far; by default gzip",
    )
    add_ownership(parser)


def run_save(arguments: Namespace) -> int:
    """Write it."""
    from reflayer.store import Store

    with bars() as progress:
        Store(arguments.root, ownership=arguments.ownership).save(
            arguments.image,
            arguments.destination,
            compression=arguments.compression,
            progress=progress,
        )
        ignore_signals()
    return 0


def add_prune(parser: ArgumentParser) -> None:
    """Tell ``parser`` what ``reflayer prune`` takes."""
    parser.description = (
        "Delete what was removed and is still on the disk, and what crashes left; say why where\n"
        "something cannot be deleted. Containers stay."
    )
    parser.add_argument(
        "-a", "--all", action="store_true", help="remove all images that have no container, too"
    )


def run_prune(arguments: Namespace) -> int:
    """Delete it."""
    from reflayer.store import Store

    store = Store(arguments.root)
    before = _free(store.root)
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
