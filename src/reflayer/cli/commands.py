"""What commands there are, and how a line without surprises is read.

argparse reads the others: to import and to fill it takes longer than most commands.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator, Sequence
    from typing import Any, Self

GROUPS = {
    "containers": {
        "create": ("create", "make a container from an image, print its root's path"),
        "run": ("run", "run a command in a container, as its image says"),
        "exec": ("run", "run one more command where one runs"),
        "spec": ("run", "write a container's config.json for any OCI runtime"),
        "warm": ("warm", "keep containers ready, so that create costs a rename"),
        "ps": ("containers", "list the containers"),
        "path": ("containers", "print the path of a container's root"),
        "rm": ("containers", "remove containers"),
        "diff": ("containers", "list what changed in a container"),
        "commit": ("commit", "make an image of a container"),
        "checkpoint": ("checkpoints", "keep what a container is now, to go back to it"),
        "rollback": ("checkpoints", "let a container be again what it was"),
        "fork": ("checkpoints", "make containers of what one is, or was at a checkpoint"),
        "checkpoints": ("checkpoints", "list the checkpoints of a container"),
        "export": ("containers", "write all of a container as a tar"),
    },
    "images": {
        "pull": ("registries", "fetch an image from a registry and unpack it"),
        "push": ("registries", "send an image to a registry"),
        "save": ("images", "write an image to a layout or archive for other programs"),
        "images": ("images", "list the images"),
        "inspect": ("images", "print what images and containers are, as Docker does"),
        "tag": ("images", "give an image another name"),
        "rmi": ("images", "remove images"),
        "prune": ("images", "delete what was removed and is still on the disk"),
    },
    "all else": {
        "containerd-config": (
            "containerd_config",
            "print the settings of containerd, BuildKit, Docker",
        ),
        "df": ("df", "show what each really takes, and what rm would give back"),
        "copy": ("copy", "make one folder the same tree as another"),
        "doctor": ("doctor", "tell what a file system can do, and what to change"),
        "serve": ("serve", "keep the layers of Docker or containerd, as their plugin"),
        "unshare": ("namespace", "run a program that has the owners of images, without root"),
        "bench": ("bench", "measure the methods in a folder, side by side"),
        "completion": ("completion", "print what bash, zsh or fish completes command lines by"),
    },
}
"""The commands as help shows them, each with the file that it is in, and its line of help.

The function of its name in module ``reflayer.cli.FILE`` does it, and returns its exit status.
"""

COMMANDS = {name: told for group in GROUPS.values() for name, told in group.items()}


class Argument:
    """An option or a positional argument, as ``add_argument`` is told of it."""

    def __init__(self, names: Sequence[str], settings: dict[str, Any]) -> None:
        self.completed_by: str | None = None
        self.help: str = settings["help"]
        self._settings = settings
        long = [name for name in names if name.startswith("--")]
        name = (long or names)[0]
        self.is_option = name.startswith("-")
        self.dest: str = settings.get("dest") or name.lstrip("-").replace("-", "_")
        self.nargs = settings.get("nargs")
        self.is_flag = settings.get("action") == "store_true"
        self.is_simple = self.is_flag or (self.nargs is None and "action" not in settings)

    def default(self) -> object:
        """What it is where the line does not have it."""
        default = self._settings.get("default", False if self.is_flag else None)
        if self.nargs in ("*", "...") and default is None:
            return []
        return self.value(default) if isinstance(default, str) else default

    def value(self, word: str) -> object:
        """What a word is read as."""
        value = self._settings["type"](word) if "type" in self._settings else word
        if "choices" in self._settings and value not in self._settings["choices"]:
            raise ValueError
        return value


class Arguments:
    """What a command takes, in the place of a parser."""

    def __init__(self) -> None:
        self.positional: list[Argument] = []
        self.options: dict[str, Argument] = {}

    def add_argument(self, *names: str, **settings: Any) -> Argument:
        """Note one."""
        one = Argument(names, settings)
        if one.is_option:
            self.options.update(dict.fromkeys(names, one))
        else:
            self.positional.append(one)
        return one

    def add_argument_group(self, *_: str) -> Self:
        """Those that help shows together."""
        return self


class Line:
    """What was read: an attribute for each argument, as argparse has it."""

    def __init__(self, values: dict[str, object]) -> None:
        self.__dict__ = values


def function_of(command: str) -> Any:
    """The function that does a command, whose file is imported for it."""
    name = f"reflayer.cli.{COMMANDS[command][0]}"
    __import__(name)  # importlib imports warnings, too
    return getattr(sys.modules[name], command.replace("-", "_"))


class _Unusual(Exception):  # noqa: N818  # no error: argparse tells whether it is one
    """Something that argparse has to read."""


def read_plainly(line: Sequence[str]) -> Namespace | None:
    """What ``line`` says, as argparse would; None where that has to read it.

    That is so for whatever is no whole option, no value of one and no argument: what is
    abbreviated, wrong, or asks for help, and letters that are joined.
    """
    words = list(line)
    root, is_quiet = None, False
    if words and words[0].startswith("--root="):
        words[:1] = words[0].split("=", 1)
    while words and words[0] in ("--root", "--quiet"):
        is_quiet = is_quiet or words[0] == "--quiet"
        if words.pop(0) == "--root":
            root = words.pop(0) if words else ""
    if not words or words[0] not in COMMANDS or root == "":
        return None
    command = words.pop(0)
    run = function_of(command)
    taken = Arguments()
    add_root(taken)  # type: ignore[arg-type]
    add_quiet(taken)  # type: ignore[arg-type]
    for option in run.options:
        option(taken)
    try:
        values: dict[str, object] = {
            one.dest: one.default() for one in (*taken.options.values(), *taken.positional)
        }
        if root is not None:
            values["root"] = taken.options["--root"].value(root)
        values.update(_read(taken, words))
    except Exception:  # of a type's: argparse has it told as wrong usage
        return None
    values["is_quiet"] = is_quiet or values.get("is_quiet", False)
    return Line({"command": command, "run": run, **values})  # type: ignore[return-value]


def _read(taken: Arguments, words: list[str]) -> Iterator[tuple[str, object]]:
    """Each argument that the words have, by its name."""
    found: list[str] = []
    at = iter(words)
    rest = [number for number, one in enumerate(taken.positional) if one.nargs == "..."]
    for word in at:
        if rest == [len(found)] and word[:1] != "-":
            yield taken.positional[-1].dest, [word, *at]
        elif word[:1] != "-" or word == "-":
            found.append(word)
        else:
            name, is_joined, joined = word.partition("=")
            option = taken.options.get(name)
            if option is None or not option.is_simple:
                raise _Unusual
            if is_joined and (option.is_flag or not joined or name[:2] != "--"):
                raise _Unusual
            value = joined if is_joined or option.is_flag else next(at, "-")
            if value[:1] == "-":
                raise _Unusual
            yield option.dest, option.is_flag or option.value(value)
    for one in taken.positional:
        if one.nargs in ("+", "*") and found:
            yield one.dest, [one.value(word) for word in found]
            found = []
        elif one.nargs in (None, "?") and found:
            yield one.dest, one.value(found.pop(0))
        elif one.nargs in (None, "+"):
            raise _Unusual
    if found:
        raise _Unusual


def add_root(parser: ArgumentParser, default: str | None = None) -> None:
    """The store's folder."""
    parser.add_argument(
        "--root",
        metavar="DIR",
        type=_path,
        default=default,
        help="the store's folder; by default $REFLAYER_ROOT, else /var/lib/reflayer for root and "
        "$XDG_DATA_HOME/reflayer (~/.local/share/reflayer) for others",
    )


def add_quiet(parser: ArgumentParser, default: str | bool = False) -> None:
    """Whether nobody wants to hear what is no failure."""
    parser.add_argument(
        "--quiet",
        action="store_true",
        dest="is_quiet",
        default=default,
        help="no progress and no remarks on standard error, errors alone",
    )


def _path(text: str) -> str:
    from reflayer.cli.arguments import any_path

    return any_path(text)
