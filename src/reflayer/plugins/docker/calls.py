"""What each request that has a plain answer makes the driver do; the answer's JSON as a value."""

from __future__ import annotations

import os

from reflayer.plugins.docker.orphans import is_container
from reflayer.plugins.docker.request import RequestError, size_in_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from reflayer.copy import CopyReport
    from reflayer.driver import Driver
    from reflayer.plugins.docker.request import LayerRequest
    from reflayer.progress import Progress

    Answer = dict[str, object]
    Clone = Callable[[Driver, LayerRequest, Progress], CopyReport | None]
    Call = Callable[[Driver, LayerRequest], Answer]

_KINDS = {"C": 0, "A": 1, "D": 2}  # ChangeModify, ChangeAdd, ChangeDelete


def create(driver: Driver, request: LayerRequest, progress: Progress) -> CopyReport | None:
    """``Create``: the layer of an image, to be filled by ``ApplyDiff``, which writes it out.

    Raises:
        RequestError: it has options, which only containers' layers take.
        LayerError, CopyError, OperationError: as the driver does.
    """
    if request.options:
        raise RequestError("--storage-opt is not supported for reflayer on read-only layers")
    return driver.create(
        request.id,
        request.parent,
        size=0,
        mount_label=request.mount_label,
        progress=progress,
    )


def create_read_write(
    driver: Driver, request: LayerRequest, progress: Progress
) -> CopyReport | None:
    """``CreateReadWrite``: the layer of a container.

    Raises:
        RequestError: an option of it is unknown or no size.
        LayerError, CopyError, OperationError: as the driver does.
    """
    size = None
    for name, value in request.options.items():
        if name.lower() != "size":
            raise RequestError(f"Storage opt {name[:100]} not supported")
        size = size_in_bytes(value)
    if (
        not size
        and request.parent is not None
        and is_container(request.id, request.parent)
        and driver.take_over(request.id, request.parent, mount_label=request.mount_label)
    ):
        return None
    return driver.create(
        request.id,
        request.parent,
        size=size,
        mount_label=request.mount_label,
        progress=progress,
    )


def remove(driver: Driver, request: LayerRequest) -> Answer:
    """``Remove``: the id is free at once, and what it was is deleted behind."""
    driver.remove(request.id, wait=False)
    return {}


def get(driver: Driver, request: LayerRequest) -> Answer:
    """``Get``: where the layer is, until as many ``Put``."""
    return {"Dir": driver.get(request.id)}


def put(driver: Driver, request: LayerRequest) -> Answer:
    """``Put``: no error where there was no ``Get``, which this process may be too young for."""
    driver.put(request.id)
    return {}


def exists(driver: Driver, request: LayerRequest) -> Answer:
    """``Exists``."""
    return {"Exists": driver.exists(request.id)}


def status(driver: Driver, _: LayerRequest) -> Answer:
    """``Status``: what ``docker info`` shows below the storage driver's name."""
    return {"Status": [list(pair) for pair in driver.status().items()]}


def metadata(driver: Driver, request: LayerRequest) -> Answer:
    """``GetMetadata``: what ``docker inspect`` shows as ``GraphDriver``."""
    return {"Metadata": driver.metadata(request.id)}


def changes(driver: Driver, request: LayerRequest) -> Answer:
    """``Changes``: what ``docker diff`` shows. JSON has no other bytes in names than UTF-8."""
    found = driver.changes(request.id, request.parent)
    return {
        "Changes": [
            {"Path": os.fsencode(change.path).decode(errors="replace"), "Kind": _KINDS[change.kind]}
            for change in found
        ]
    }


def diff_size(driver: Driver, request: LayerRequest) -> Answer:
    """``DiffSize``: bytes of the files that ``Diff`` would send."""
    return {"Size": driver.diff_size(request.id, request.parent)}


CLONES: Mapping[str, Clone] = {
    "Create": create,
    "CreateReadWrite": create_read_write,
}
"""The requests that copy a layer."""

SHORT: Mapping[str, Call] = {
    "Remove": remove,
    "Get": get,
    "Put": put,
    "Exists": exists,
    "Status": status,
    "GetMetadata": metadata,
}
"""The requests that take a few system calls."""

WALKS: Mapping[str, Call] = {
    "Changes": changes,
    "DiffSize": diff_size,
}
"""The requests that look at each entry of a layer."""
