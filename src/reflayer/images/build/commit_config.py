"""The config of an image that is made from another by one layer (OCI image-spec, config.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from reflayer.errors import ImageError
from reflayer.images.build.manifest import to_json
from reflayer.images.model.document import Document
from reflayer.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from reflayer.images.model.platform import Platform

_OF_THE_PARENT = ("author", "container", "container_config", "created", "docker_version", "id")
"""What a config says of how its own image was made."""


_NOTHING: Mapping[str, str] = {}


@record
class ConfigChanges:
    """What is to be different in how an image's containers run; None and empty: as before.

    Attributes:
        cmd: the command's words; an empty list takes it away.
        entrypoint: what comes before the command, likewise. One that is given without ``cmd`` takes
            the command away, which was meant for another, as in a Dockerfile.
        env: variables to set.
        labels: labels to set.
        workdir: the folder to start in, an absolute path.
        user: ``USER[:GROUP]``, names or numbers.
        expose: ports to add, ``NUMBER/PROTOCOL``.
        volumes: folders to add as volumes, absolute paths.
        stop_signal: what ends it, a name or number.
    """

    cmd: Sequence[str] | None = None
    entrypoint: Sequence[str] | None = None
    env: Mapping[str, str] = _NOTHING
    labels: Mapping[str, str] = _NOTHING
    workdir: str | None = None
    user: str | None = None
    expose: Sequence[str] = ()
    volumes: Sequence[str] = ()
    stop_signal: str | None = None

    def __post_init__(self) -> None:
        """Check the types: a text is a sequence of letters, too.

        Raises:
            ValueError: there is a text where its words are wanted, or something that is no text.
        """
        for name in ("cmd", "entrypoint", "expose", "volumes"):
            words = getattr(self, name)
            if isinstance(words, str):
                raise ValueError(f"{name} is the text {words!r}: give a list, such as [{words!r}]")
            _check_texts(name, words or ())
        for name in ("env", "labels"):
            pairs = getattr(self, name)
            if not isinstance(pairs, Mapping):
                raise ValueError(f"{name} is {pairs!r}: give a mapping, such as {{'KEY': 'value'}}")
            _check_texts(name, [*pairs, *pairs.values()])
        for name in ("workdir", "user", "stop_signal"):
            value = getattr(self, name)
            if not isinstance(value, str | None):
                raise ValueError(f"{name} is {value!r}, which is no text")


def _check_texts(name: str, words: Iterable[object]) -> None:
    for word in words:
        if not isinstance(word, str):
            raise ValueError(f"{name} has {word!r} in it, which is no text")


def child_config(
    parent: bytes,
    platform: Platform,
    diff_id: str | None,
    changes: ConfigChanges,
    *,
    created: float,
    author: str,
    message: str,
) -> bytes:
    """The config of a child of the image whose config ``parent`` is; the same for the same words.

    Args:
        parent: a config that has been read before.
        platform: what the image runs on, where its config does not say.
        diff_id: of the layer that is put on top; None where nothing has changed.
        changes: what is to be different.
        created: in seconds since the epoch.
        author: or empty.
        message: or empty.
    """
    document = Document.parse(parent, "the config of the container's image")
    moment = _moment(created)
    child = {key: value for key, value in document.fields.items() if key not in _OF_THE_PARENT}
    settings = document.child("config")
    rootfs = document.child("rootfs")
    assert rootfs is not None  # else it would be no image
    diff_ids = rootfs.strings("diff_ids")
    history = [entry.fields for entry in document.children("history")]
    # One entry for each layer: what builders left out is made up for.
    told = sum(1 for entry in history if not entry.get("empty_layer"))
    history += [{}] * (len(diff_ids) - told)
    if document.platform() is None:
        said = {"os": platform.os, "architecture": platform.architecture}
        child |= {**said, **({"variant": platform.variant} if platform.variant else {})}
    child |= {
        "created": moment,
        "config": _changed(settings.fields if settings else {}, changes),
        "rootfs": {"type": "layers", "diff_ids": [*diff_ids, *([diff_id] if diff_id else [])]},
        "history": [
            *history,
            {
                "created": moment,
                "created_by": "reflayer commit",
                **({"author": author} if author else {}),
                **({"comment": message} if message else {}),
                **({} if diff_id else {"empty_layer": True}),
            },
        ],
        **({"author": author} if author else {}),
    }
    try:
        return to_json(child)
    except UnicodeEncodeError as error:
        raise ImageError("an image's config is text, but something in it is not UTF-8") from error


def _changed(settings: Mapping[str, Any], changes: ConfigChanges) -> dict[str, Any]:
    changed = dict(settings)
    if changes.entrypoint is not None:
        changed["Entrypoint"] = list(changes.entrypoint) or None
        changed["Cmd"] = None
    if changes.cmd is not None:
        changed["Cmd"] = list(changes.cmd) or None
    if changes.env:
        changed["Env"] = _environment(Document(changed, "the image's config"), changes.env)
    added = {
        "Labels": changes.labels,
        "ExposedPorts": {port: {} for port in changes.expose},
        "Volumes": {path: {} for path in changes.volumes},
    }
    for key in filter(added.get, added):
        before = Document(changed, "the image's config").child(key)
        changed[key] = {**(before.fields if before else {}), **added[key]}
    said = {
        "WorkingDir": changes.workdir,
        "User": changes.user,
        "StopSignal": changes.stop_signal,
    }
    changed |= {key: value for key, value in said.items() if value is not None}
    return {key: value for key, value in changed.items() if value is not None}


def _environment(settings: Document, env: Mapping[str, str]) -> list[str]:
    """The variables as before, those that are set anew in their old place."""
    left = dict(env)
    variables = []
    for variable in settings.strings("Env"):
        name = variable.partition("=")[0]
        if name not in env:
            variables.append(variable)
        elif name in left:
            variables.append(f"{name}={left.pop(name)}")
    return variables + [f"{name}={value}" for name, value in left.items()]


def _moment(seconds: float) -> str:
    """RFC 3339, in UTC."""
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise ImageError(f"{seconds} seconds since 1970 is no time for an image") from error
    return moment.isoformat().replace("+00:00", "Z")
