"""``reflayer rm``."""

from __future__ import annotations

from reflayer.cli.names import complete_containers, each

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Tell ``parser`` what the command takes."""
    parser.description = (
        "Remove containers, and print the names of those that are gone.\n\n"
        "They are gone at once; their files are deleted behind, by another process, and so\n"
        "their space comes back a little later. Where one cannot be removed, the others are."
    )
    parser.add_argument(
        "names", metavar="NAME", nargs="+", help="a name, an id, or the beginning of an id"
    ).completer = complete_containers  # type: ignore[attr-defined]
    parser.add_argument("--wait", action="store_true", help="wait until the files are deleted")


def run(arguments: Namespace) -> int:
    """Remove them."""
    from reflayer.store import Store

    store = Store(arguments.root)

    def remove(name: str) -> None:
        store.remove_container(name, wait=arguments.wait)
        print(name, flush=True)

    return each(arguments.names, remove)
