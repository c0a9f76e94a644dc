"""What containerd, BuildKit and Docker have to be told so that they use this snapshotter."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

NAME = "reflayer"
"""What those programs call it."""
SOCKET = "/run/reflayer/containerd.sock"
HOME = "/var/lib/reflayer/containerd"

_CRI = 'plugins."io.containerd.grpc.v1.cri".containerd'
_CRI_IMAGES = 'plugins."io.containerd.cri.v1.images"'
# The tables that name Kubernetes' snapshotter. containerd 2 takes that of _CRI over only where the
# table has runtimes, too: so a file of version 2, which both read, names it in both.
_KUBERNETES = {2: (_CRI, _CRI_IMAGES), 3: (_CRI_IMAGES,), 4: (_CRI_IMAGES,)}
# A snapshotter of one runtime alone is named beside that (internal/cri/config, from 1.7 on).
_CRI_RUNTIME = 'plugins."io.containerd.cri.v1.runtime".containerd'
_RUNTIMES = {2: _CRI, 3: _CRI_RUNTIME, 4: _CRI_RUNTIME}

_CAPABILITIES = {
    "rebase": "containerd 2.2 and later may unpack several layers of an image at once",
    "remap-ids": "a container in a user namespace gets its owners by its mount",
}

# What containerd lists itself from 2.3 on, which is also the first that reads version 4.
_EROFS = """\
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux(+erofs)"
  snapshotter = "erofs"
  differ = "erofs"
  optional = true
"""

VERSIONS = tuple(_KUBERNETES)
"""Of containerd's configuration: every containerd reads 2, those from 2.0 on 3, from 2.3 on 4."""


def containerd_toml(
    socket: str, home: str, version: int, *, can: Collection[str], runtime: str | None = None
) -> str:
    """TOML for /etc/containerd/config.toml, of one of ``VERSIONS``.

    ``can`` are the capabilities that the home has: ``rebase``, ``remap-ids``. Where there is a
    ``runtime``, Kubernetes uses the snapshotter for the pods of that RuntimeClass handler alone.
    """
    # containerd 1 would leave out what a bind mount says of owners.
    told = [one for one in _CAPABILITIES if one in can and (one != "remap-ids" or version > 2)]
    capabilities = "".join(f"  # {one}: {_CAPABILITIES[one]}.\n" for one in told)
    if told:
        capabilities += f"  capabilities = [{', '.join(map(_quoted, told))}]\n"
    tables, options, measured = _KUBERNETES[version], "", ""
    about = "the line belongs into the table of that name, where the file has one"
    if runtime is not None:
        tables = (f"{_RUNTIMES[version]}.runtimes.{runtime}",)
        options = '  runtime_type = "io.containerd.runc.v2"\n'
        about = "the options of the runc table (SystemdCgroup, for one) belong here, too"
        # containerd 2 looks here alone for where such a snapshotter is; without it all that the
        # kubelet asks of what pods take fails, and with that its evictions.
        measured = f"""\

# Where the kubelet measures what these pods take: without it, it evicts no pod of the node.
[{_CRI_IMAGES}.runtime_platforms.{runtime}]
  snapshotter = "{NAME}"
"""
    kubernetes = "\n".join(f'[{table}]\n{options}  snapshotter = "{NAME}"' for table in tables)
    return f"""\
# A file that has a version line already keeps its own; it has to be this one.
version = {version}

[proxy_plugins.{NAME}]
  type = "snapshot"
  address = {_quoted(socket)}
{capabilities}  # Where Kubernetes measures how full the disk is (from containerd 1.7 on).
  [proxy_plugins.{NAME}.exports]
    root = {_quoted(home)}

# Kubernetes (CRI): {about}.
{kubernetes}
{measured}
# Into which snapshotters containerd 2 unpacks what its transfer service pulls, for ctr and, from
# 2.1 on, for Kubernetes. The first is its own default, which goes where it is not listed.
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux"
  snapshotter = "overlayfs"
{_EROFS if version >= 4 else ""}[[plugins."io.containerd.transfer.v1.local".unpack_config]]
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
