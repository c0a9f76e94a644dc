"""``reflayer containerd-config``."""

from __future__ import annotations

import argparse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

NAME = "reflayer"
"""What containerd, BuildKit and Docker call this snapshotter."""
SOCKET = "/run/reflayer/containerd.sock"
HOME = "/var/lib/reflayer/containerd"

_SOCKET_BYTES = 107  # of sun_path, without the zero at its end: unix(7)
_CRI = {
    2: 'plugins."io.containerd.grpc.v1.cri".containerd',
    3: 'plugins."io.containerd.cri.v1.images"',
}
"""The table with the snapshotter of Kubernetes, by the version of containerd's configuration."""


def add_arguments(parser: ArgumentParser) -> None:
    """Tell ``parser`` what the command takes."""
    parser.description = (
        "Print what a program that speaks containerd's snapshotter protocol has to be told, so\n"
        'that it uses "reflayer serve containerd":\n\n'
        "  containerd   TOML for /etc/containerd/config.toml (the default)\n"
        "  buildkit     options of buildkitd, one a line\n"
        "  docker       JSON for /etc/docker/daemon.json, of Docker Engine 29 and later"
    )
    parser.add_argument(
        "program",
        nargs="?",
        choices=[*_PRINTERS],
        default="containerd",
        metavar="PROGRAM",
        help="containerd, buildkit or docker",
    )
    parser.add_argument(
        "--socket",
        metavar="PATH",
        type=_socket,
        default=SOCKET,
        help=f"where reflayer is served (default: {SOCKET})",
    )
    parser.add_argument(
        "--home",
        metavar="DIR",
        type=_path,
        default=HOME,
        help=f"where it keeps the snapshots (default: {HOME})",
    )
    parser.add_argument(
        "--config-version",
        type=int,
        choices=[*_CRI],
        default=2,
        help="of containerd's configuration: 2, which all of them read (default), or 3, which "
        "containerd 2 writes",
    )


def run(arguments: Namespace) -> int:
    """Print it."""
    print(_PRINTERS[arguments.program](arguments), end="")
    return 0


def _containerd(arguments: Namespace) -> str:
    return f"""\
# A file that has a version line already keeps its own.
version = {arguments.config_version}

[proxy_plugins.{NAME}]
  type = "snapshot"
  address = {_quoted(arguments.socket)}
  # Where Kubernetes measures how full the disk is (from containerd 1.7 on).
  [proxy_plugins.{NAME}.exports]
    root = {_quoted(arguments.home)}

# Kubernetes (CRI): this line belongs into the table of that name, where the file has one.
[{_CRI[arguments.config_version]}]
  snapshotter = "{NAME}"
"""


def _buildkit(arguments: Namespace) -> str:
    return f"""\
--oci-worker=true
--containerd-worker=false
--oci-worker-snapshotter={NAME}
--oci-worker-proxy-snapshotter-path={arguments.socket}
"""


def _docker(_: Namespace) -> str:
    import json

    setting = {"features": {"containerd-snapshotter": True}, "storage-driver": NAME}
    return json.dumps(setting, indent=2) + "\n"


_PRINTERS = {"containerd": _containerd, "buildkit": _buildkit, "docker": _docker}


def _quoted(text: str) -> str:
    """``text`` as a basic string of TOML."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _path(text: str) -> str:
    """An absolute path that can be written into a line of text.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.startswith("/") or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not an absolute path of printable letters")
    return text


def _socket(text: str) -> str:
    """The same for a socket, whose path has to be short.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if len(_path(text).encode()) > _SOCKET_BYTES:
        raise argparse.ArgumentTypeError(f"a socket's path has at most {_SOCKET_BYTES} bytes")
    return text
