"""``reflayer inspect``."""

from __future__ import annotations

from reflayer.cli.names import complete_either, each
from reflayer.cli.output import print_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from reflayer.images.model.document import Document
    from reflayer.store import Container, Store
    from reflayer.store.records import StoredImage


def add_arguments(parser: ArgumentParser) -> None:
    """Tell ``parser`` what the command takes."""
    parser.description = (
        "Print what is known of containers and images, their command and environment among it, as\n"
        "a JSON array of objects as docker inspect has them. Where a container and an image are\n"
        "called the same, it is the container."
    )
    parser.add_argument(
        "names", metavar="NAME", nargs="+", help="a name, an id, or the beginning of an id"
    ).completer = complete_either  # type: ignore[attr-defined]


def run(arguments: Namespace) -> int:
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
    from reflayer.cli.times import timestamp
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
