"""What containerd, BuildKit and Docker have to be told so that they use this snapshotter."""

from __future__ import annotations

NAME = "reflayer"
"""What those programs call it."""
SOCKET = "/run/reflayer/containerd.sock"
HOME = "/var/lib/reflayer/containerd"

_CRI = 'plugins."io.containerd.grpc.v1.cri".containerd'
_CRI_IMAGES = 'plugins."io.containerd.cri.v1.images"'
# The tables that name Kubernetes' snapshotter. containerd 2 takes that of _CRI over only where the
# table has runtimes, too: so a file of version 2, which both read, names it in both.
_KUBERNETES = {2: (_CRI, _CRI_IMAGES), 3: (_CRI_IMAGES,)}

_CAPABILITIES = """\
  # containerd 2.2 and later may unpack several layers of an image at once.
  capabilities = ["rebase"]
"""

VERSIONS = tuple(_KUBERNETES)
"""Of containerd's configuration: 2, which every containerd reads, and 3, which 2.0 and later do."""


def containerd_toml(socket: str, home: str, version: int, *, rebases: bool) -> str:
    """TOML for /etc/containerd/config.toml, of one of ``VERSIONS``.

    ``rebases`` says whether a layer can be told in the end what it lies on.
    """
    capabilities = _CAPABILITIES if rebases else ""
    kubernetes = "\n".join(f'[{table}]\n  snapshotter = "{NAME}"' for table in _KUBERNETES[version])
    return f"""\
# A file that has a version line already keeps its own; it has to be this one.
version = {version}

[proxy_plugins.{NAME}]
  type = "snapshot"
  address = {_quoted(socket)}
{capabilities}  # Where Kubernetes measures how full the disk is (from containerd 1.7 on).
  [proxy_plugins.{NAME}.exports]
    root = {_quoted(home)}

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


def buildkit_options(socket: str) -> str:
    """Options of buildkitd, one a line."""
    import shlex

    return f"""\
--oci-worker=true
--containerd-worker=false
--oci-worker-snapshotter={NAME}
--oci-worker-proxy-snapshotter-path={shlex.quote(socket)}
"""


def docker_json() -> str:
    """JSON for /etc/docker/daemon.json, of Docker Engine 28 and later."""
    import json

    setting = {"features": {"containerd-snapshotter": True}, "storage-driver": NAME}
    return json.dumps(setting, indent=2) + "\n"


def _quoted(text: str) -> str:
    """``text`` as a basic string of TOML."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
