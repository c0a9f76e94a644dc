"""The program's parser: global options, and the commands, each imported when it is called.

It is argparse's, since most commands take less time than the import of a larger library would.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from contextlib import suppress
from itertools import takewhile

from reflayer import __version__
from reflayer.cli.commands import COMMANDS, add_quiet, add_root, function_of
from reflayer.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, NoReturn

_DESCRIPTION = """\
Container layers as plain directories, cloned in the kernel.

  reflayer create IMAGE            a container's root file system from an image: \
debian:12, localhost:5000/x:1, oci:DIR:TAG, docker-archive:FILE
  reflayer run IMAGE COMMAND       a command in a container; exec, spec
  reflayer warm IMAGE              containers made ahead, so that create takes one at once
  reflayer ps, path, rm            what there is, where it is, and away with it
  reflayer diff, commit, export    what changed in a container; an image, or a tar, of it
  reflayer checkpoint, rollback    keep what a container is, and go back to it; fork goes on from it
  reflayer pull, push, save        images from registries, to them, and for other programs
  reflayer df                      how much disk each really takes, sharing counted
  reflayer copy SRC DST            the copy alone: one tree the same as another
  reflayer doctor DIR              what that folder's file system can do
  reflayer serve SERVICE           the layers of docker or containerd, as their plugin
"""
_EPILOG = """\
What a script wants is the only thing on standard output; progress and messages go to standard
error. The exit status is 0, 1 (failed) or 2 (wrong usage). "reflayer COMMAND --help" tells more.
"""

_WIDTH = 80  # columns that help takes at the most

# It looks each of its words up in files of translations, which it does not come with.
argparse._ = lambda words: words  # type: ignore[attr-defined]


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help as wide as the terminal; argparse imports ``shutil`` to find that out."""

    def __init__(self, prog: str) -> None:
        try:
            columns = os.get_terminal_size(1).columns
        except OSError:
            columns = _WIDTH
        super().__init__(prog, width=min(columns, _WIDTH))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Paragraphs filled, and each line that begins with a space below its second column.

        A line that begins with more spaces goes on with the one before.
        """
        if len(text) <= width and "\n" not in text:
            return indent + text  # so --version does not import textwrap
        from textwrap import fill

        return "\n".join(
            fill(
                line,
                width,
                initial_indent=indent,
                subsequent_indent=indent + " " * len(re.match(r"(?: .*?\S {2,})?", line)[0]),  # type: ignore[index]
                break_long_words=False,
                break_on_hyphens=False,
            )
            for line in re.sub(r"(?<=\S)\n(?:(?=\S)| {4,})", " ", text).splitlines()
        )


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are its usage without the options, and one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Help, **options)

    def error(self, message: str) -> NoReturn:
        from reflayer.cli.output import asks_for_json, complain_of, one_line

        if asks_for_json():
            complain_of(UsageError(f"{self.prog}: {message}"))
            self.exit(2)
        formatter = _Help(f"{self.prog} [OPTION...]")
        formatter.add_usage(None, self._get_positional_actions(), [])
        usage = formatter.format_help()
        with suppress(OSError):  # self.exit would let it out before Python 3.11.3
            sys.stderr.write(f"{usage}{self.prog}: error: {one_line(message)}\n")
        self.exit(2)

    def refuse_unknown(self, options: Iterable[str]) -> None:
        """Complain of an option by its name: argparse takes what follows it for something else."""
        from reflayer.errors import did_you_mean

        known = self._option_string_actions
        for option in options:
            name = option.partition("=")[0]
            if option.startswith("--") and " " not in option:
                if not any(other.startswith(name) for other in known):
                    self.error(f"unrecognized option {name}{did_you_mean(name, known)}")
            elif option[:1] == "-" and option[1:2].isalpha() and option[:2] not in known:
                self.error(f"unrecognized option {option[:2]}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.dest == "command" and value not in COMMANDS:
            from reflayer.errors import did_you_mean

            close = did_you_mean(value, COMMANDS)
            raise argparse.ArgumentError(
                None, f"{value} is no command{close or ': reflayer --help lists them'}"
            )
        super()._check_value(action, value)


class _Command(_Parser):
    """A command's parser, filled by the command's module when it is needed."""

    def __init__(self, *, command: str, **options: Any) -> None:
        super().__init__(**options)
        self._command = command

    def fill(self) -> None:
        """Import the command."""
        if self._command:
            run = function_of(self._command)
            self._command = ""
            add_root(self, argparse.SUPPRESS)
            for option in run.options:
                option(self)
            if "--quiet" not in self._option_string_actions:  # some have one of their own
                add_quiet(self, argparse.SUPPRESS)
            self.set_defaults(run=run)
            self.description = (run.__doc__ or "").strip().replace("\n    ", "\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.fill()
        command = [one for one in self._actions if one.nargs == argparse.REMAINDER]
        words: Sequence[str] = ()
        if command:
            end = self._end_of_ours(args, len(self._get_positional_actions()) - 1)
            args, words = args[:end], args[end:]
        self.refuse_unknown(takewhile(lambda one: one != "--", args))
        parsed, unknown = super().parse_known_args(args, namespace)
        if words:
            setattr(parsed, command[0].dest, list(words))
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, []

    def _end_of_ours(self, words: Sequence[str], arguments: int) -> int:
        """How many of ``words`` come before a program's own: our options, and so many arguments."""
        known = self._option_string_actions
        at = 0
        while at < len(words):
            word = words[at]
            if word == "--":
                return at + 1 + arguments
            if len(word) < 2 or word[0] != "-":
                if arguments < 2:
                    return at + arguments
                arguments -= 1
            at += 1
            if word[0] != "-":
                continue
            if word[1] == "-":
                close = [action for name, action in known.items() if name.startswith(word)]
                action = known.get(word) or (close[0] if close else None)
                at += action is not None and action.nargs is None
                continue
            for place, letter in enumerate(word[1:], 2):
                action = known.get(f"-{letter}")
                if action is not None and action.nargs is None:  # its value follows
                    at += place == len(word)
                    break
        return at


def parser() -> argparse.ArgumentParser:
    """The whole parser. What it parses has ``run``, the command to call with it."""
    options, given = _before_command(sys.argv[1:])
    is_plain = all(one.partition("=")[0] in ("--root", "--quiet") for one in options)
    program = _with_commands((given,) if is_plain and given in COMMANDS else COMMANDS)[0]
    program.refuse_unknown(options)
    return program


def whole_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser, and each command's with all its arguments: for what is written of them."""
    program, commands = _with_commands(COMMANDS)
    for command in commands.values():
        command.fill()
    return program, {**commands}


def _with_commands(names: Iterable[str]) -> tuple[_Parser, dict[str, _Command]]:
    """The parser with these commands: each takes its time."""
    program = _Parser(prog="reflayer", description=_DESCRIPTION, epilog=_EPILOG)
    program.add_argument("--version", action="version", version=f"reflayer {__version__}")
    add_root(program, default=None)
    add_quiet(program, default=False)
    commands = program.add_subparsers(
        title="commands",
        metavar="COMMAND",
        dest="command",
        prog="reflayer",  # else a formatter is made to find it out, which imports much
        required=True,
        parser_class=_Command,
    )
    return program, {
        name: commands.add_parser(name, help=COMMANDS[name][1], command=name) for name in names
    }


def _before_command(words: Sequence[str]) -> tuple[list[str], str]:
    """The options before the command, without the value of ``--root``, and the command."""
    options: list[str] = []
    left = iter(words)
    for word in left:
        if not word.startswith("-"):
            return options, word
        options.append(word)
        if word == "--root":
            next(left, None)
    return options, ""
