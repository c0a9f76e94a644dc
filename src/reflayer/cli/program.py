"""The program's parser: global options, and the commands, each imported when it is called.

It is argparse's, since most commands take less time than the import of a larger library would.
"""

from __future__ import annotations

import argparse
import re
import sys
from contextlib import suppress
from itertools import takewhile

from reflayer import __version__
from reflayer.cli.commands import COMMANDS, add_quiet, add_root, function_of
from reflayer.cli.help import DESCRIPTION, EPILOG, VERSION, help_text
from reflayer.cli.output import WIDTH, filled, terminal_width
from reflayer.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, NoReturn

_ELSEWHERE = {  # what other programs call what there is here
    "ps": "ls list",
    "rm": "delete remove",
    "run": "start shell",
    "exec": "attach",
    "create": "clone unpack",
    "commit": "build",
    "checkpoint": "snapshot",
    "rollback": "restore revert",
    "inspect": "history",
    "path": "mount",
}

# It looks each of its words up in files of translations, which it does not come with.
argparse._ = lambda words: words  # type: ignore[attr-defined]


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help as wide as the terminal; argparse imports ``shutil`` to find that out."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=min(terminal_width(), WIDTH))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Paragraphs filled, and each line that begins with a space below its second column.

        A line that begins with more spaces goes on with the one before.
        """
        return "\n".join(
            filled(
                indent + line,
                width,
                indent + " " * len(re.match(r"(?: .*?\S {2,})?", line)[0]),  # type: ignore[index]
            )
            for line in re.sub(r"(?<=\S)\n(?:(?=\S)| {4,})", " ", text).splitlines()
        )


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are its usage without the options, and one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Help, **options)

    def error(self, message: str) -> NoReturn:
        from reflayer.cli.output import complain_of, one_line, wants_json

        if wants_json():
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

            ours = next((name for name in _ELSEWHERE if value in _ELSEWHERE[name].split()), value)
            close = did_you_mean(ours, COMMANDS)
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
            self.description = (run.__doc__ or "").strip()
            if sys.version_info < (3, 13):  # from then on it is compiled without indentation
                self.description = self.description.replace("\n    ", "\n")

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
    program = _Parser(prog="reflayer", description=DESCRIPTION, epilog=EPILOG)
    program.format_help = help_text  # type: ignore[method-assign]
    version = f"reflayer {__version__}"
    program.add_argument("--version", action="version", version=version, help=VERSION)
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
