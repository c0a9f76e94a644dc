"""The command ``create``."""

from __future__ import annotations

import sys

from reflayer.cli.arguments import (
    JSON,
    MAP,
    PLATFORM,
    image_name,
    map_of,
    open_store,
    option,
    ownership,
    size,
    takes,
    telling_of_ownership,
)
from reflayer.cli.containers import container_fields
from reflayer.cli.interrupt import ignore_signals
from reflayer.cli.output import print_json, print_path, remark
from reflayer.cli.progress_bars import bars
from reflayer.cli.registries import ACCESS, access_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace


@takes(
    image_name("what to clone"),
    option("--name", "the container's name; by default one is made up"),
    PLATFORM,
    option(
        "--pull",
        "always: ask the registry, or take in a rootfs: folder anew, though the store has it; "
        "never: take only what the store has",
        choices=["missing", "always", "never"],
        default="missing",
    ),
    option(
        "--size BYTES",
        "what it may take at the most, its image's part included: 10G, 512M; the file system "
        "needs project quotas (XFS or ext4 with prjquota)",
        type=size,
        default=0,
    ),
    MAP,
    ACCESS,
    ownership(),
    JSON,
)
def create(arguments: Namespace) -> int:
    """Make a container, a writable clone of an image, and print the path of its root.

    IMAGE is one of
      oci:DIR[:TAG]               an OCI image layout
      oci-archive:FILE[:TAG]      a tar of one
      docker-archive:FILE[:REF]   what docker save writes
      tar:FILE                    a root file system's tar, of any usual compression
      rootfs:DIR                  a folder that is a root file system
      NAME or ID                  an image that is in the store (reflayer images)
      [docker://]NAME             an image in its registry, where the store has it not

    What the store has already is neither read nor unpacked again. It is all there, or
    nothing is: a container that could not be made leaves nothing behind.

      reflayer create --map 0:100000:65536 debian      for a user namespace with those ids

    Owners, ACLs and file capabilities have the ids of the host then, and an id without one is
    an error. Whatever is made of the container has those of the image again.
    """
    store = open_store(arguments)
    with telling_of_ownership(lambda: store.ownership), bars() as progress:
        container = store.create(
            arguments.image,
            name=arguments.name,
            platform=arguments.platform,
            pull=arguments.pull,
            access=access_of(arguments),
            size=arguments.size,
            id_map=map_of(arguments),
            progress=progress,
            warn=remark,
        )
        ignore_signals()
    try:
        if arguments.json:
            print_json(container_fields(container))
        else:
            print_path(container.path)
        sys.stdout.flush()
    except OSError as error:  # nobody would know of it
        store.remove_container(container.id, wait=False)
        if not isinstance(error, BrokenPipeError):
            error.filename = "standard output"
            error.strerror = f"{error.strerror}: the container is removed again"
        raise
    return 0
