"""The program's parser: global options, and the commands, each imported when it is called.

It is argparse's, since most commands take less time than the import of a larger library would.
"""

from __future__ import annotations

import argparse
import os
from importlib import import_module

from reflayer import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

COMMANDS = {
    "create": "make a container from an image, print its root's path",
    "ps": "list the containers",
    "path": "print the path of a container's root",
    "rm": "remove containers",
    "diff": "list what changed in a container",
    "commit": "make an image of a container",
    "export": "write all of a container as a tar",
    "pull": "fetch an image from a registry and unpack it",
    "push": "send an image to a registry",
    "save": "write an image to a layout or archive for other programs",
    "images": "list the images",
    "rmi": "remove images",
    "containerd-config": "print what containerd, BuildKit and Docker have to be told to use it",
    "df": "show what containers and images really take, and what rm would give back",
    "copy": "make one folder the same tree as another",
    "doctor": "tell what a folder's file system can do, and what to change",
    "serve": "keep the layers of Docker or containerd, as their plugin",
    "bench": "measure the methods in a folder, side by side",
}
"""Each command with its line of help.

Module ``reflayer.cli.NAME``, with ``_`` for each ``-``, has its ``add_arguments``, which tells a
parser what the command takes, and its ``run``, which does it and returns its exit status.
"""

_DESCRIPTION = """\
Container layers as plain directories, cloned in the kernel.

  reflayer create IMAGE            a container's root file system from an image: debian:12,
                                   localhost:5000/x:1, oci:DIR:TAG, docker-archive:FILE
  reflayer ps, path, rm            what there is, where it is, and away with it
  reflayer diff, commit, export    what changed in a container; an image, or a tar, of it
  reflayer pull, push, save        images from registries, to them, and for other programs
  reflayer df                      how much disk each really takes, sharing counted
  reflayer copy SRC DST            the copy alone: one tree the same as another
  reflayer doctor DIR              what that folder's file system can do
  reflayer serve SERVICE           the layers of docker or containerd, as their plugin
"""
_EPILOG = """\
What a script wants is the only thing on standard output; progress and messages go to standard
error. The exit status is 0, 1 (failed) or 2 (wrong usage). "reflayer COMMAND --help" tells more.

Completion in the shell: eval "$(register-python-argcomplete reflayer)"
"""


# It looks each of its words up in files of translations, which it does not come with.
argparse._ = lambda words: words  # type: ignore[attr-defined]


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help as wide as the terminal; argparse imports ``shutil`` to find that out."""

    def __init__(self, prog: str) -> None:
        try:
            columns = os.get_terminal_size(1).columns
        except OSError:
            columns = 100
        super().__init__(prog, width=min(columns, 100))


class _Command(argparse.ArgumentParser):
    """A command's parser, filled by the command's module when it is needed."""

    def __init__(self, *, module: str, **options: Any) -> None:
        super().__init__(formatter_class=_Help, **options)
        self._module = module

    def fill(self) -> None:
        """Import the command."""
        if self._module:
            command = import_module(self._module)
            self._module = ""
            command.add_arguments(self)
            self.set_defaults(run=command.run)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As its base class does."""
        self.fill()
        return super().parse_known_args(args, namespace)


def parser() -> argparse.ArgumentParser:
    """The whole parser; what it returns has ``run``, to be called with it."""
    program = argparse.ArgumentParser(
        prog="reflayer",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=_Help,
    )
    program.add_argument("--version", action="version", version=f"reflayer {__version__}")
    program.add_argument(
        "--root",
        metavar="DIR",
        default=os.environ.get("REFLAYER_ROOT") or None,
        help="the store's folder; by default $REFLAYER_ROOT, else /var/lib/reflayer for root and "
        "$XDG_DATA_HOME/reflayer (~/.local/share/reflayer) for others",
    )
    commands = program.add_subparsers(
        title="commands",
        metavar="COMMAND",
        prog="reflayer",  # else a formatter is made to find it out, which imports much
        required=True,
        parser_class=_Command,
    )
    for name, line in COMMANDS.items():
        commands.add_parser(name, help=line, module=_module(name))
    if "_ARGCOMPLETE" in os.environ:
        _complete(program, list(commands.choices.values()))
    return program


def _module(command: str) -> str:
    return f"reflayer.cli.{command.replace('-', '_')}"


def _complete(program: argparse.ArgumentParser, commands: Sequence[_Command]) -> None:
    """Answer the shell that asks how the command line could go on, and exit."""
    import argcomplete

    for command in commands:
        command.fill()
    argcomplete.autocomplete(program, always_complete_options=False)
