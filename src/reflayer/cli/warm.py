"""``reflayer warm``: containers that are made ahead."""

from __future__ import annotations

from reflayer.cli.arguments import (
    JSON,
    MAP,
    PLATFORM,
    map_of,
    number_to,
    open_store,
    option,
    ownership,
    percent,
    takes,
    telling_of_ownership,
)
from reflayer.cli.output import print_json, print_table, remark, size_text
from reflayer.cli.progress_bars import bars
from reflayer.cli.registries import ACCESS, access_of
from reflayer.errors import UsageError
from reflayer.record import as_dict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from reflayer.store import Store

_MOST = 10_000


@takes(
    option(
        "image IMAGE",
        "what to make containers of ahead, as create takes it; without one, those that are kept "
        "warm are listed",
        nargs="?",
        completed_by="images",
    ),
    option(
        "--count N",
        "how many are to be ready, by default 1; 0: none any more",
        type=number_to(_MOST),
    ),
    option(
        "--no-wait", "do not wait until they are: another process makes them", action="store_true"
    ),
    option(
        "--keep-free PERCENT",
        "of the disk, and of its inodes: where less is free, they go; kept for the store, at "
        "first 10",
        type=percent,
    ),
    PLATFORM,
    MAP,
    ACCESS,
    ownership(),
    JSON,
)
def warm(arguments: Namespace) -> int:
    """Keep containers of an image ready, so that reflayer create takes one at once: it costs a
    rename, and no clone.

      reflayer warm --count 8 debian:12    have eight ready, and keep so many ready
      reflayer warm                        list what is kept warm, and how many are ready
      reflayer warm --count 0 debian:12    have none any more

    An image that the store lacks is fetched first. The command returns when so many are
    ready. Whenever one is taken, a process behind makes the next, with one thread that
    steps back for whatever else runs: one process a store. An image has one kind: those that
    were made with --map are for create --map of the same map, and no others.

    They give way. Where less than a tenth of the disk or of its inodes is free, or there is
    no room for something else, they are deleted, and nothing fails for their sake. They go with
    their image; and a day after the last container was made from it.

    Where blocks are shared (XFS, btrfs) one takes little more than its inodes: reflayer df
    tells. Elsewhere each takes what the image does. On btrfs a clone is a snapshot, which
    costs no more than a rename by itself.
    """
    store = open_store(arguments)
    if arguments.image is None:
        if arguments.count is not None or arguments.no_wait or arguments.map is not None:
            raise UsageError("--count, --no-wait and --map are about an image: name one")
        if arguments.keep_free is not None:
            store.keep_free(arguments.keep_free)
            return 0
        return _list(store, arguments)
    with telling_of_ownership(lambda: store.ownership), bars() as progress:
        if arguments.keep_free is not None:
            store.keep_free(arguments.keep_free)
        store.warm(
            arguments.image,
            1 if arguments.count is None else arguments.count,
            wait=not arguments.no_wait,
            platform=arguments.platform,
            access=access_of(arguments),
            id_map=map_of(arguments),
            progress=progress,
            warn=remark,
        )
    return 0


def _list(store: Store, arguments: Namespace) -> int:
    found = store.spares()
    if arguments.json:
        print_json([as_dict(one) for one in found])
        return 0
    from reflayer.images.model.reference import familiar

    print_table(
        ("IMAGE", "COUNT", "READY", "SIZE"),
        [
            (familiar(one.image), str(one.count), str(one.ready), size_text(one.bytes))
            for one in found
        ],
    )
    return 0
