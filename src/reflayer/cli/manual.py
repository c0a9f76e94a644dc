"""The manual, made from the parser: a page for man(1) of each command, and all on one for the web.

``python -m reflayer.cli.manual docs/cli.md`` writes that one anew; with the name of a folder it
writes what a package installs below ``/usr/share``: pages for man, and what shells complete by.
"""

from __future__ import annotations

import os
import re
import sys
from argparse import REMAINDER, SUPPRESS

from reflayer import __version__
from reflayer.cli.commands import COMMANDS
from reflayer.cli.completion import SHELLS, arguments_of, completion_script
from reflayer.cli.program import whole_parser
from reflayer.cli.registries import ACCESS_TITLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Action, ArgumentParser
    from collections.abc import Iterator

    Block = tuple[str, str]  # a kind, text or lines as they are or a term, and its text

_COMPLETIONS = {
    "bash": "bash-completion/completions/reflayer",
    "zsh": "zsh/site-functions/_reflayer",
    "fish": "fish/vendor_completions.d/reflayer.fish",
}
_COMMON = {"help", "root", "is_quiet"}  # what each command takes
_ENVIRONMENT = {
    "REFLAYER_ROOT": "the store's folder, where --root does not name it",
    "XDG_DATA_HOME": "the folder in which an ordinary user's store is, as reflayer",
    "REFLAYER_PURE": "1: leave the part in C out",
    "REFLAYER_ERRORS": "json: an error is an object with a code, whatever the command is",
    "NO_COLOR": "not empty: no colours",
}
_FILES = {
    "/var/lib/reflayer": "root's store",
    "~/.local/share/reflayer": "the store of anybody else",
}
_STATUS = {
    "0": "done",
    "1": "failed: a line on standard error says why, or an object with a code",
    "2": "wrong usage",
}


def files() -> dict[str, str]:
    """What a package installs: each file's text by its path below ``share``."""
    program, commands = whole_parser()
    made = {_COMPLETIONS[shell]: completion_script(shell) for shell in SHELLS}
    made["man/man1/reflayer.1"] = _man_of_all(program)
    for name, command in commands.items():
        made[f"man/man1/reflayer-{name}.1"] = _man(name, command)
    return made


def page() -> str:
    """All of it as one page of Markdown."""
    program, commands = whole_parser()
    parts = [
        "# The command line\n\nMade from the parser, as the pages of man(1) are: change "
        "`src/reflayer/cli/`, and run `python -m reflayer.cli.manual docs/cli.md`.\n",
        " · ".join(f"[{name}](#reflayer-{name})" for name in commands) + "\n",
        "Of all commands:\n",
        _md_options(arguments_of(program)[1]),
        _md_text(f"{program.epilog}"),
        "Those that speak to a registry also take:\n",
        _md_options(_of_registries(commands["pull"], True)),
        _md_text(_about_registries(commands["pull"])),
    ]
    for name, command in commands.items():
        positional, _ = arguments_of(command)
        options = [one for one in _of_registries(command, False) if one.dest not in _COMMON]
        own = _md_options([*positional, *options])
        parts += [f"## reflayer {name}\n", f"```\n{_usage(name, command)}\n```\n"]
        parts += [_md_text(f"{command.description}"), own]
        if _of_registries(command, True):
            parts.append("And what is [of registries](#the-command-line).\n")
    return "\n".join(filter(None, parts))


def _of_registries(command: ArgumentParser, is_of_them: bool) -> list[Action]:
    """The options that tell of registries, or the others."""
    grouped = [
        one
        for group in command._action_groups
        if group.title == ACCESS_TITLE
        for one in group._group_actions
    ]
    return [one for one in arguments_of(command)[1] if (one in grouped) == is_of_them]


def _about_registries(command: ArgumentParser) -> str:
    return "".join(
        f"{group.description}" for group in command._action_groups if group.title == ACCESS_TITLE
    )


def _usage(name: str, command: ArgumentParser) -> str:
    positional, options = arguments_of(command)
    words = ["[OPTION...]"] if {one.dest for one in options} - _COMMON else []
    return " ".join(["reflayer", name, *words, *map(_place, positional)])


def _place(action: Action) -> str:
    """A positional argument in a line of usage."""
    name = str(action.metavar or action.dest)
    many = {"?": f"[{name}]", "*": f"[{name}...]", "+": f"{name}...", REMAINDER: f"[{name}...]"}
    return many.get(str(action.nargs), name)


def _flags(action: Action) -> tuple[str, str]:
    """How an option or argument is written, and what its value is called, if it takes one."""
    if not action.option_strings:
        return str(action.metavar or action.dest), ""
    flags = ", ".join(action.option_strings)
    if action.nargs == 0:
        return flags, ""
    value = "|".join(map(str, action.choices)) if action.choices else str(action.metavar)
    if action.metavar is None and not action.choices:
        value = action.dest.upper()
    return flags, f"[{value}]" if action.nargs == "?" else value


def _blocks(text: str) -> Iterator[Block]:
    """A help's paragraphs, the terms that it explains, and its examples, in order."""
    for part in re.split(r"\n\s*\n", text.strip("\n")):
        paragraph: list[str] = []
        for line in re.sub(r"\n {4,}", " ", part).splitlines():
            if not line.startswith(" "):
                paragraph.append(line)
                continue
            if paragraph:
                yield "text", " ".join(paragraph)
                paragraph = []
            term = re.fullmatch(r" +(\S.*?) {2,}(\S.*)", line)
            yield ("", line.strip()) if term is None else (term[1], term[2])
        if paragraph:
            yield "text", " ".join(paragraph)


def _md_text(text: str) -> str:
    lines: list[str] = []
    before = ""
    for kind, words in _blocks(text):
        is_text = kind == "text"
        if lines and (is_text or before == "text"):
            lines.append("")
        if is_text:
            lines.append(_md(words))
        else:
            lines.append(f"- `{kind}`: {_md(words)}" if kind else f"- `{words}`")
        before = kind
    return "\n".join(lines) + "\n" if lines else ""


def _md_options(actions: list[Action]) -> str:
    lines = [f"- `{' '.join(filter(None, _flags(one)))}`: {_md(one.help or '')}" for one in actions]
    return "\n".join(lines) + "\n" if lines else ""


def _md(text: str) -> str:
    return re.sub(r"([*_<\[\]])", r"\\\1", text)


def _man_of_all(program: ArgumentParser) -> str:
    lines = _head("reflayer", "container layers as plain directories, cloned in the kernel")
    lines += [".SH SYNOPSIS", ".B reflayer", "[OPTION...] COMMAND ..."]
    lines += [".SH DESCRIPTION", _roff(f"{program.description}"), *_man_text(f"{program.epilog}")]
    lines += [".SH OPTIONS", *_man_options(arguments_of(program)[1]), ".SH COMMANDS"]
    for name, (_, told) in COMMANDS.items():
        lines += [".TP", f".BR reflayer\\-{_roff(name)} (1)", _roff(told)]
    for title, listed in (
        ("EXIT STATUS", _STATUS),
        ("ENVIRONMENT", _ENVIRONMENT),
        ("FILES", _FILES),
    ):
        lines.append(f".SH {title}")
        for term, told in listed.items():
            lines += [".TP", f".B {_roff(term)}", _roff(told)]
    return "\n".join(lines) + "\n"


def _man(name: str, command: ArgumentParser) -> str:
    positional, _ = arguments_of(command)
    own, of_registries = _of_registries(command, False), _of_registries(command, True)
    lines = _head(f"reflayer-{name}", COMMANDS[name][1])
    lines += [".SH SYNOPSIS", f".B reflayer {_roff(name)}"]
    lines.append(
        _roff(_usage(name, command).split(" ", 2)[2])
        if positional or len(own) > len(_COMMON)
        else ""
    )
    lines += [".SH DESCRIPTION", *_man_text(f"{command.description}")[1:]]
    if positional:
        lines += [".SH ARGUMENTS", *_man_options(positional)]
    lines += [".SH OPTIONS", *_man_options(own)]
    if of_registries:
        lines += [".SH REGISTRIES", *_man_text(_about_registries(command))[1:]]
        lines += _man_options(of_registries)
    lines += [".SH SEE ALSO", ".BR reflayer (1)"]
    return "\n".join(filter(None, lines)) + "\n"


def _head(name: str, told: str) -> list[str]:
    return [
        f'.TH {_roff(name.upper())} 1 "" "reflayer {__version__}" "User Commands"',
        ".SH NAME",
        f"{_roff(name)} \\- {_roff(told)}",
    ]


def _man_text(text: str) -> list[str]:
    lines: list[str] = []
    for kind, words in _blocks(text):
        if kind == "text":
            lines += [".PP", _roff(words)]
        elif kind:
            lines += [".TP", f".B {_roff(kind)}", _roff(words)]
        else:
            lines += [".PP", ".nf", f".RS 2\n{_roff(words)}\n.RE", ".fi"]
    return lines


def _man_options(actions: list[Action]) -> list[str]:
    lines: list[str] = []
    for one in actions:
        flags, value = _flags(one)
        shown = f"\\fB{_roff(flags)}\\fR" + (f" \\fI{_roff(value)}\\fR" if value else "")
        lines += [".TP", shown, _roff("" if one.help == SUPPRESS else one.help or "")]
    return lines


def _roff(text: str) -> str:
    """Text that troff takes as it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text)


def main() -> None:
    """Write the page, or all files below a folder."""
    target = sys.argv[1]
    made = {target: page()} if target.endswith(".md") else files()
    for name, text in made.items():
        path = name if name == target else os.path.join(target, name)
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main()
