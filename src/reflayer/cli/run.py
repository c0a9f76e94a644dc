"""``reflayer run``, ``exec`` and ``spec``: commands in containers."""

from __future__ import annotations

import os

from reflayer.cli.arguments import (
    MAP,
    PLATFORM,
    any_path,
    container_name,
    map_of,
    open_store,
    option,
    ownership,
    refusal,
    takes,
    telling_of_ownership,
)
from reflayer.cli.interrupt import ignore_signals
from reflayer.cli.output import complain_of, remark, wants_json
from reflayer.cli.progress_bars import bars
from reflayer.cli.registries import ACCESS, access_of
from reflayer.errors import ReflayerError, SandboxError, StoreError, TakenNameError, UsageError
from reflayer.sandbox.process import FAILED, Volume, Wanted
from reflayer.sandbox.runtimes import NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from reflayer.store import Container, Store


def _variable(text: str) -> str:
    """``KEY=VALUE``, or ``KEY`` alone for what it is in our environment; that where it is not."""
    key, given, _ = text.partition("=")
    if not key:
        raise refusal(f"{text!r} does not begin with a variable's name")
    return text if given or key not in os.environ else f"{key}={os.environ[key]}"


def _volume(text: str) -> Volume:
    source, colon, rest = text.partition(":")
    destination, _, mode = rest.partition(":")
    if not colon or not destination.startswith("/") or mode not in ("", "ro", "rw"):
        raise refusal(f"{text!r} is not SOURCE:DESTINATION[:ro] with a DESTINATION from / on")
    if not source.startswith(("/", ".", "~")):
        raise refusal(f"{source!r} is no path: volumes have no names here: /{source} or ./{source}")
    path = os.path.abspath(any_path(source))
    if not os.path.exists(path):
        raise refusal(f"{path!r} is not there")
    return Volume(path, os.path.normpath(destination), read_only=mode == "ro")


_ENV = option(
    "-e --env KEY[=VALUE]",
    "a variable of its environment; without VALUE as it is here, or none if it is not",
    action="append",
    default=[],
    type=_variable,
)
_WORKDIR = option("-w --workdir DIR", "where it starts; made where it is missing", default="")
_USER = option(
    "-u --user USER[:GROUP]",
    "who runs it: names as the container's own /etc/passwd has them, or numbers",
    default="",
)
_INTERACTIVE = option("-i --interactive", "let it read standard input", action="store_true")
_TTY = option("-t --tty", "give it a terminal", action="store_true")
_SETTINGS = (
    _ENV,
    _WORKDIR,
    _USER,
    option(
        "-v --volume SRC:DST[:ro]",
        "let it see the file or folder SRC at DST",
        action="append",
        default=[],
        type=_volume,
    ),
    _TTY,
    option(
        "--network MODE",
        "host (default): this machine's; none: no network but its own loopback",
        choices=["host", "none"],
        default="host",
    ),
    option("--read-only", "let it change nothing but volumes", action="store_true"),
    option("--entrypoint COMMAND", "in place of the image's; empty: none", default=None),
)


@takes(
    option("--rm", "remove the container in the end", action="store_true"),
    option("--name NAME", "the new container's name; by default one is made up"),
    *_SETTINGS,
    _INTERACTIVE,
    option(
        "--runtime NAME", "what runs it; by default the first that is there", choices=list(NAMES)
    ),
    PLATFORM,
    MAP,
    ACCESS,
    ownership(),
    option(
        "image IMAGE",
        "what to make a container of, as create takes it; or a container that is there",
        completed_by="either",
    ),
    option("words COMMAND", "what to run; by default what the image says", nargs="..."),
)
def run(arguments: Namespace) -> int:
    """Run a command in a container: a new one of IMAGE, or one that is there.

      reflayer run --rm -it debian:12 bash
      reflayer run --rm -v ./src:/src -w /src python:3.12 pytest -q

    The image's entrypoint, command, user, environment, working directory and volumes are
    what Docker takes them for. The container stays, to be looked at, committed or run again,
    unless --rm is given. What IMAGE is made of is told by reflayer create --help; where a
    container and an image are called the same, it is the container.

    crun runs it, or runc, bubblewrap, or else namespaces of reflayer's own: reflayer doctor
    tells which, and what each keeps apart. Signals are passed on. The exit status is the
    command's, 128 and a signal's number, 127 where there is no such command, 126 where it
    cannot be executed, and 125 for what failed before. There are no networks, no daemon and
    no logs.
    """
    return _told(lambda: _run(arguments))


def _run(arguments: Namespace) -> int:
    from reflayer.sandbox.run import foreground, removing

    store = open_store(arguments)
    wanted = _wanted(arguments)
    container = _that_is_there(store, arguments.image)
    if container is not None:
        if arguments.rm or arguments.name or arguments.map:
            word = "--rm" if arguments.rm else "--name" if arguments.name else "--map"
            raise UsageError(f"{word} is for a new container, but there is a {container.name}")
        return foreground(store, container, wanted, arguments.runtime, reads=arguments.interactive)
    if not arguments.rm:
        container = _create(store, arguments, arguments.name)
        return foreground(store, container, wanted, arguments.runtime, reads=arguments.interactive)
    name = arguments.name or f"run-{os.urandom(6).hex()}"
    if arguments.name and _that_is_there(store, name):
        raise TakenNameError(
            f"{name}: there is a container of this name: take another, or remove it"
        )
    with removing(store, name):
        container = _create(store, arguments, name)
        status = foreground(
            store, container, wanted, arguments.runtime, reads=arguments.interactive
        )
        ignore_signals()
    return status


@takes(
    _ENV,
    _WORKDIR,
    _USER,
    _INTERACTIVE,
    _TTY,
    container_name(),
    option("words COMMAND", "what to run", nargs="..."),
)
def exec(arguments: Namespace) -> int:  # noqa: A001 - Docker's word
    """Run one more command in a container in which reflayer run runs one: with its
    environment, user and working directory unless told otherwise. The exit status is as
    of reflayer run.
    """
    if not arguments.words:
        raise UsageError("exec: give a command")
    return _told(lambda: _exec(arguments))


def _exec(arguments: Namespace) -> int:
    from reflayer.cli.namespace import enter_beside
    from reflayer.sandbox.run import execute

    enter_beside(open_store(arguments), arguments.name)
    store = open_store(arguments)
    wanted = Wanted(
        command=tuple(arguments.words),
        env=tuple(arguments.env),
        workdir=arguments.workdir,
        user=arguments.user,
        terminal=arguments.tty,
    )
    container = store.container(arguments.name)
    return execute(store, container, wanted, reads=arguments.interactive)


@takes(
    *_SETTINGS,
    option("-o --output FILE", "write to FILE, as a rule config.json", type=any_path),
    container_name(),
    option("words COMMAND", "what it runs; by default what the image says", nargs="..."),
)
def spec(arguments: Namespace) -> int:
    """Write the config.json by which any OCI runtime runs a command in a container, to FILE or
    to standard output.

      mkdir bundle; reflayer spec -o bundle/config.json web; crun run --bundle bundle web

    It is the one by which reflayer run does it, for the user who calls this: root's is
    another than an ordinary user's. What has to be there to be mounted on is made in the
    container.
    """
    import json

    from reflayer.sandbox.run import spec as bundle_of

    bundle = bundle_of(open_store(arguments), arguments.name, _wanted(arguments))
    text = json.dumps(bundle.config, indent=2) + "\n"
    if arguments.output is None:
        print(text, end="")
        return 0
    from reflayer.errors import failing

    with failing(arguments.output, "write"), open(arguments.output, "w") as file:
        file.write(text)
    return 0


def _wanted(arguments: Namespace) -> Wanted:
    entrypoint = arguments.entrypoint
    return Wanted(
        command=tuple(arguments.words),
        entrypoint=None if entrypoint is None else ((entrypoint,) if entrypoint else ()),
        env=tuple(arguments.env),
        workdir=arguments.workdir,
        user=arguments.user,
        volumes=tuple(arguments.volume),
        terminal=arguments.tty,
        network=arguments.network,
        read_only=arguments.read_only,
    )


def _that_is_there(store: Store, name: str) -> Container | None:
    if not os.path.isdir(store.root):
        return None
    from reflayer.store import Container

    try:
        found = store.find(name)[0]
    except StoreError:
        return None
    return found if isinstance(found, Container) else None


def _create(store: Store, arguments: Namespace, name: str | None) -> Container:
    with telling_of_ownership(lambda: store.ownership), bars() as progress:
        return store.create(
            arguments.image,
            name=name,
            platform=arguments.platform,
            id_map=map_of(arguments),
            access=access_of(arguments),
            progress=progress,
            warn=remark,
        )


def _told(action: Callable[[], int]) -> int:
    """Do it; a failure of ours is told, and its status is none that a command is likely to have."""
    try:
        return action()
    except UsageError:
        raise
    except SandboxError as error:
        if not error.is_told or wants_json():
            complain_of(error)
        return error.status
    except ReflayerError as error:
        complain_of(error)
        return FAILED
