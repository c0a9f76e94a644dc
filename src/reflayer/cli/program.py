"""The program and the list of its commands, each imported when it is called."""

from __future__ import annotations

from importlib import import_module

import click

from reflayer import __version__

_MODULES = {
    "create": "containers",
    "ps": "containers",
    "path": "containers",
    "rm": "containers",
    "images": "images",
    "rmi": "images",
    "copy": "copy",
    "doctor": "doctor",
    "bench": "bench",
}
_HELP = {
    "create": "Make a container from an image; print its root's path.",
    "ps": "List the containers.",
    "path": "Print the path of a container's root.",
    "rm": "Remove containers.",
    "images": "List the images.",
    "rmi": "Remove images.",
    "copy": "Make one folder the same tree as another.",
    "doctor": "Tell what a folder's file system can do.",
    "bench": "Measure the methods in a folder, side by side.",
}


class _Commands(click.Group):
    """Commands by name, in the order of a container's life; none is imported to list them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_MODULES)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        if name not in _MODULES:
            return None
        command = getattr(import_module(f"reflayer.cli.{_MODULES[name]}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(_HELP.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.option(
    "--root",
    metavar="DIR",
    envvar="REFLAYER_ROOT",
    show_envvar=True,
    help="The store's folder. By default /var/lib/reflayer for root, else "
    "$XDG_DATA_HOME/reflayer (~/.local/share/reflayer).",
)
@click.pass_context
def program(ctx: click.Context, root: str | None) -> None:
    """Container layers as plain directories, cloned in the kernel.

    \b
      reflayer create oci:DIR:TAG      a container's root file system from an image
      reflayer ps, path, rm            what there is, where it is, and away with it
      reflayer copy SRC DST            the copy alone: one tree the same as another
      reflayer doctor DIR              what that folder's file system can do

    What a script wants is the only thing on standard output; progress and messages go to standard
    error. The exit status is 0, 1 (failed) or 2 (wrong usage).
    """
    ctx.obj = root
