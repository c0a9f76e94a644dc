"""``reflayer containerd-config``."""

from __future__ import annotations

import re

from reflayer.cli.arguments import option, refusal, takes
from reflayer.plugins.containerd.config import (
    HOME,
    SOCKET,
    VERSIONS,
    buildkit_options,
    containerd_toml,
    docker_json,
)
from reflayer.plugins.containerd.extraction import capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

_SOCKET_BYTES = 107  # of sun_path, without the zero at its end: unix(7)


def _path(text: str) -> str:
    if not text.startswith("/") or not text.isprintable():  # it goes into a line of text
        raise refusal(f"{text!r} is not an absolute path of printable letters")
    return text


def _socket(text: str) -> str:
    if len(_path(text).encode()) > _SOCKET_BYTES:
        raise refusal(f"{text!r}: a socket's path has {_SOCKET_BYTES} bytes at the most")
    return text


def _handler(text: str) -> str:
    # A label as in the names of the DNS (RFC 1123), as Kubernetes wants it.
    if not re.fullmatch("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", text):
        raise refusal(f"{text!r} is no handler of a RuntimeClass: a-z, 0-9 and '-' within")
    return text


@takes(
    option(
        "program PROGRAM",
        "containerd, buildkit or docker",
        nargs="?",
        choices=["containerd", "buildkit", "docker"],
        default="containerd",
    ),
    option(
        "--socket PATH",
        f"where reflayer is served (default: {SOCKET})",
        type=_socket,
        default=SOCKET,
    ),
    option(
        "--home DIR", f"where it keeps the snapshots (default: {HOME})", type=_path, default=HOME
    ),
    option(
        "--config-version",
        "of the file that this is for: 2, which every containerd reads (default), 3, which "
        "containerd 2 writes, or 4, which it does from 2.3 on",
        type=int,
        choices=VERSIONS,
        default=2,
    ),
    option(
        "--runtime-class HANDLER",
        "use it for the pods of this RuntimeClass of Kubernetes alone, not for all",
        type=_handler,
    ),
)
def containerd_config(arguments: Namespace) -> int:
    """Print what a program that speaks containerd's snapshotter protocol has to be told, so
    that it uses "reflayer serve containerd":

      containerd   TOML for /etc/containerd/config.toml (the default)
      buildkit     options of buildkitd, one a line
      docker       JSON for /etc/docker/daemon.json, of Docker Engine 28 and later
    """
    if arguments.program == "containerd":
        told = containerd_toml(
            arguments.socket,
            arguments.home,
            arguments.config_version,
            can=capabilities(arguments.home),
            runtime=arguments.runtime_class,
        )
    elif arguments.program == "buildkit":
        told = buildkit_options(arguments.socket)
    else:
        told = docker_json()
    print(told, end="")
    return 0
