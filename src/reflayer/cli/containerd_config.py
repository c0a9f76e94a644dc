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
_CRI = 'plugins."io.containerd.grpc.v1.cri".containerd'
_CRI_IMAGES = 'plugins."io.containerd.cri.v1.images"'
_KUBERNETES = {2: (_CRI, _CRI_IMAGES), 3: (_CRI_IMAGES,)}
"""The tables that name Kubernetes' snapshotter, by the version of containerd's configuration.

containerd 2 takes that of ``_CRI`` over only where the table has runtimes, too.
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Tell ``parser`` what the command takes."""
    parser.description = (
        "Print what a program that speaks containerd's snapshotter protocol has to be told, so\n"
        'that it uses "reflayer serve containerd":\n\n'
        "  containerd   TOML for /etc/containerd/config.toml (the default)\n"
        "  buildkit     options of buildkitd, one a line\n"
        "  docker       JSON for /etc/docker/daemon.json, of Docker Engine 28 and later"
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
        choices=[*_KUBERNETES],
        default=2,
        help="of the file that this is for: 2, which every containerd reads (default), or 3, which "
        "containerd 2 writes",
    )


def run(arguments: Namespace) -> int:
    """Print it."""
    print(_PRINTERS[arguments.program](arguments), end="")
    return 0


def _containerd(arguments: Namespace) -> str:
    kubernetes = "\n".join(
        f'[{table}]\n  snapshotter = "{NAME}"' for table in _KUBERNETES[arguments.config_version]
    )
    return f"""\
# A file that has a version line already keeps its own; it has to be this one.
version = {arguments.config_version}

[proxy_plugins.{NAME}]
  type = "snapshot"
  address = {_quoted(arguments.socket)}
  # Where Kubernetes measures how full the disk is (from containerd 1.7 on).
  [proxy_plugins.{NAME}.exports]
    root = {_quoted(arguments.home)}

# Kubernetes (CRI): the line belongs into the table of that name, where the file has one.
{kubernetes}

# Into which snapshotters containerd 2 unpacks what its transfer service pulls, for ctr and, from
# 2.1 on, for Kubernetes. The first is its own default, which goes where it is not listed.
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux"
  snapshotter = "overlayfs"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux"
  snapshotter = "{NAME}"
"""


def _buildkit(arguments: Namespace) -> str:
    import shlex

    return f"""\
--oci-worker=true
--containerd-worker=false
--oci-worker-snapshotter={NAME}
--oci-worker-proxy-snapshotter-path={shlex.quote(arguments.socket)}
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
        raise argparse.ArgumentTypeError(
            f"{text!r}: a socket's path has {_SOCKET_BYTES} bytes at the most"
        )
    return text
