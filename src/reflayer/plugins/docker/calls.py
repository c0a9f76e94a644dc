"""Docker's requests: their JSON as values; what each with a plain answer makes the driver do."""

from __future__ import annotations

import json
import os
import re
import reprlib
from typing import TypeVar

from reflayer.archive import IdMap, IdRange
from reflayer.driver.quota import size_in_bytes
from reflayer.errors import ReflayerError
from reflayer.plugins.docker.orphans import is_container, is_init
from reflayer.record import as_dict, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

    from reflayer.copy import CopyReport
    from reflayer.driver import Driver
    from reflayer.progress import Progress

    Answer = dict[str, object]
    Clone = Callable[[Driver, "LayerRequest", Progress], CopyReport | None]
    Call = Callable[[Driver, "LayerRequest"], Answer]

Value = TypeVar("Value")

_KINDS = {"C": 0, "A": 1, "D": 2}  # ChangeModify, ChangeAdd, ChangeDelete
_LONGEST = 4095  # PATH_MAX, and a zero; no id or label is as long

# What it calls the layers of images and containers. BuildKit's ids are shorter.
_LAYER_STORE = re.compile(r"[0-9a-f]{64}")

_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 100


class RequestError(ReflayerError):
    """A request is not as the protocol has it, or an option in it is none of ours."""


@record
class LayerRequest:
    """A request about a layer."""

    id: str  # empty where the request is about none
    parent: str | None  # what it was or is to be cloned from
    mount_label: str  # SELinux's, of what a container sees; empty for none
    options: Mapping[str, str]  # Docker's --storage-opt, by name

    @classmethod
    def parse(cls, body: bytes) -> Self:
        document = _document(body)
        options = _member(document, "StorageOpt", dict, {})
        if not all(isinstance(value, str) for value in options.values()):
            raise RequestError("StorageOpt: not all its values are strings")
        return cls(
            id=_member(document, "ID", str, ""),
            parent=_member(document, "Parent", str, "") or None,
            mount_label=_member(document, "MountLabel", str, ""),
            options=options,
        )


@record
class InitRequest:
    """What a daemon tells once, as it starts."""

    home: str  # the folder for the layers, absolute
    options: tuple[str, ...]  # the daemon's --storage-opt, each NAME=VALUE
    id_map: IdMap | None  # the ids of --userns-remap; None without it

    @classmethod
    def parse(cls, body: bytes) -> Self:
        document = _document(body)
        home = _member(document, "Home", str, "")
        if not home.startswith("/") or not _is_path(home):
            raise RequestError(f"Home: {shown(home)} is no absolute path")
        options = _member(document, "Opts", list, [])
        if not all(isinstance(option, str) for option in options):
            raise RequestError("Opts: not all of them are strings")
        ids = IdMap(_ranges(document, "UIDMaps"), _ranges(document, "GIDMaps"))
        return cls(home, tuple(options), ids if ids.uids or ids.gids else None)

    def as_json(self) -> bytes:
        ids = self.id_map or IdMap()
        document = {
            "Home": self.home,
            "Opts": self.options,
            "UIDMaps": [as_dict(one) for one in ids.uids],
            "GIDMaps": [as_dict(one) for one in ids.gids],
        }
        return json.dumps(document).encode()


def shown(value: object) -> str:
    """A value of a request as part of a line, cut where it is too long or too deep for that."""
    return _brief.repr(value)


def _document(body: bytes) -> dict[str, object]:
    if not body:
        # Docker sends a request again, without what it has sent already, when the plugin ends
        # before it has answered.
        raise RequestError("the request is empty, as after a restart of the plugin: try again")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the request is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise RequestError("the request is no JSON object")
    return document


def _member(document: Mapping[str, object], name: str, kind: type[Value], absent: Value) -> Value:
    value = document.get(name)
    if value is None:  # Go writes null for what is empty
        return absent
    if not isinstance(value, kind):
        raise RequestError(f"{name}: {kind.__name__} expected, not {type(value).__name__}")
    if isinstance(value, str) and len(value) > _LONGEST:
        raise RequestError(f"{name}: {len(value)} characters, which are more than {_LONGEST}")
    return value


def _is_path(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, as "\ud800"
        return False


def _ranges(document: Mapping[str, object], name: str) -> tuple[IdRange, ...]:
    return tuple(_range(item, name) for item in _member(document, name, list, []))


def _range(item: object, name: str) -> IdRange:
    numbers = [item.get(name) for name in IdRange.__annotations__] if isinstance(item, dict) else []
    whole = [number for number in numbers if type(number) is int and 0 <= number < 1 << 32]
    if len(whole) != len(IdRange.__annotations__):
        raise RequestError(f"{name}: {shown(item)} is no range of ids")
    return IdRange(*whole)


def create(driver: Driver, request: LayerRequest, progress: Progress) -> CopyReport | None:
    """``Create``: the layer of an image, to be filled by ``ApplyDiff``, which writes it out.

    BuildKit fills its own through ``Get``: those become whole then.
    """
    if request.options:
        raise RequestError("--storage-opt is not supported for reflayer on read-only layers")
    if request.parent is None:
        return driver.create(request.id, size=0, mount_label=request.mount_label)
    if is_init(request.id):
        driver.note_use(request.parent, size=0)
    return driver.create_difference(
        request.id, request.parent, mount_label=request.mount_label, progress=progress
    )


def create_read_write(
    driver: Driver, request: LayerRequest, progress: Progress
) -> CopyReport | None:
    """``CreateReadWrite``: the layer of a container."""
    size = None
    for name, value in request.options.items():
        if name.lower() != "size":
            raise RequestError(f"Storage opt {name[:100]} not supported")
        size = size_in_bytes(value)
    if request.parent is not None:
        if not is_container(request.id, request.parent):
            driver.note_use(request.parent, size=size)
        elif not size and driver.take_over(
            request.id, request.parent, mount_label=request.mount_label
        ):
            return None
    return driver.create(
        request.id, request.parent, size=size, mount_label=request.mount_label, progress=progress
    )


def remove(driver: Driver, request: LayerRequest) -> Answer:
    """``Remove``: the id is free at once, and what it was is deleted behind, or a spare again."""
    driver.remove(request.id, wait=False, recycle=driver.recycles)
    return {}


def get_what_is_there(driver: Driver, request: LayerRequest) -> Answer | None:
    """``Get`` where that makes no tree: where the layer is, until as many ``Put``; else None.

    Docker gets the layer of an image only to send what it was made of, by a list of its own of what
    was in the archive (``assembleTarTo`` in moby's layer/layer_store.go, 20.10 to 27): so it reads
    the files of the archive by their paths there, and the difference has those.
    """
    if _LAYER_STORE.fullmatch(request.id) and driver.has_archive_paths(request.id):
        return {"Dir": driver.folder(request.id)}
    return None if driver.lower(request.id) is not None else get(driver, request)


def get(driver: Driver, request: LayerRequest) -> Answer:
    """``Get``: where the layer's tree is, which is made if there is none, until as many ``Put``."""
    return {"Dir": driver.get(request.id)}


def put(driver: Driver, request: LayerRequest) -> Answer:
    """``Put``: no error where there was no ``Get``, which this process may be too young for."""
    driver.put(request.id)
    return {}


def changes(driver: Driver, request: LayerRequest) -> Answer:
    """``Changes``: what ``docker diff`` shows. JSON has no other bytes in names than UTF-8."""
    found = [
        {"Path": os.fsencode(change.path).decode(errors="replace"), "Kind": _KINDS[change.kind]}
        for change in driver.changes(request.id, request.parent)
    ]
    return {"Changes": found}


CLONES: Mapping[str, Clone] = {"Create": create, "CreateReadWrite": create_read_write}
"""The requests that copy a layer."""

SHORT: Mapping[str, Call] = {
    "Remove": remove,
    "Put": put,
    "Exists": lambda driver, request: {"Exists": driver.exists(request.id)},
    # What `docker info` shows below the storage driver's name.
    "Status": lambda driver, _: {"Status": [list(pair) for pair in driver.status().items()]},
    # What `docker inspect` shows as GraphDriver.
    "GetMetadata": lambda driver, request: {"Metadata": driver.metadata(request.id)},
}
"""The requests that take a few system calls."""

WALKS: Mapping[str, Call] = {
    "Changes": changes,
    # Bytes of the files that Diff would send.
    "DiffSize": lambda driver, request: {"Size": driver.diff_size(request.id, request.parent)},
}
"""The requests that look at each entry of a layer."""
