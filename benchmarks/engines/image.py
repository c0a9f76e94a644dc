"""The image that all engines get, and what is done in a container of it."""

from __future__ import annotations

import io
import json
import tarfile
from hashlib import sha256
from pathlib import Path

from benchmarks.layers import NAME, layered_image
from benchmarks.question import Setting
from reflayer.record import record

IMAGE = f"bench:{NAME}"
"""What it is called."""
FULL_NAME = f"docker.io/library/{IMAGE}"
"""The same in containerd."""

_OWN = " -o ".join(f"-path /etc/{name}" for name in ("hosts", "resolv.conf", "hostname", "mtab"))
_BELOW = f"find / -mindepth 2 -xdev \\( {_OWN} \\) -prune -o"  # what engines put there themselves
TREE = f"""\
({_BELOW} -type d -printf '%p %m %U %G\\n' -o -printf '%p %y %m %U %G %n %s %T@ %l\\n' \\
    | LC_ALL=C sort
{_BELOW} -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum) | sha256sum
"""
"""A script that tells all that a container sees, but for folders' times.

Those are not the image's with every snapshotter: what is unpacked later changes them.
"""

CHANGE = """\
set -e
mkdir /new /new/dir
echo content >/new/dir/file
ln /new/dir/file /new/link
ln -s dir /new/symlink
chmod 600 /etc/issue
rm -r /srv/application/1
mv /srv/application/2/3.py /srv/application/3/moved.py
touch --no-dereference --date=@1000000000 /new/dir/file /new/symlink /etc/issue \\
    /srv/application/3/moved.py
"""
"""A script that changes something.

Its files have a time of whole seconds: Docker's own layers have no fractions, ours have.
"""


def entries(archive: bytes) -> str:
    """The digest of what is in a tar but for times: those of whiteouts are the engine's."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        lines = [
            f"{one.name} {one.type!r} {one.mode} {one.uid} {one.gid} {one.size} {one.linkname}"
            for one in tar
        ]
    return sha256("\n".join(sorted(lines)).encode()).hexdigest()


@record
class Image:
    """The image.

    Attributes:
        layout: its folder, an OCI image layout.
        archive: the same in a tar.
        context: a folder to build from, with a Dockerfile on the image and one on nothing.
    """

    layout: Path
    archive: Path
    context: Path

    @property
    def digest(self) -> str:
        """That of its manifest."""
        index = json.loads((self.layout / "index.json").read_bytes())
        digest: str = index["manifests"][0]["digest"]
        return digest


def make_image(setting: Setting) -> Image:
    """Make it of the setting's tree."""
    layout, context = setting.folder / "image", setting.folder / "context"
    archive = layered_image(setting.tree, layout)
    index = json.loads((layout / "index.json").read_bytes())
    index["manifests"][0]["annotations"]["io.containerd.image.name"] = FULL_NAME
    (layout / "index.json").write_text(json.dumps(index))
    with tarfile.open(archive, "w") as tar:
        tar.add(layout, "")
    context.mkdir()
    (context / "file").write_text("file\n")
    (context / "change").write_text(CHANGE)
    steps = "COPY file change /built/\nRUN sh -e /built/change\nRUN rm /new/link\n"
    last = "COPY --from=0 /new /newer\n"
    (context / "Dockerfile").write_text(f"FROM {IMAGE}\n{steps}FROM {IMAGE}\n{last}")
    (context / "Dockerfile.scratch").write_text("FROM scratch\nCOPY file /file\nCOPY . /all\n")
    return Image(layout, archive, context)
