"""Options that change how an image's containers run, in Docker's and buildah's words."""

from __future__ import annotations

import argparse
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from reflayer.images.build.commit_config import ConfigChanges

_PORT = re.compile(r"([0-9]{1,5})(?:/(tcp|udp|sctp))?")
_SIGNAL = re.compile(r"[0-9]{1,2}|(?:SIG)?[A-Z][A-Z0-9]*(?:[+-][0-9]{1,2})?")


def add_image_config(parser: ArgumentParser) -> None:
    """Let a command take them."""
    group = parser.add_argument_group(
        "how containers of the image run", "What is not given stays as the container's image has it"
    )
    group.add_argument(
        "--cmd",
        type=_words,
        metavar="WORDS",
        help="the command: words as a shell splits them, or a JSON array; empty takes it away",
    )
    group.add_argument(
        "--entrypoint",
        type=_words,
        metavar="WORDS",
        help="what goes before the command, likewise; without --cmd it takes the command away",
    )
    group.add_argument(
        "--env",
        type=_pair,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set a variable; may be given again, as those that follow",
    )
    group.add_argument(
        "--label", type=_pair, action="append", default=[], metavar="KEY=VALUE", help="set a label"
    )
    group.add_argument(
        "--expose",
        type=_port,
        action="append",
        default=[],
        metavar="PORT[/PROTOCOL]",
        help="add a port; the protocol is tcp, udp or sctp",
    )
    group.add_argument(
        "--volume",
        type=_path,
        action="append",
        default=[],
        metavar="PATH",
        help="add a folder whose content is to be kept elsewhere",
    )
    group.add_argument("--workdir", type=_path, metavar="PATH", help="the folder to start in")
    group.add_argument("--user", metavar="USER[:GROUP]", help="who runs it")
    group.add_argument(
        "--stop-signal", type=_signal, metavar="SIGNAL", help="what ends it, such as SIGTERM"
    )


def image_config(arguments: Namespace) -> ConfigChanges:
    """What they said."""
    from reflayer.images.build.commit_config import ConfigChanges

    return ConfigChanges(
        cmd=arguments.cmd,
        entrypoint=arguments.entrypoint,
        env=dict(arguments.env),
        labels=dict(arguments.label),
        workdir=arguments.workdir,
        user=arguments.user,
        expose=arguments.expose,
        volumes=arguments.volume,
        stop_signal=arguments.stop_signal,
    )


def _words(text: str) -> list[str]:
    """A JSON array of strings where it begins like one; else words as sh(1) splits them."""
    if text.lstrip().startswith("["):
        import json

        try:
            words = json.loads(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is no JSON array: {error}") from error
        if not all(isinstance(word, str) for word in words):
            raise argparse.ArgumentTypeError(f"{text!r} has something else than strings in it")
        return list(words)
    import shlex

    try:
        return shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def _port(text: str) -> str:
    match = _PORT.fullmatch(text)
    if match is None or not 0 < int(match[1]) < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port such as 80 or 53/udp")
    return f"{int(match[1])}/{match[2] or 'tcp'}"


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise argparse.ArgumentTypeError(f"{text!r} does not begin with /")
    return text


def _signal(text: str) -> str:
    if not _SIGNAL.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a signal's name or number")
    return text
