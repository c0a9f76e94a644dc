"""``reflayer commit``, which may change how the image's containers run."""

from __future__ import annotations

import os
import re

from reflayer.cli.arguments import (
    JSON,
    group,
    image_name,
    open_store,
    option,
    ownership,
    refusal,
    takes,
    telling_of_ownership,
)
from reflayer.cli.interrupt import ignore_signals
from reflayer.cli.output import print_json, remark
from reflayer.cli.progress_bars import bars
from reflayer.errors import ReflayerError, counted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from reflayer.cli.arguments import Option
    from reflayer.images.build.manifest import ConfigChanges

_EPOCH = "SOURCE_DATE_EPOCH"
_PORT = re.compile(r"([0-9]{1,5})(?:/(tcp|udp|sctp))?")
_SIGNAL = re.compile(r"[0-9]{1,2}|(?:SIG)?[A-Z][A-Z0-9]*(?:[+-][0-9]{1,2})?")


def _words(text: str) -> list[str]:
    """A JSON array of strings where it begins like one; else words as sh(1) splits them."""
    if text.lstrip().startswith("["):
        import json

        try:
            words = json.loads(text)
        except ValueError as error:
            raise refusal(f"{text!r} is no JSON array: {error}") from error
        if not all(isinstance(word, str) for word in words):
            raise refusal(f"{text!r} has something else than strings in it")
        return list(words)
    import shlex

    try:
        return shlex.split(text)
    except ValueError as error:
        raise refusal(f"{text!r}: {error}") from error


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise refusal(f"{text!r} is not KEY=VALUE")
    return key, value


def _port(text: str) -> str:
    match = _PORT.fullmatch(text)
    if match is None or not 0 < int(match[1]) < 1 << 16:
        raise refusal(f"{text!r} is not a port such as 80 or 53/udp")
    return f"{int(match[1])}/{match[2] or 'tcp'}"


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise refusal(f"{text!r} does not begin with /")
    return text


def _signal(text: str) -> str:
    if not _SIGNAL.fullmatch(text):
        raise refusal(f"{text!r} is not a signal's name or number")
    return text


def _several(spec: str, told: str, kind: Callable[[str], object]) -> Option:
    return option(spec, told, type=kind, action="append", default=[])


_IMAGE_CONFIG = group(
    "how containers of the image run",
    "What is not given stays as the container's image has it",
    option(
        "--cmd WORDS",
        "the command: words as a shell splits them, or a JSON array; empty takes it away",
        type=_words,
    ),
    option(
        "--entrypoint WORDS",
        "what goes before the command, likewise; without --cmd it takes the command away",
        type=_words,
    ),
    _several("--env KEY=VALUE", "set a variable; may be given again, as those that follow", _pair),
    _several("--label KEY=VALUE", "set a label", _pair),
    _several("--expose PORT[/PROTOCOL]", "add a port; the protocol is tcp, udp or sctp", _port),
    _several("--volume PATH", "add a folder whose content is to be kept elsewhere", _path),
    option("--workdir PATH", "the folder to start in", type=_path),
    option("--user USER[:GROUP]", "who runs it"),
    option("--stop-signal SIGNAL", "what ends it, such as SIGTERM", type=_signal),
)


@takes(
    option(
        "name NAME[@CHECKPOINT]",
        "the container's name, its id, or the beginning of its id; or a checkpoint of it",
        completed_by="states",
    ),
    image_name("what to call the image: [HOST/]NAME[:TAG]"),
    option("-a --author", "who made it", default=""),
    option("-m --message", "what for; it is kept in its history", default=""),
    _IMAGE_CONFIG,
    option(
        "--compression",
        "of the new layer; zstd is smaller, but Docker before 23 does not read it",
        choices=["gzip", "zstd", "none"],
        default="gzip",
    ),
    ownership(),
    JSON,
)
def commit(arguments: Namespace) -> int:
    """Make an image of a container: the layers of its own image, and on top what changed in
    it (reflayer diff). Print the image's id.

    Sockets and what is mounted in the container are not in the image. Stop what writes to
    the container first: a file that changes while it is read is an error.

    The same tree and the same options give the same image, where SOURCE_DATE_EPOCH in the
    environment says when it was made (seconds since 1970).
    """
    store = open_store(arguments)
    with telling_of_ownership(lambda: store.ownership), bars() as progress:
        committed = store.commit(
            arguments.name,
            arguments.image,
            changes=_image_config(arguments),
            author=arguments.author,
            message=arguments.message,
            created=_created(),
            compression=arguments.compression,
            progress=progress,
        )
        ignore_signals()
    image = committed.image
    if arguments.json:
        print_json({"id": image.id, "names": list(image.names), "skipped": committed.skipped})
    else:
        print(image.id)
    if committed.skipped:
        remark(f"left out: {counted(committed.skipped)}")
    return 0


def _created() -> float | None:
    """When the image is to have been made (reproducible-builds.org, SOURCE_DATE_EPOCH)."""
    text = os.environ.get(_EPOCH)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal()):
        raise ReflayerError(f"{_EPOCH} is {text!r}, not a number of seconds since 1970")
    return int(text)


def _image_config(arguments: Namespace) -> ConfigChanges:
    from reflayer.images.build.manifest import ConfigChanges

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
